"""After each fault, what there is must be what there was."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import inventory


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for temporary files of the test's own, for what it starts, too."""
    folder = Path(tempfile.mkdtemp(prefix="tmp-"))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def nothing_left(isolated_runtime: Path, temporary: Path) -> Iterator[None]:
    """The same inventory after the test as before; the test has stopped what it started."""
    before = inventory.take(isolated_runtime, temporary)
    yield
    left = inventory.left(isolated_runtime, temporary, before)
    assert left == [], "left behind:\n" + "\n".join(left)
