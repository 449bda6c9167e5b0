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
    assert len(snippets) == 5 and names["logits"].shape == (1, 1000)


def test_the_shell_commands_of_the_readme_are_those_of_ci():
    ci = (Path(__file__).parent.parent / ".ci" / "run").read_text()
    commands = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    assert len(commands) == 6
    assert "README.md" in ci  # it runs them as they stand there
