"""Which room of the package may import which, and who may name an architecture."""

import ast
import re
from pathlib import Path

import eqx_vit
import pytest
from eqx_vit.families import families


PACKAGE = Path(eqx_vit.__file__).parent
LEGAL = {
    "layers": set(),
    "models": {"layers"},
    "families": {"layers", "models"},
    "data": {"_lazy"},
    "training": {"layers", "families"},
    "pretrained": {"layers", "families", "data"},
    "interpret": {"layers", "families", "training"},
    "deploy": {"layers", "training"},
    "cli": {"layers", "families", "data", "training", "pretrained", "interpret"}
    | {"deploy", "__version__"},
}


def imported(room):
    """The rooms that the modules of a room import."""
    for path in (PACKAGE / room).rglob("*.py"):
        package = path.relative_to(PACKAGE).parts[:-1]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = package[: len(package) - node.level + 1]
                names = [a.name for a in node.names] if not node.module else [""]
                for name in names:
                    yield (*base, *(node.module or name).split("."))[0]


@pytest.mark.parametrize("room", LEGAL)
def test_rooms_import_no_room_above(room):
    assert set(imported(room)) - {room} <= LEGAL[room]
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir()} >= set(LEGAL)


def test_only_models_and_families_name_an_architecture():
    """In code: docstrings and comments may give examples."""
    for room in set(LEGAL) - {"models", "families"}:
        for path in (PACKAGE / room).rglob("*.py"):
            tree = ast.parse(path.read_text())
            names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
            names |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
            names |= set(re.findall(r"import (\w+)", path.read_text()))
            assert not names & set(families()), path
