"""What the programs of this folder share: atheris (libFuzzer), seeds, and where finds are kept."""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def as_json(**seeds: Any) -> dict[str, bytes]:
    """Seeds that are JSON."""
    return {name: json.dumps(seed).encode() for name, seed in seeds.items()}


def words_of(seeds: Mapping[str, bytes]) -> list[str]:
    """The names that stand in some JSON: what is seldom found by chance."""
    found: set[str] = set()
    for seed in seeds.values():
        for part in seed.decode(errors="ignore").split('"')[1::2]:
            found.add(part)
    return sorted(word for word in found if word.isascii() and word.replace("_", "a").isalnum())


def search(
    name: str,
    describes: str | None,
    modules: tuple[str, ...],
    seeds: Callable[[], Mapping[str, bytes]],
    attempt: Callable[[bytes], object],
) -> None:
    """Run one of the programs.

    Args:
        name: Its name, and that of its corpus in `build/fuzz/`.
        describes: Its help.
        modules: Those that coverage is counted of; `attempt` imports them when it is called.
        seeds: Makes what to begin with; called after them.
        attempt: Tries one input; what it raises is a find.
    """
    parser = argparse.ArgumentParser(description=describes, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="try these files only")
    parser.add_argument("--runs", type=int, default=1_000_000, help="how many inputs to try")
    parser.add_argument("--corpus", type=Path, default=ROOT / "build/fuzz" / name, help="where they are kept")
    options = parser.parse_args()
    if options.files:
        for file in options.files:
            attempt(file.read_bytes())
        return
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=list(modules)):
        for module in modules:
            importlib.import_module(module)
    options.corpus.mkdir(parents=True, exist_ok=True)
    begun = seeds()
    words = options.corpus.with_name(f"{options.corpus.name}.dict")
    words.write_text("".join(f'"{word}"\n' for word in words_of(begun)), encoding="ascii")
    for seed, data in begun.items():
        (options.corpus / seed).write_bytes(data)
    # The kernel counts the memory of whoever has started this program into its own peak.
    before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    limits = ["-timeout=10", f"-rss_limit_mb={1024 + before_mib}", "-max_len=16384", f"-dict={words}"]
    kept = [f"-runs={options.runs}", f"-artifact_prefix={options.corpus}/"]
    atheris.Setup([sys.argv[0], str(options.corpus), *kept, *limits], attempt)
    atheris.Fuzz()
