"""The pages: their code runs, and what they say of the project is so."""

import dataclasses
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import eqx_vit
import jax
import jax.random as jr
import pytest

from .hub import Hub, serving
from .links import dead_links
from .pages import blocks, PAGES, ROOT


README = (ROOT / "README.md").read_text()
NAME = "vit_tiny_patch16_224"


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    """The address of a hub that has what the pages download, with random weights."""
    folder = tmp_path_factory.mktemp("hub")
    record = eqx_vit.zoo[NAME]
    model, state = eqx_vit.create_model(NAME, key=jr.key(0))
    file = folder / "published" / str(record.file)
    file.parent.mkdir()
    eqx_vit.save_weights(model, file, state)
    pets = eqx_vit.ViT(
        image_size=32,
        patch_size=8,
        num_classes=3,
        dim=32,
        depth=2,
        heads=2,
        dim_head=16,
        mlp_dim=80,
        qkv_bias=True,
        key=jr.key(0),
    )
    small = dataclasses.replace(record, image_size=(32, 32), crop=1.0)
    classes = ("cat", "dog", "emu")
    eqx_vit.save_pretrained(pets, folder / "pets", classes=classes, record=small)
    hub = Hub()
    hub.add(str(record.source), file.parent)
    hub.add("user/pets", folder / "pets")
    with serving(hub) as address:
        yield address


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(blocks(page))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_code_of_a_page_runs(page, hub, tmp_path, tmp_path_factory):
    environment = os.environ | {
        "HF_ENDPOINT": hub,
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_DISABLE_XET": "1",
        # Pages and commands share what they compile.
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.getbasetemp() / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PLATFORMS": "cpu",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    work = tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-m", "tests.pages", str(page)]
    done = subprocess.run(
        command, cwd=work, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def test_the_first_example_of_the_readme_says_what_it_prints(capsys):
    code = next(code for language, code in blocks(PAGES[0]) if language == "python")
    with jax.numpy_dtype_promotion("standard"):  # as users have it
        exec(code, {})
    printed = capsys.readouterr().out.strip()
    assert f"# {printed}\n" in code


def test_the_shell_commands_of_the_readme_are_those_of_ci():
    """What the README shows, `.ci` runs: its extras, and what it takes from there."""
    folder = ROOT / ".ci"
    ci = "".join(path.read_text() for path in folder.iterdir())
    shown = re.findall(r"pip install ([^`&\n]*)", README)
    extras = {e for text in shown for e in re.findall(r"\[([\w,]+)\]", text)}
    assert extras and {e for group in extras for e in group.split(",")} <= set(
        re.findall(r"\w+", ci)
    )
    # What `.ci/run` takes from the README is there, once.
    for wanted in re.findall(r"readme '([^']*)'", ci):
        assert README.count(wanted) >= 1, wanted


def test_the_site_has_the_addresses_of_the_project():
    site = (ROOT / "mkdocs.yml").read_text()
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    assert f"site_url: {urls['Documentation']}\n" in site
    assert f"repo_url: {urls['Source']}\n" in site


def test_every_page_is_in_the_navigation():
    site = (ROOT / "mkdocs.yml").read_text()
    missing = [p for p in PAGES[1:] if str(p.relative_to(ROOT / "docs")) not in site]
    assert not missing


@pytest.mark.parametrize(
    "link, dead",
    [
        ("b.html#there", False),
        ("c.html", True),
        ("b.html#elsewhere", True),
        ("#here", True),
        ("https://example.org/c.html", False),
    ],
)
def test_a_dead_link_is_found(tmp_path, link, dead):
    (tmp_path / "a.html").write_text(f'<a href="{link}">link</a>')
    (tmp_path / "b.html").write_text('<h2 id="there">There</h2>')
    assert bool(dead_links(tmp_path)) == dead
