"""Opens every page of a built site in a browser: `python -m tests.browser SITE` fails
where a page is wider than the window, lacks a picture, is too high, or is not the first
that the search finds. Needs `playwright` and Chromium."""

import contextlib
import functools
import http.server
import io
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from eqx_vit.families import families
from PIL import Image
from playwright.sync_api import Page, sync_playwright


WIDTHS = (1400, 390)
HIGHEST = 15_000
# The table of all published checkpoints.
UNLIMITED = ("choose_a_model/",)
FOUND = {
    "fine-tune": "fine_tune/",
    "backbone": "backbone/",
    "transformers": "checkpoints/",
    "changelog": "changelog/",
}
# Elements that stick out of the page, unless something around them scrolls or clips.
WIDE = """() => [...document.querySelectorAll("body *")].filter(element => {
  const box = element.getBoundingClientRect();
  if (!box.width || !box.height || box.right <= innerWidth + 1) return false;
  for (let e = element; e !== document.body; e = e.parentElement) {
    const style = getComputedStyle(e);
    if (style.overflowX !== "visible" || style.position === "fixed") return false;
  }
  return true;
}).map(e => e.outerHTML.slice(0, 120))"""
BROKEN = """() => Promise.all([...document.images].map(image => {
  image.loading = "eager";
  return image.decode().then(() => null, () => image.src);
})).then(sources => sources.filter(source => source))"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        pass


@contextlib.contextmanager
def serving(site: str) -> Iterator[str]:
    """The address of a server for a folder."""
    handler = functools.partial(Quiet, directory=site)
    server = http.server.ThreadingHTTPServer(("localhost", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}/"
    finally:
        server.shutdown()


@contextlib.contextmanager
def browsing() -> Iterator[Page]:
    """A page of Chromium."""
    # (Without a network, Chromium would wait for its maker's hosts.)
    options = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(options)
        )
        yield browser.new_page()
        browser.close()


def faults(page: Page, address: str, name: str) -> Iterator[str]:
    """What is wrong with a page, at each width."""
    page.goto(address + name)
    yield from (f"{name}: no picture {src}" for src in page.evaluate(BROKEN))
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        if wide := page.evaluate(WIDE):
            yield f"{name} at {width} pixels: too wide: {wide[:3]}"
        height = page.evaluate("document.documentElement.scrollHeight")
        if height > HIGHEST and name not in UNLIMITED:
            yield f"{name} at {width} pixels: {height} pixels high"


def found(page: Page, address: str, words: str) -> str:
    """The address of the first result of a search."""
    page.set_viewport_size({"width": 1400, "height": 900})
    page.goto(address)
    page.locator(".md-search__input").click()
    page.keyboard.type(words)
    first = page.locator(".md-search-result__link").first
    first.wait_for()
    return (first.get_attribute("href") or "").partition("?")[0]


def check_gallery(page: Page, address: str) -> None:
    page.goto(f"{address}gallery/")
    for name in families():
        picture = page.get_by_alt_text(f"What {name} sees", exact=False)
        pixels = np.asarray(Image.open(io.BytesIO(picture.screenshot())))
        assert pixels.shape[1] > 300 and pixels.std() > 20, f"{name} is blank"


def check_zoo(page: Page, address: str) -> None:
    """The table of checkpoints is sorted and filtered in the page."""
    page.goto(f"{address}choose_a_model/")
    column = page.locator(".models tbody tr:visible td:nth-child(1)")
    everything = column.count()
    page.locator(".models input").fill("cait_xxs")
    names = column.all_inner_texts()
    assert 0 < len(names) < everything and all("cait_xxs" in n for n in names), names
    page.locator(".models input").fill("levit")
    page.get_by_role("columnheader", name="top-1").click()
    texts = page.locator(".models tbody tr:visible td:nth-child(2)").all_inner_texts()
    numbers = [float(text) for text in texts if text.strip()]
    assert numbers == sorted(numbers, reverse=True) and len(set(numbers)) > 3, texts


def main() -> None:
    site = Path(sys.argv[1])
    pages = [path.parent for path in sorted(site.rglob("index.html"))]
    names = [f"{path.relative_to(site)}/".removeprefix("./") for path in pages]
    with serving(str(site)) as address, browsing() as page:
        wrong = [fault for name in names for fault in faults(page, address, name)]
        for words, wanted in FOUND.items():
            if (
                not (link := found(page, address, words))
                .partition("#")[0]
                .endswith(wanted)
            ):
                wrong.append(f"{words!r} finds {link}, not {wanted}")
        if wrong:
            raise SystemExit("\n".join(wrong))
        check_gallery(page, address)
        check_zoo(page, address)
    print(f"{len(names)} pages, {len(families())} pictures")


if __name__ == "__main__":
    main()
