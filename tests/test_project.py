"""The project's own files hold together."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import llmlab
from llmlab.builds import source

ROOT = Path(__file__).parent.parent
LOCKS = sorted(ROOT.glob("requirements*.lock"))
DOCUMENTS = [
    path for name in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md") if (path := ROOT / name).exists()
]


def _make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_lock_names_no_address(path):
    text = path.read_text()
    pins = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert "://" not in text
    assert " @ " not in pins
    assert not re.search(r"^\s*--(?!hash=)", pins, re.MULTILINE)
    assert not re.search(r"^\s*-[a-z]", pins, re.MULTILINE)


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_lock_pins_every_package_by_hash(path):
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE))
    lines = [line for line in text.splitlines() if line.strip()]
    assert lines
    for line in lines:
        assert re.match(r"[a-z0-9.-]+==\S+ ", line), line
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), line


def test_lock_holds_what_the_project_asks_for():
    pinned = set(re.findall(r"^([a-z0-9.-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    asked = re.findall(
        r'^(?:    |[a-z]+ = \[|.*, )?"([A-Za-z0-9-]+)(?:\[\w+\])?[<>=]', _dependency_tables(), re.MULTILINE
    )
    assert len(asked) > 10
    missing = {name.lower() for name in asked} - pinned - {"llama-cpp-python"}
    assert missing == set()


def _dependency_tables() -> str:
    text = (ROOT / "pyproject.toml").read_text()
    return text[text.index("\ndependencies = [") : text.index("[project.scripts]")].replace(", ", "\n    ")


def test_source_package_is_pinned_once():
    lock = (ROOT / "requirements-llama.lock").read_text()
    assert f"llama-cpp-python=={source.VERSION} " in lock
    assert f"--hash=sha256:{source.SHA256}" in lock
    assert f"llama-cpp-python=={source.VERSION}\n" in (ROOT / "Makefile").read_text()
    assert f'"llama-cpp-python[server]=={source.VERSION}"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_make_commands_in_documents_exist(path):
    code = "\n".join(re.findall(r"`+[^`]+`+", path.read_text()))
    named = set(re.findall(r"\bmake ([a-z]+)\b", code))
    assert named <= _make_targets()


def test_help_lists_the_targets():
    done = subprocess.run(["make", "-C", str(ROOT)], check=True, capture_output=True, text=True)
    for target in ("lab", "demo", "test", "check"):
        assert re.search(rf"^  {target} +\S", done.stdout, re.MULTILINE)


def test_phony_targets_are_all_documented():
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == _make_targets()


def test_imports_point_down_only():
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", llmlab.__all__)
def test_public_name_imports(name):
    assert getattr(llmlab, name) is not None


def test_lazy_names_are_the_public_ones():
    assert set(llmlab.__all__) == set(llmlab._EXPORTS) | {"__version__"}
    for name, module in llmlab._EXPORTS.items():
        assert hasattr(importlib.import_module(f"llmlab.{module}"), name)
