import re
from pathlib import Path

import jax


README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    with jax.numpy_dtype_promotion("standard"):  # as users have it
        for snippet in snippets:
            exec(snippet, names)
    assert capsys.readouterr().out == "(10,)\n(1000,)\n"
    assert len(snippets) == 6 and names["logits"].shape == (1, 1000)


def test_the_shell_commands_of_the_readme_are_those_of_ci():
    """What the README shows, `.ci` runs: its extras, and what it takes from there."""
    folder = Path(__file__).parent.parent / ".ci"
    ci = "".join(path.read_text() for path in folder.iterdir())
    shown = re.findall(r"pip install ([^`&\n]*)", README)
    extras = {e for text in shown for e in re.findall(r"\[([\w,]+)\]", text)}
    assert extras and {e for group in extras for e in group.split(",")} <= set(
        re.findall(r"\w+", ci)
    )
    # What `.ci/run` takes from the README is there, once.
    for wanted in re.findall(r"readme '([^']*)'", ci):
        assert README.count(wanted) >= 1, wanted
