"""Make docs/what-docker-costs.md from the run cards in bench/results/cards.

    .venv/bin/python tools/results_page.py            # after new cards were made (the page says how)

The words are here, the figures come from the cards: nothing is typed in.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import llmlab

_ROOT = Path(__file__).parents[1]
_CARDS = _ROOT / "bench" / "results" / "cards"
_PAGE = _ROOT / "docs" / "what-docker-costs.md"
_HEAD = """# What does Docker cost llama.cpp on Linux?

Made by `tools/results_page.py` from the run cards in `bench/results/cards/`; [comparing.md](comparing.md) says how it
is measured. Every value is in the cards: `llmlab compare --show bench/results/cards/tiny.json` shows one of them.

**It ran on one small machine**: {machine}. That is a virtual machine with neighbours. What it says of other machines
is nothing; run the commands on yours.
"""
# File, title, the command that made it, what to look at.
_SECTIONS = (
    (
        "tiny",
        "The built-in model, native against sealed container",
        "llmlab compare tiny --blocks 20 --seed 1",
        "A model so small that everything besides computing weighs more than it ever does elsewhere.",
    ),
    (
        "half-billion",
        "Half a billion parameters, native against sealed container",
        "llmlab compare synthetic:qwen2.5-0.5b:Q4_0 --blocks 6 --seed 1",
        "Random weights in the shape of qwen2.5-0.5b: the work of the real model, and nothing to read.",
    ),
    (
        "quota",
        "A quota below the threads",
        "llmlab compare tiny --threads 2 --cpus 1 --blocks 8 --seed 1",
        "The trap that makes containers look slow: two threads, one CPU.",
    ),
    (
        "ladder",
        "Step by step",
        "llmlab compare tiny --ladder --blocks 6 --seed 1",
        "One change at a time, from the model in a process of its own to a published port, a quota, a cold file.",
    ),
)


def page() -> str:
    """The page, from the cards that there are."""
    parts = []
    machine = ""
    os.chdir(_CARDS)  # what is shown names the file as it was typed
    for name, title, command, words in _SECTIONS:
        path = _CARDS / f"{name}.json"
        data = json.loads(path.read_text(encoding="utf-8"))
        here = data["machine"]
        machine = (
            f"{here['cpus']} × {here['cpu']}, {here['kernel']}, container engine {here['container engine']}"
        )
        shown = str(llmlab.compare(show=path.name))
        parts.append(
            f"## {title}\n\n{words}\n\n```\n$ {command} --save {name}.json\n\n{shown.strip()}\n```\n"
        )
    return "\n".join([_HEAD.format(machine=machine), *parts])


def main() -> None:
    """Write it, or say with --check whether it is as it should be."""
    made = page()
    if "--check" in sys.argv:
        sys.exit(
            0 if _PAGE.read_text(encoding="utf-8") == made else f"{_PAGE.name} is not what the cards say"
        )
    _PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
