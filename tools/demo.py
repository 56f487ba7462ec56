"""Run a notebook without a browser: its cells and outputs in the terminal, and as HTML.

    python tools/demo.py notebooks/01-first-model.ipynb --html build/01-first-model.html

Exit status 1 if a cell fails that is not meant to fail (tag `raises-exception`).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

# The page holds all it needs: no scripts from elsewhere.
TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
"""
_ESCAPES = {"dim": "2", "bold": "1"}


def styled(text: str, style: str) -> str:
    """The text, dimmed or bold where the terminal can."""
    if not sys.stdout.isatty():
        return text
    return "\n".join(f"\x1b[{_ESCAPES[style]}m{line}\x1b[0m" for line in text.split("\n"))


class Screen:
    """Prints outputs as they come; one that is updated is printed as it grows."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}  # display id → its text so far
        self._open = ""  # the display whose last line is not finished

    def write(self, text: str) -> None:
        """Text that is complete."""
        self._finish()
        print(text.rstrip("\n"), flush=True)

    def display(self, text: str, display_id: str) -> None:
        """A display, or a new state of it."""
        before = self._shown.get(display_id, "")
        if text == before:
            return
        if before and not text.startswith(before):
            self._replace(before, text, display_id)
        else:
            if self._open != display_id:
                self._finish()
            print(text[len(before) :], end="", flush=True)
        self._shown[display_id] = text
        self._open = display_id

    def end_cell(self) -> None:
        """No display is updated by a later cell."""
        self._finish()
        self._shown.clear()

    def _replace(self, before: str, text: str, display_id: str) -> None:
        """Print over the old state where the terminal can, else below it."""
        if sys.stdout.isatty() and self._open == display_id:
            up = before.count("\n")
            print(f"\r\x1b[{up}A\x1b[J" if up else "\r\x1b[J", end="")
        else:
            self._finish()
        print(text, end="", flush=True)

    def _finish(self) -> None:
        if self._open:
            print(flush=True)
            self._open = ""


class Demo(NotebookClient):
    """Runs the cells and shows what the kernel sends."""

    screen: Screen

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        """Let nbclient keep a message, and show it at once in a terminal."""
        kept = super().process_message(msg, cell, cell_index)
        content = msg["content"]
        if not sys.stdout.isatty():
            return kept  # a pipe gets the final state of all outputs when the cell ends
        if msg["msg_type"] == "stream":
            self.screen.write(content["text"])
        elif msg["msg_type"] == "error":
            self.screen.write("\n".join(content["traceback"]))
        elif msg["msg_type"] in {"display_data", "update_display_data", "execute_result"}:
            text = content["data"].get("text/plain", "")
            if display_id := content.get("transient", {}).get("display_id"):
                self.screen.display(text, display_id)
            else:
                self.screen.write(text)
        return kept


def run(path: Path) -> tuple[Any, bool]:
    """Run the notebook; returns it with its outputs, and whether all went well."""
    notebook = nbformat.read(path, as_version=4)
    demo = Demo(
        notebook,
        kernel_name="python3",
        timeout=1800,  # the first start may compile the engine
        store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    demo.screen = Screen()
    number = 0
    with demo.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            if cell.cell_type == "markdown":
                print(f"\n{styled(cell.source, 'dim')}", flush=True)
                continue
            number += 1
            source = cell.source.replace("\n", "\n" + " " * (len(str(number)) + 4))
            print("\n" + styled(f"[{number}]: {source}", "bold"), flush=True)
            try:
                demo.execute_cell(cell, index)
            except CellExecutionError:
                return notebook, False
            finally:
                if not sys.stdout.isatty():
                    show_outputs(cell, demo.screen)
                demo.screen.end_cell()
    return notebook, True


def show_outputs(cell: Any, screen: Screen) -> None:
    """All outputs of a cell, in their order on the page."""
    for output in cell.outputs:
        if output.output_type == "stream":
            screen.write(output.text)
        elif output.output_type == "error":
            screen.write("\n".join(output.traceback))
        else:
            screen.write(output.data.get("text/plain", ""))


def write_html(notebook: Any, path: Path) -> None:
    """Leave the notebook with its outputs as one page."""
    page, _ = HTMLExporter(raw_template=TEMPLATE).from_notebook_node(notebook)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--html", type=Path, help="leave the notebook with its outputs here")
    options = parser.parse_args()
    notebook, passed = run(options.notebook)
    if options.html:
        write_html(notebook, options.html)
        print(f"\n{options.html} holds the notebook with its outputs.")
    if not passed:
        print("The notebook stopped at a cell that should not fail.", file=sys.stderr)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
