"""What came out of the parts, on one page of Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def text(out: Path) -> str:
    """The page, of the parts that are there.

    Args:
        out: Where the parts have left their results.
    """
    found = {
        path.stem: _read(path) for path in sorted(out.glob("*.json")) if not path.stem.startswith("card-")
    }
    lines = ["# Measured on a GPU", ""]
    for name, tell in (
        ("machine", _machine),
        ("roofs", _roofs),
        ("instruments", _instruments),
        ("recordings", _recordings),
        ("rates", _rates),
        ("cpu", _compared),
        ("containers", _compared),
    ):
        if name in found:
            lines += [f"## {name}", "", *tell(found[name]), ""]
    return "\n".join(lines)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _machine(found: dict[str, Any]) -> Iterator[str]:
    for gpu in found["gpus"]:
        yield f"- {gpu['name']}, {gpu['total_mib']} MiB; driver {found['driver']}, CUDA {found['cuda']}"
    here = found["machine"]
    yield f"- {here['cpu']}, {here['cpus']} CPUs, {here['memory_mib']} MiB; {here['kernel']}; {found['when']}"


def _roofs(found: dict[str, Any]) -> Iterator[str]:
    yield f"- memory is read at {found['read_bytes_per_s'] / 1e9:.0f} GB/s"
    yield f"- 16-bit products: {found['fp16_operations_per_s'] / 1e12:.0f} TFLOP/s"


def _instruments(found: dict[str, Any]) -> Iterator[str]:
    yield from ("| NVML | median µs | 99 of 100 below | changes per s | gap ms |", "|---|---|---|---|---|")
    for name, call in found["calls_us"].items():
        change = found["changes"].get(name, {})
        yield (
            f"| {name} | {call['median']} | {call['p99']} | {change.get('changes_per_s', '')} | "
            f"{change.get('median_gap_ms', '') or ''} |"
        )
    yield ""
    for each in found["sampler"]:
        yield f"- `{each['collector']}` at {each['hz']:g} Hz: {json.dumps(each)}"


def _recordings(found: dict[str, Any]) -> Iterator[str]:
    yield from (
        "| model | phase | s | tokens | tokens/s | J/token | GPU % | W | MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    )
    for model in (found["1b"], found["8b"]):
        for each in model["phases"]:
            seconds, means, spent = each["to_s"] - each["from_s"], each["means"], each["energy"]
            per = spent["joules"] / spent["tokens"] if spent.get("joules") and spent.get("tokens") else None
            yield (
                f"| {model['model']} | {each['phase']} | {seconds:.1f} | {each['tokens']} | "
                f"{each['tokens'] / seconds:.0f} | {'' if per is None else f'{per:.3g}'} | "
                + " | ".join(str(means.get(key, "")) for key in ("utilisation", "power", "memory"))
                + " |"
            )


def _rates(found: dict[str, Any]) -> Iterator[str]:
    yield from ("| model | what | tokens/s | at the roof | share | bound |", "|---|---|---|---|---|---|")
    for model in found["models"]:
        for name, each in model.items():
            if isinstance(each, dict) and each["tokens_per_s"]:
                roof, share = each["roof_tokens_per_s"], each["share_of_roof"]
                yield (
                    f"| {model['model']} | {name} | {each['tokens_per_s']:.0f} | {'' if not roof else f'{roof:.0f}'} | "
                    f"{'' if not share else f'{share:.2f}'} | {each['bound']} |"
                )
    for model in found["models"]:
        yield f"\n{model['model']}: predicted {model['predicted_vram_mib']} MiB of GPU memory; {'; '.join(model['notes'])}"


def _compared(found: dict[str, Any]) -> Iterator[str]:
    yield from ("```", found["text"], "```")
