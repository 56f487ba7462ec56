"""Run the notebooks from the first to the last cell, in each mode, and say how it went.

    python -m tools.notebooks                          # all notebooks, in each mode there is here
    python -m tools.notebooks --mode "native" 01 02    # these, without a container engine

Each notebook runs three times in each mode: as it is committed, with the
instructor's answers in place of its `...`, and with wrong ones, which must be
refused with a hint. Executed copies are left in build/notebooks, as notebooks
and as pages. Exit status 1 if anything failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import nbformat
from tools import binder, demo
from tools.answers import VARIANTS, Variant, lesson_of
from tools.rehearsal import MODES, Mode, Run, rehearse, run_from_dict

from llmlab.backends import backend

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDER = REPOSITORY / "build" / "notebooks"
# Whose copies are for readers: the first of these that was run.
_READ: tuple[Mode, ...] = ("container", "native")
_RESULTS = "results.json"


def find(names: Sequence[str] = ()) -> list[Path]:
    """The notebooks.

    Args:
        names: Names or their beginnings, such as "01"; () means all.

    Raises:
        SystemExit: There is none of that name.
    """
    paths = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
    if unknown := [name for name in names if not any(path.stem.startswith(name) for path in paths)]:
        known = ", ".join(path.stem for path in paths)
        raise SystemExit(f"no notebook is called {', '.join(unknown)}; there are {known}")
    return [path for path in paths if not names or path.stem.startswith(tuple(names))]


def variants_of(path: Path) -> tuple[Variant, ...]:
    """The ways to run a notebook: one that asks for nothing runs as it is."""
    return VARIANTS if lesson_of(nbformat.read(path, as_version=4)) else VARIANTS[:1]


def unavailable(mode: Mode) -> str:
    """Why a mode cannot be had on this machine; "" if it can."""
    if mode == "container":
        problem = backend("container").unavailable()
        return problem.message if problem else ""
    return binder.unavailable() if mode == "binder" else ""


def run_here(paths: Iterable[Path], mode: Mode, variants: Sequence[Variant], folder: Path) -> Iterator[Run]:
    """Run notebooks on this machine as it is; their copies go to `folder`."""
    for path in paths:
        for variant in variants_of(path):
            if variant in variants:
                run, notebook = rehearse(path, mode, variant)
                write(notebook, folder, path.stem, variant)
                yield run


def run_in_binder(
    paths: Iterable[Path], variants: Sequence[Variant], folder: Path, image: Path
) -> Iterator[Run]:
    """Run notebooks where Binder would; each in a session of its own."""
    out = image / "home" / "build" / "notebooks"
    for path in paths:
        shutil.rmtree(out, ignore_errors=True)
        command = ["python", "-m", "tools.notebooks", "--inside", "--out", "build/notebooks"]
        command += ["--variants", ",".join(variants), path.stem]
        session = binder.session(image, command)
        if not (out / _RESULTS).is_file():
            last = (session.output.strip().splitlines() or [""])[-1]
            problem = f"the session ended with {session.status}: {last}"
            yield Run(notebook=path.stem, mode="binder", variant=variants[0], problem=problem)
            continue
        folder.mkdir(parents=True, exist_ok=True)
        for left in out.iterdir():
            if left.name != _RESULTS:
                (folder / left.name).write_bytes(left.read_bytes())
        for data in json.loads((out / _RESULTS).read_bytes()):
            run = replace(run_from_dict(data), session_mib=session.peak_mib)
            if session.killed:
                killed = f"a process took more memory than {binder.LIMIT_MIB} MiB and was ended"
                run = replace(run, problem="; ".join(filter(None, [run.problem, killed])))
            yield run


def write(notebook: nbformat.NotebookNode, folder: Path, name: str, variant: Variant) -> None:
    """Leave an executed notebook as notebook and page."""
    folder.mkdir(parents=True, exist_ok=True)
    if variant != "as committed":
        name += f".{variant.replace(' ', '-')}"
    nbformat.write(notebook, folder / f"{name}.ipynb")
    demo.write_html(notebook, folder / f"{name}.html")


def offer(modes: Sequence[Mode], paths: Sequence[Path], folder: Path) -> None:
    """Put the copies that are for readers where the documentation takes them from."""
    if mode := next((mode for mode in _READ if mode in modes), None):
        for path in paths:
            for ending in ("ipynb", "html"):
                source = folder / mode / f"{path.stem}.{ending}"
                if source.is_file():
                    (folder / source.name).write_bytes(source.read_bytes())


_ROW = "{:<28} {:<9} {:<16} {:>5} {:>6} {:>7} {:>8}  {}"
_HEAD = ("notebook", "mode", "answers", "cells", "passed", "minutes", "peak MiB", "")


def row(run: Run) -> str:
    """One line on a run."""
    tasks = len(run.passed) + len(run.open)
    how = "ok" if run.ok else f"FAILED: {run.problem}"
    if run.ok and run.not_here:
        how += f", {len(run.not_here)} not possible here"
    peak = "unknown" if run.peak_mib is None else run.peak_mib
    if run.session_mib is not None:
        peak = f"{peak}/{run.session_mib}"
    passed = f"{len(run.passed)}/{tasks}" if tasks or run.not_here else ""
    minutes = f"{run.seconds / 60:.2f}"
    return _ROW.format(run.notebook, run.mode, run.variant, run.cells, passed, minutes, peak, how)


def run_all(modes: Sequence[Mode], paths: Sequence[Path], folder: Path) -> list[Run]:
    """Run the notebooks in the modes, with a line for each run as it ends."""
    print(_ROW.format(*_HEAD).rstrip(), flush=True)
    runs = []
    for mode in modes:
        into = folder / mode
        if mode == "binder":
            with binder.image() as image:
                found = list(_said(run_in_binder(paths, VARIANTS, into, image)))
        else:
            found = list(_said(run_here(paths, mode, VARIANTS, into)))
        runs += found
    offer(modes, paths, folder)
    return runs


def _said(runs: Iterable[Run]) -> Iterator[Run]:
    for run in runs:
        print(row(run), flush=True)
        yield run


def _inside(options: argparse.Namespace) -> int:
    """The part that runs in a session of Binder's; it leaves the results as JSON."""
    variants: list[Variant] = [variant for variant in VARIANTS if variant in options.variants.split(",")]
    runs = list(run_here(find(options.notebooks), "binder", variants, options.out))
    (options.out / _RESULTS).write_text(json.dumps([run.to_dict() for run in runs]), encoding="utf-8")
    return int(not all(run.ok for run in runs))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="tools.notebooks", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("notebooks", nargs="*", help="such as 01; all of them if none is named")
    parser.add_argument("--mode", default="", help=f"{', '.join(MODES)}, or several; else all there are here")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where executed copies are left")
    parser.add_argument("--variants", default=",".join(VARIANTS), help=argparse.SUPPRESS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        return _inside(options)
    wanted = options.mode.split() or list(MODES)
    if unknown := [mode for mode in wanted if mode not in MODES]:
        parser.error(f"no mode is called {', '.join(unknown)}; there are {', '.join(MODES)}")
    paths = find(options.notebooks)
    missing = {mode: reason for mode in MODES if mode in wanted and (reason := unavailable(mode))}
    modes = [mode for mode in MODES if mode in wanted and mode not in missing]
    runs = run_all(modes, paths, options.out)
    failed = [run for run in runs if not run.ok]
    if any(run.session_mib is not None for run in runs):
        print("peak in binder: kernel and engines / the whole session with Jupyter's server")
    for mode, reason in missing.items():
        print(f"mode {mode} was not run: {reason}")
    print(f"{len(runs)} runs, {len(failed)} failed; executed copies are in {os.path.relpath(options.out)}")
    # A mode that was asked for by name has to run.
    return int(bool(failed) or not runs or bool(options.mode and missing))


if __name__ == "__main__":
    sys.exit(main())
