"""Two arms by the comparison's protocol: the CPU against the GPU, native against a sealed container."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import llmlab
from bench.gpu import models
from llmlab.backends import backend

_FEW, _BLOCKS = 6, 14
_PROFILE: Literal["gpu", "sealed"] = "gpu" if models.LAYERS == "all" else "sealed"


def cpu(out: Path) -> dict[str, Any]:
    """The same files, on the CPU alone and with all layers on the GPU."""
    return _compared(
        out,
        "card-cpu-gpu",
        models.SMALL,
        a="backend=native,gpu-layers=0",
        b=f"backend=native,gpu-layers={models.LAYERS}",
        blocks=_FEW,
    )


def containers(out: Path) -> dict[str, Any]:
    """One GPU natively, and in the profile `gpu`, which keeps all that `sealed` does."""
    if problem := backend("container").unavailable():
        raise problem
    with llmlab.start(models.SMALL, backend="container", profile=_PROFILE, name="audited") as server:
        notes, audit = server.record.notes, _audited("audited")
        isolation = server.inspect().to_dict()["isolation"]
    found = _compared(
        out,
        "card-gpu-container",
        models.SMALL,
        a=f"backend=native,gpu-layers={models.LAYERS}",
        b=f"backend=container,profile={_PROFILE},gpu-layers={models.LAYERS}",
        blocks=_BLOCKS,
    )
    return {"notes": notes, "audit": audit, "isolation": isolation, **found}


def _audited(name: str) -> dict[str, Any]:
    """The audit, or why there is none: it needs a bridge network, for its controls."""
    try:
        found: dict[str, Any] = llmlab.audit(name).to_dict()
    except llmlab.LabError as error:
        return {"error": str(error)}
    return found


def _compared(out: Path, name: str, model: str, *, a: str, b: str, blocks: int) -> dict[str, Any]:
    result = llmlab.compare(
        model, a=a, b=b, blocks=blocks, threads=8, context=1024, seed=1, save=str(out / f"{name}.json")
    )
    print(result)
    return {"card": f"{name}.json", "text": str(result)}
