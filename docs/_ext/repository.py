"""What stands outside of docs/ and belongs to the site: notebooks, and files such as ARCHITECTURE.md.

Notebooks are copied into `_tutorials/`, which git ignores, before the site is read.
Files of the repository are taken in with MyST's `{include}`. Links in both are
written for a reader of the repository, so they are turned here into links of the site.
"""  # noqa: INP001 - Sphinx finds it by its folder

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

REPOSITORY = Path(__file__).parent.parent.parent
DOCS = REPOSITORY / "docs"
NOTEBOOKS = REPOSITORY / "notebooks"
EXECUTED = REPOSITORY / "build" / "notebooks"
TUTORIALS = DOCS / "_tutorials"

# Files of the repository → the page that includes them.
PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "about/design.md",
    "CHANGELOG.md": "about/changelog.md",
    "CONTRIBUTING.md": "about/contributing.md",
    "SECURITY.md": "about/security.md",
    "bench/README.md": "results/benchmarks.md",
    "bench/gpu/README.md": "results/gpu-benchmarks.md",
    "bench/results/gpu/summary.md": "results/gpu-h100.md",
}
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]`]|`[^`]*`)*)\]\((?P<target>[^()\s]+)\)")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")


def relocate(text: str, *, written_in: Path, shown_in: Path) -> str:
    """Turn the relative links of a Markdown text into links of the site.

    Args:
        text: The Markdown.
        written_in: The folder that its links are relative to.
        shown_in: The folder of the page on which it appears.

    Returns:
        The same with its links pointing to pages and pictures of the site. A link
        to a file that is not part of the site becomes the file's path as code; one
        to nothing stays, so that the build complains of it.
    """

    def replace(link: re.Match[str]) -> str:
        path, hash_sign, anchor = link["target"].partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return link[0]
        found = Path(os.path.normpath(written_in / path))
        if found.parent == NOTEBOOKS and found.suffix == ".ipynb":
            found = TUTORIALS / found.name
        if found.is_relative_to(REPOSITORY):
            name = found.relative_to(REPOSITORY).as_posix()
            if name in PAGES:
                found = DOCS / PAGES[name]
            elif not found.is_relative_to(DOCS) and found.exists():
                text = link["text"].strip("`")
                return f"`{name}`" if text in name else f"{link['text']} (`{name}`)"
        target = os.path.relpath(found, shown_in)
        return f"{link['image']}[{link['text']}]({target}{hash_sign}{anchor})"

    return "".join(part if code else _LINK.sub(replace, part) for code, part in _parts(text))


def _parts(text: str) -> Iterator[tuple[bool, str]]:
    """Split Markdown into what is code in fences and what is not."""
    fence, lines = "", list[str]()
    for line in text.splitlines(keepends=True):
        mark = _FENCE.match(line)
        if not fence and mark:
            yield False, "".join(lines)
            fence, lines = mark[1], [line]
        elif fence and mark and mark[1].startswith(fence) and line.strip() == mark[1]:
            yield True, "".join([*lines, line])
            fence, lines = "", []
        else:
            lines.append(line)
    yield bool(fence), "".join(lines)


def copy_notebooks() -> list[Path]:
    """Copy the notebooks into the site's source, with the outputs of those that were executed."""
    TUTORIALS.mkdir(exist_ok=True)
    made = []
    for original in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = _with_outputs(original)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                text = "".join(cell["source"])
                cell["source"] = relocate(text, written_in=NOTEBOOKS, shown_in=TUTORIALS)
        # Widgets need scripts from elsewhere; their HTML stands beside them.
        notebook["metadata"].pop("widgets", None)
        notebook["metadata"].setdefault("language_info", {})["pygments_lexer"] = "ipython3"
        made.append(TUTORIALS / original.name)
        content = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        if not made[-1].exists() or made[-1].read_text("utf-8") != content:
            made[-1].write_text(content, "utf-8")
    for stale in set(TUTORIALS.glob("*.ipynb")) - set(made):
        stale.unlink()
    return made


def _with_outputs(original: Path) -> dict[str, Any]:
    """A notebook; the copy that `make notebooks` has executed, unless it is older than the text."""
    found: dict[str, Any] = json.loads(original.read_text("utf-8"))
    try:
        executed: dict[str, Any] = json.loads((EXECUTED / original.name).read_text("utf-8"))
    except (OSError, ValueError):  # none was executed, or one is just being written
        return found
    return executed if _sources(executed) == _sources(found) else found


def _sources(notebook: dict[str, Any]) -> list[tuple[str, str]]:
    return [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]


def _on_page(app: Sphinx, docname: str, source: list[str]) -> None:
    path = Path(app.env.doc2path(docname))
    if path.suffix == ".md":
        source[0] = relocate(source[0], written_in=path.parent, shown_in=path.parent)


def _on_include(app: Sphinx, path: Path, _docname: str, source: list[str]) -> None:
    included = Path(os.path.normpath(app.srcdir / path))
    # MyST gives the last part of the page's name only.
    page = Path(app.env.doc2path(app.env.docname))
    source[0] = relocate(source[0], written_in=included.parent, shown_in=page.parent)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx; the notebooks are copied at once."""
    copy_notebooks()
    app.connect("source-read", _on_page)
    app.connect("include-read", _on_include)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
