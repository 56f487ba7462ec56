"""Run the parts, each in a process of its own and with a time limit: what one loses, the others keep."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

from bench.gpu.parts import BUNDLES, CARRIED, LIMIT_MIB, PARTS, REHEARSAL, Bundle, Part

_OUT = Path(__file__).parents[2] / "build" / "gpu"
_MINUTE = 60
_GRACE_S = 20


def main() -> int:
    """Read the options; run, list, or do one part."""
    options = _options().parse_args()
    what, known = ("bundle", BUNDLES) if options.fetch else ("part", PARTS)
    unknown = [name for name in options.parts if name not in known]
    if unknown:
        print(f"no {what} {unknown[0]!r}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    if options.dry_run:
        _list([PARTS[name] for name in options.parts or PARTS])
        return 0
    if problem := _lacking():
        print(problem, file=sys.stderr)
        return 1
    if options.fetch:
        return _fetch(options.fetch, options.parts or list(BUNDLES))
    chosen = [PARTS[name] for name in options.parts or PARTS]
    if options.engine:
        os.environ["LLMLAB_LLAMA_SERVER"] = str(options.engine.expanduser().resolve())
    if options.carried:
        os.environ[CARRIED] = str(options.carried.expanduser().resolve())
    if options.rehearse:
        os.environ[REHEARSAL] = "1"
    options.out.mkdir(parents=True, exist_ok=True)
    if options.this:
        return _do(chosen[0], options.out)
    return _all(chosen, options.out, options.limit)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench/gpu/run", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all if none is named")
    parser.add_argument("--out", type=Path, default=_OUT, help="where the results go (build/gpu)")
    parser.add_argument(
        "--engine",
        type=Path,
        help="a llama-server that was compiled for this GPU; the part build is not needed then",
    )
    parser.add_argument(
        "--fetch",
        type=Path,
        metavar="FOLDER",
        help=f"bring bundles here, to be carried: {', '.join(BUNDLES)}",
    )
    parser.add_argument("--carried", type=Path, metavar="FOLDER", help="the folder that --fetch has filled")
    parser.add_argument(
        "--limit",
        type=float,
        default=30 * _MINUTE,
        help="seconds for all of it; what does not fit is left out",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="list the parts, what they need, and how long they take"
    )
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="try the script without a GPU: a small model on the CPU; the figures mean nothing",
    )
    parser.add_argument("--this", action="store_true", help=argparse.SUPPRESS)
    return parser


def _list(chosen: list[Part]) -> None:
    for part in chosen:
        print(f"{part.name:<12} {part.about_s:>4.0f} s  {part.what}; needs {part.needs}")
    print(f"{'in all':<12} {sum(part.about_s for part in chosen):>4.0f} s")
    print(f"\nTo be carried to a machine without a network, at most {LIMIT_MIB} MiB a call (--fetch FOLDER):")
    for bundle in BUNDLES.values():
        _show(bundle, [part.name for part in chosen if bundle.name in part.carried])


def _show(bundle: Bundle, parts: list[str]) -> None:
    if parts:
        print(f"{bundle.name:<12} {bundle.about_mib:>3.0f} MiB  {bundle.what}; for {', '.join(parts)}")


def _lacking() -> str:
    """What to do if llmlab's Python packages are not here; "" if they are."""
    try:
        import_module("llmlab.lab")
    except ImportError as error:
        return (
            f"llmlab's Python packages are not here ({error}). With a network: pip install -e . Without: "
            "python3 -m venv VENV; VENV/bin/pip install --no-index FOLDER/python/*.whl; PYTHON=VENV/bin/python bench/gpu/run"
        )
    return ""


def _fetch(folder: Path, names: list[str]) -> int:
    carrying, errors = import_module("bench.gpu.carrying"), import_module("llmlab.errors")
    try:
        return int(carrying.fetch(folder, names))
    except errors.LabError as error:
        print(error, file=sys.stderr)
        return 1


def _all(chosen: list[Part], out: Path, limit_s: float) -> int:
    """Each part in turn; the summary is written anew after each, so that it is there whatever happens."""
    summary = import_module("bench.gpu.summary")
    began = time.monotonic()
    failed = 0
    for part in chosen:
        left = limit_s - (time.monotonic() - began)
        if left < part.about_s / 2:
            print(f"{part.name}: left out, {left:.0f} s are left", flush=True)
            continue
        print(f"== {part.name}: {part.what} (about {part.about_s:.0f} s)", flush=True)
        command = [sys.executable, "-m", "bench.gpu", part.name, "--this", "--out", str(out)]
        start = time.monotonic()
        code = _ended(subprocess.Popen(command), min(left, part.about_s * 3))
        failed += bool(code)
        done = "done" if code == 0 else "took too long" if code < 0 else "failed"
        print(f"== {part.name}: {done} after {time.monotonic() - start:.0f} s", flush=True)
        (out / "summary.md").write_text(summary.text(out), encoding="utf-8")
    print(summary.text(out))
    return 1 if failed else 0


def _ended(process: subprocess.Popen[bytes], limit_s: float) -> int:
    """Its exit status; interrupted after so many seconds, so that it stops its servers, it is below 0."""
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return -1


def _do(part: Part, out: Path) -> int:
    """One part, with servers of its own that end with it."""
    llmlab, common = import_module("llmlab"), import_module("bench.common")
    function = getattr(import_module(f"bench.gpu.{part.module}"), part.name)
    with tempfile.TemporaryDirectory(prefix="llm-") as folder, tempfile.TemporaryDirectory() as state:
        os.environ["LLMLAB_RUNTIME_DIR"] = folder
        os.environ["LLMLAB_STATE_DIR"] = state
        try:
            found = {"machine": common.machine(), "when": time.strftime("%Y-%m-%d"), **function(out)}
        except llmlab.LabError as error:
            for line in error.log_tail:
                print(f"  | {line}")
            print(f"{part.name}: {error}", file=sys.stderr)
            return 1
        finally:
            llmlab.stop(all=True, grace_s=1)
    text = json.dumps(found, indent=1, ensure_ascii=False, default=str)
    (out / f"{part.name}.json").write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
