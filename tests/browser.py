"""Opens the gallery of a site in a headless browser: `python -m tests.browser SITE`
fails if a picture is missing or blank. Needs `playwright` and Chromium."""

import functools
import http.server
import io
import shutil
import sys
import threading

import numpy as np
from eqx_vit.families import families
from PIL import Image
from playwright.sync_api import sync_playwright


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        pass


def main() -> None:
    handler = functools.partial(Quiet, directory=sys.argv[1])
    server = http.server.ThreadingHTTPServer(("localhost", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        # (Without a network, Chromium would wait for its maker's hosts.)
        options = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(options)
        )
        page = browser.new_page()
        page.goto(f"http://localhost:{server.server_port}/gallery/")
        for name in families():
            picture = page.get_by_alt_text(f"What {name} sees", exact=False)
            pixels = np.asarray(Image.open(io.BytesIO(picture.screenshot())))
            assert pixels.shape[1] > 300 and pixels.std() > 20, f"{name} is blank"
        browser.close()
    server.shutdown()
    print(f"{len(families())} pictures")


if __name__ == "__main__":
    main()
