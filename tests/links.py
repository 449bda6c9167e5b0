"""Checks the links of a built site: `python -m tests.links SITE` fails where a link or
a picture within the site leads to a page, a file or an anchor that is not there."""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit


class Page(HTMLParser):
    """The addresses and the anchors of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if name in ("href", "src"):
                self.links.append(value)
            elif name in ("id", "name"):
                self.anchors.add(value)


def dead_links(site: Path) -> list[str]:
    """A line for each link that leads nowhere.

    **Arguments:**

    - `site`: The folder of a built site.
    """
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    dead = []
    for path, page in pages.items():
        if path.name == "404.html":  # whose addresses are of the published site
            continue
        here = f"http://site/{path.relative_to(site).as_posix()}"
        for link in page.links:
            address = urlsplit(urljoin(here, link))
            if address.netloc != "site":
                continue
            target = site / unquote(address.path).lstrip("/")
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(address.fragment)
            missing = not target.is_file() or (
                anchor and target in pages and anchor not in pages[target].anchors
            )
            if missing and not anchor.startswith("__"):  # which Material's script makes
                dead.append(f"{path.relative_to(site)}: {link}")
    return dead


if __name__ == "__main__":
    found = dead_links(Path(sys.argv[1]))
    print(*found, f"{len(found)} dead links", sep="\n")
    raise SystemExit(bool(found))
