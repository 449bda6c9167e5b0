"""Runs the code of a page of the documentation: `python -m tests.pages PAGE`.

Its Python and shell blocks are run from top to bottom, Python in one interpreter, in
the present folder. Left out are blocks behind a comment `needs: torch timm` where one
of these packages is missing, blocks behind `not run: REASON`, and shell lines that
install or serve, which `.ci/run` has."""

import importlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(
    r"(?:^<!-- (needs|not run): ([^>]*) -->\n+)?^```(python|bash)\n(.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
# Commands that change the environment, take the network, or do not end.
_ELSEWHERE = re.compile(r"(pip install|git clone|mkdocs|pytest|\.ci/|tensorboard)")


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """The language and the code of each block that can be run here. The code begins
    with as many empty lines as the page has before it, for tracebacks."""
    text = page.read_text()
    for block in _BLOCK.finditer(text):
        need, names, language, code = block.groups()
        if need == "not run" or any(map(_is_missing, (names or "").split())):
            continue
        if language == "bash":
            code = "\n".join(
                line for line in code.splitlines() if not _ELSEWHERE.match(line)
            )
        if code.strip():
            yield language, "\n" * text[: block.start(4)].count("\n") + code


def _is_missing(name: str) -> bool:
    return importlib.util.find_spec(name) is None


def main() -> None:
    page = Path(sys.argv[1])
    if not _is_missing("torch"):
        importlib.import_module("tests.parity.conftest")  # which mends torchvision
    names: dict[str, Any] = {"__name__": "page"}
    for language, code in blocks(page):
        if language == "bash":
            subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True)
        else:
            exec(compile(code, str(page), "exec"), names)


if __name__ == "__main__":
    main()
