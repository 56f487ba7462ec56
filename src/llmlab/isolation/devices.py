"""The receipt's line on devices."""

from __future__ import annotations

import re

from llmlab.isolation.gpus import asked
from llmlab.isolation.sources import Sources, control
from llmlab.results_isolation import Control


def devices(s: Sources) -> Control:
    """The GPUs: those that were asked for, and no others."""
    seen = s.facts.gpu_nodes
    wanted = s.record.gpus.asked if s.record.gpus else ()
    found = asked(s.host)
    verdicts: list[bool | None] = [bool(s.host) and found == wanted]
    if seen is not None:
        verdicts.append(bool(seen) == bool(wanted) and _as_many(wanted, seen))
    return control(
        "devices",
        ", ".join(wanted) or "none",
        (", ".join(found) or "none") if s.host else None,
        None if seen is None else ", ".join(seen) or "no GPU",
        *verdicts,
    )


def _as_many(wanted: tuple[str, ...], seen: tuple[str, ...]) -> bool:
    """Whether no more GPUs are seen than were asked for by name."""
    named = [name for words in wanted if words.startswith("GPUs ") for name in words[5:].split(",")]
    cards = [node for node in seen if re.fullmatch(r"nvidia\d+", node)]
    nodes = {path.removeprefix("/dev/") for path in wanted if path.startswith("/dev/")}
    others = {node for node in seen if node.startswith("dri/render") or node in {"kfd", "dxg"}}
    # A slice's own device file is that of its whole GPU.
    countable = all(name.isdecimal() or name.startswith("GPU-") for name in named)
    return (not countable or len(cards) <= len(named)) and (not nodes or others == nodes)
