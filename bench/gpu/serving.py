"""Models on the GPU: recordings to replay, rates against the roofline, memory against its prediction."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import llmlab
from bench.gpu import models
from llmlab import weights
from llmlab.comparing.roofline import compute
from llmlab.telemetry import energy, recording
from llmlab.weights import anatomy

_HZ = 5.0
_PHASE_S = 12.0
_IDLE_S = 6.0
_REPEATS = 5
_LONG = "Compare a container with a virtual machine, a sandbox and a chroot, one after the other. "


def recordings(out: Path) -> dict[str, Any]:
    """What NVML and the machine show in each phase, written so that it can be replayed."""
    return {name: _recorded(model, name, out) for name, model in (("1b", models.SMALL), ("8b", models.LARGE))}


def _recorded(model: str, name: str, out: Path) -> dict[str, Any]:
    weights.resolve(model)  # written before the clock starts
    phases: list[dict[str, Any]] = []
    with ExitStack() as stack:
        watch = stack.enter_context(llmlab.monitor(hz=_HZ))
        began = time.monotonic()

        def phase(what: str, act: Callable[[], int]) -> None:
            start = time.monotonic() - began
            tokens = act()
            phases.append(
                {"phase": what, "from_s": start, "to_s": time.monotonic() - began, "tokens": tokens}
            )

        phase("idle", lambda: _rest(_IDLE_S))
        start_s = time.monotonic()
        server = stack.enter_context(models.served(model, name))
        phases.append(
            {"phase": "load", "from_s": start_s - began, "to_s": time.monotonic() - began, "tokens": 0}
        )
        phase("prefill", lambda: _again(lambda: _asked(server, _LONG * models.REPEATS, 1)))
        phase("decode", lambda: _again(lambda: _asked(server, "What is a GPU?", 512)))
        phase("8 at once", lambda: _again(lambda: _together(server)))
        phase("idle, loaded", lambda: _rest(_IDLE_S))
        seen = watch.stop()
    note = f"One native server of {model} (random weights, real work) with all its layers on the GPU"
    path = out / f"gpu-{name}.jsonl.gz"
    recording.write(replace(seen.recorded, notes=(note, *seen.recorded.notes)), path)
    found = {"model": model, "file": path.name, "bytes": path.stat().st_size, "phases": phases}
    for each in phases:
        window = energy.over_window(
            name, seen.requests, seen.series, begin_s=each["from_s"] - 0.5, end_s=each["to_s"] + 0.5
        )
        each["energy"] = asdict(window)
        each["means"] = _means(seen, each["from_s"], each["to_s"])
        print(f"  {name} {each['phase']:<13} {each['to_s'] - each['from_s']:5.1f} s  {each['means']}")
    return found


def _means(seen: Any, begin_s: float, end_s: float) -> dict[str, float]:
    """Of each GPU series, the mean of what was known within a span."""
    means = {}
    for each in seen.series:
        if not each.subject.lower().startswith("gpu"):
            continue
        known = [
            value
            for at, value in zip(each.times_s, each.values, strict=True)
            if value is not None and begin_s <= at <= end_s
        ]
        if known:
            means[each.metric.key] = round(statistics.mean(known), 1)
    return means


def _rest(seconds: float) -> int:
    time.sleep(seconds)
    return 0


def _again(act: Callable[[], int]) -> int:
    tokens, began = 0, time.monotonic()
    while time.monotonic() - began < _PHASE_S:
        tokens += act()
    return tokens


def _asked(server: llmlab.Server, text: str, tokens: int) -> int:
    # The number in front makes each prompt another one: nothing is taken from a cache.
    answer = server.ask(f"{time.monotonic_ns()} {text}", max_tokens=tokens)
    return answer.completion_tokens or 0


def _together(server: llmlab.Server) -> int:
    with ThreadPoolExecutor(models.SLOTS) as pool:
        asked = [pool.submit(_asked, server, "What is a container?", 256) for _ in range(models.SLOTS)]
        return sum(each.result() for each in asked)


def rates(out: Path) -> dict[str, Any]:
    """Measured rates over those at the roof, and NVML's memory over what was predicted."""
    roofs = (
        json.loads((out / "roofs.json").read_text(encoding="utf-8")) if (out / "roofs.json").exists() else {}
    )
    return {
        "roofs": {key: roofs.get(key) for key in ("gpu", "read_bytes_per_s", "fp16_operations_per_s")},
        "models": [_rated(model, roofs) for model in (models.SMALL, models.LARGE)],
    }


def _rated(model: str, roofs: dict[str, Any]) -> dict[str, Any]:
    with models.served(model, "rated") as server:
        made = anatomy.of_file(server.record.spec.model.path)
        predicted = server.record.predicted
        found: dict[str, Any] = {
            "model": model,
            "predicted_vram_mib": predicted.vram_mib if predicted else None,
            "notes": server.record.notes,
            "log": [
                line for line in server.logs(tail=None).lines if "buffer size" in line or "offload" in line
            ],
        }
        models.decode(server, 32)
        bound = compute.Roofs(
            bytes_per_s=roofs.get("read_bytes_per_s"), operations_per_s=roofs.get("fp16_operations_per_s")
        )
        for tokens in models.PROMPTS:
            done = [models.prefill(server, tokens) for _ in range(_REPEATS)]
            measured = [
                each.prompt_tokens / each.prompt_s for each in done if each.prompt_tokens and each.prompt_s
            ]
            found[f"prefill {tokens}"] = _against(
                "prefill", compute.prefill_work(made, tokens), bound, measured
            )
        for depth in (16, models.PROMPTS[-1]):
            done = [models.decode(server, 128, depth) for _ in range(_REPEATS)]
            measured = [127 / each.generated_s for each in done if each.generated_s]
            work = compute.decode_work(made, depth + 64)
            found[f"decode at {depth}"] = _against("decode", work, bound, measured)
    return found


def _against(name: Any, work: Any, roofs: compute.Roofs, measured: list[float]) -> dict[str, Any]:
    phase = compute.Phase.of(name, work, roofs, measured=tuple(measured))
    median = statistics.median(measured) if measured else None
    roof = phase.roof_tokens_per_s
    found = {
        "tokens_per_s": median,
        "range": [min(measured), max(measured)] if measured else None,
        "roof_tokens_per_s": roof,
        "share_of_roof": median / roof if median and roof else None,
        "bound": phase.bound,
    }
    print(f"  {name} {work.tokens} {work.context}: {found}")
    return found
