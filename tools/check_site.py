"""Check a built site of the documentation, without a network.

    .venv/bin/python tools/check_site.py build/docs

Each relative link and its anchor must lead to something that is there, and no page,
style sheet or script may be loaded from elsewhere: the site has to work from a USB
stick by file://. Links that a reader may follow to other sites are not followed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

# Tag → attributes that make a browser load something by itself.
_LOADED = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "image": ("href", "xlink:href"),
    "img": ("src", "srcset"),
    "input": ("src",),
    "link": ("href",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "track": ("src",),
    "use": ("href", "xlink:href"),
    "video": ("src", "poster"),
}
_ONLY_TOLD = {"canonical", "alternate", "author", "license"}  # kinds of <link> that load nothing
_ELSEWHERE = re.compile(r"^(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_IN_STYLES = re.compile(r"""url\(\s*['"]?([^'")]+)|@import\s+['"]([^'"]+)""")
_IN_SCRIPTS = re.compile(
    r"""(?:import\s*\(|\bfrom|\bimport|fetch\s*\(|importScripts\s*\(|\.src\s*=)\s*['"`]((?:https?:)?//[^'"`]+)"""
)


@dataclass
class Page:
    """What a page holds.

    Attributes:
        anchors: Its ids and names.
        links: What a reader may follow.
        loaded: What a browser loads by itself.
    """

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._inside = tag
        self.page.anchors.update(values[name] for name in ("id", "name") if values.get(name))
        self.page.loaded.extend(_in_styles(values.get("style", "")))
        if tag in {"a", "area"} and "href" in values:
            self.page.links.append(values["href"])
        elif tag == "link" and set(values.get("rel", "").split()) <= _ONLY_TOLD | {
            "next",
            "prev",
            "index",
            "search",
        }:
            self.page.links.append(values.get("href", ""))
        else:
            for name in _LOADED.get(tag, ()):
                found = values.get(name, "")
                parts = found.split(",") if name == "srcset" else [found]
                self.page.loaded.extend(part.split()[0] for part in parts if part.strip())

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.page.loaded.extend(_in_styles(data))
        elif self._inside == "script":
            self.page.loaded.extend(_IN_SCRIPTS.findall(data))

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 - the parser gives it
        self._inside = ""


def problems(site: Path) -> list[str]:
    """What is wrong with a site, a line for each fault; the empty list if nothing is.

    Args:
        site: The folder with its index.html.
    """
    pages = {path: _read(path) for path in sorted(site.rglob("*.html"))}
    found = [] if (site / "index.html") in pages else ["index.html: missing"]
    for path, page in pages.items():
        name = path.relative_to(site)
        found += [f"{name}: {fault}" for link in page.links if (fault := _broken(link, path, site, pages))]
        found += [f"{name}: {fault}" for asset in page.loaded if (fault := _foreign(asset, path, site))]
    for path in sorted([*site.rglob("*.css"), *site.rglob("*.js")]):
        text = path.read_text("utf-8", errors="replace")
        assets = _in_styles(text) if path.suffix == ".css" else _IN_SCRIPTS.findall(text)
        name = path.relative_to(site)
        found += [f"{name}: {fault}" for asset in assets if (fault := _foreign(asset, path, site))]
    return found


def _read(path: Path) -> Page:
    reader = _Reader()
    reader.feed(path.read_text("utf-8"))
    reader.close()
    return reader.page


def _in_styles(text: str) -> Iterator[str]:
    return (one or other for one, other in _IN_STYLES.findall(text))


def _broken(link: str, path: Path, site: Path, pages: dict[Path, Page]) -> str:
    """Why a link leads nowhere; "" if it does not, or is of another site."""
    if not link or _ELSEWHERE.match(link) or _SCHEME.match(link):
        return "" if link else "a link without a target"
    place, _, anchor = link.partition("#")
    target, fault = _local(place, path, site)
    if fault:
        return fault
    if anchor and target in pages and unquote(anchor) not in pages[target].anchors:
        return f"{link}: no such anchor"
    return ""


def _foreign(asset: str, path: Path, site: Path) -> str:
    """Why something that is loaded cannot be had from the site itself; "" if it can."""
    if asset.startswith(("data:", "#")):
        return ""
    if _ELSEWHERE.match(asset) or _SCHEME.match(asset):
        return f"{asset}: loaded from elsewhere"
    return _local(asset.partition("#")[0], path, site)[1]


def _local(place: str, path: Path, site: Path) -> tuple[Path, str]:
    """A file of the site, and why it is none."""
    place = unquote(place.partition("?")[0])
    if place.startswith("/"):
        return path, f"{place}: absolute, so it is not there on a USB stick"
    target = (path.parent / place).resolve() if place else path
    if not target.is_relative_to(site.resolve()):
        return target, f"{place}: outside of the site"
    return (target, "") if target.is_file() else (target, f"{place}: no such file")


def main() -> int:
    """Print what is wrong; the exit status is 1 if anything is."""
    if len(sys.argv) != 2:  # noqa: PLR2004 - the program and the folder
        print(f"usage: {sys.argv[0]} FOLDER", file=sys.stderr)
        return 2
    site = Path(sys.argv[1]).resolve()
    found = problems(site)
    print("\n".join(found) or f"{site}: links and anchors resolve, nothing is loaded from elsewhere")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
