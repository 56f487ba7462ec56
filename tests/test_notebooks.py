"""The notebooks run from the first to the last cell, with containers and without."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

REPOSITORY = Path(__file__).parent.parent
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
FIRST = REPOSITORY / "notebooks" / "01-first-model.ipynb"
NOWHERE = "unix:///no/such/docker.sock"


def executed(path: Path) -> dict[str, nbformat.NotebookNode]:
    """The cells of a notebook by their ids, after a run in a kernel of its own."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=120,
        store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    return {cell.id: cell for cell in notebook.cells}


def shown(cell: nbformat.NotebookNode) -> str:
    """What a cell shows, as text."""
    parts = []
    for output in cell.outputs:
        parts.append(output.get("text", ""))
        parts += output.get("traceback", [])
        parts.append(output.get("data", {}).get("text/plain", ""))
    return "\n".join(filter(None, parts))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_it_was_written(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [], cell.id
            assert cell.execution_count is None, cell.id


def test_a_lesson_says_what_it_is_for_and_how_long_it_takes():
    start = nbformat.read(FIRST, as_version=4).cells[0].source
    assert "**Questions**" in start
    assert "**Objectives**" in start
    assert "minutes" in start


def check_first_notebook(cells: dict[str, nbformat.NotebookNode]) -> None:
    """What holds with containers and without."""
    for name, cell in cells.items():
        if cell.cell_type == "code" and "raises-exception" not in cell.metadata.get("tags", []):
            assert all(output.output_type != "error" for output in cell.outputs), name
    assert "✓ start tiny" in shown(cells["start-plain"])
    assert "llmlab.start('tiny', backend='native', name='plain')" in shown(cells["start-plain"])
    for name in ("ask", "assign", "off-subject", "long-ask", "ask-plain", "ask-boxed"):
        assert len(cells[name].outputs) == 1, f"{name}: an answer is shown once"
        assert "TTFT" in shown(cells[name])
    assert "container" in shown(cells["ask"]).lower()
    assert shown(cells["ask-plain"]).split("\n")[0]
    assert "ended length" in shown(cells["short"])
    assert shown(cells["typo"]).strip().count("\n") == 0
    assert "did you mean 'tiny'?" in shown(cells["typo"])
    assert "→" in shown(cells["no-file"]), "an error says what to do next"
    assert "stopped boxed, plain" in shown(cells["stop-all"])
    assert "No server is left" in shown(cells["check"])


def test_the_first_notebook_with_containers(require_engine, require_docker):
    cells = executed(FIRST)
    check_first_notebook(cells)
    assert "image" in shown(cells["start-boxed"])
    assert "note:" not in shown(cells["start-boxed"])
    assert "sealed" in shown(cells["ps"])
    receipt = shown(cells["inspect"])
    assert "DIFFERS" not in receipt
    assert "only loopback" in receipt
    assert "dropped ALL" in receipt


def test_the_first_notebook_without_a_container_engine(require_engine, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", NOWHERE)
    cells = executed(FIRST)
    check_first_notebook(cells)
    note = shown(cells["start-boxed"])
    assert "note:" in note
    assert "install" in note, "it says how to get a container engine"
    assert "container" not in shown(cells["ps"])


def test_the_demo_shows_the_notebook_and_leaves_a_page_without_foreign_scripts(require_engine, tmp_path):
    page = tmp_path / "page.html"
    command = [sys.executable, "tools/demo.py", str(FIRST), "--html", str(page)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '%llm ask "What is a container?"' in done.stdout
    assert "TTFT" in done.stdout
    html = page.read_text()
    assert "TTFT" in html
    assert "<script" not in html


def test_the_demo_fails_when_a_cell_fails(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    path = tmp_path / "broken.ipynb"
    path.write_text(json.dumps(notebook))
    command = [sys.executable, str(REPOSITORY / "tools" / "demo.py"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stdout
