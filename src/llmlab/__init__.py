"""llmlab: language models in containers, inside a notebook.

>>> import llmlab
>>> server = llmlab.start("tiny")
>>> answer = server.ask("What is a container?")
>>> server.stop()

Every verb here is also `%llm VERB …` in a notebook (after `%load_ext llmlab`)
and `llmlab VERB …` in a terminal.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmlab.auditing import Audit, AuditComparison, audit
    from llmlab.builds import build
    from llmlab.chatting import Chat, Exchange, chat
    from llmlab.checkup import doctor
    from llmlab.classrooms import classroom
    from llmlab.classrooms.joined import Room
    from llmlab.classrooms.joining import join
    from llmlab.clusters import ClusterStatus, cluster
    from llmlab.comparing import Comparison, compare
    from llmlab.comparing.predicting import Guess, Guessing, predict
    from llmlab.errors import AskInterrupted, LabError
    from llmlab.exporting import KubernetesExport, export
    from llmlab.kits import kit
    from llmlab.lab import Server, ask, attach, inspect, logs, ps, start, stop
    from llmlab.lab.nodes import NodeList, NodeStatus, nodes
    from llmlab.library import models, pull, rm, verify
    from llmlab.monitoring import Monitoring, Watch, monitor
    from llmlab.paneling import Panel, panel
    from llmlab.results import Answer, Logs, ServerList, ServerStatus, Stopped
    from llmlab.results_dry_run import DryRun
    from llmlab.results_isolation import Inspection
    from llmlab.workshop.preflighting import preflight
    from llmlab.workshop.progressing import progress
    from llmlab.workshop.resetting import reset

__version__ = "0.1.0.dev0"

# Name → module. Imported on first use: `import llmlab` stays quick, and a
# machine that lacks an optional library only misses it where it is needed.
_EXPORTS = {
    "start": "lab",
    "stop": "lab",
    "ps": "lab",
    "inspect": "lab",
    "logs": "lab",
    "nodes": "lab.nodes",
    "ask": "lab",
    "chat": "chatting",
    "attach": "lab",
    "audit": "auditing",
    "monitor": "monitoring",
    "compare": "comparing",
    "predict": "comparing.predicting",
    "models": "library",
    "pull": "library",
    "rm": "library",
    "verify": "library",
    "build": "builds",
    "doctor": "checkup",
    "kit": "kits",
    "cluster": "clusters",
    "classroom": "classrooms",
    "join": "classrooms.joining",
    "export": "exporting",
    "preflight": "workshop.preflighting",
    "panel": "paneling",
    "reset": "workshop.resetting",
    "progress": "workshop.progressing",
    "Server": "lab",
    "Room": "classrooms.joined",
    "ClusterStatus": "clusters",
    "Answer": "results",
    "Audit": "auditing",
    "Chat": "chatting",
    "Exchange": "chatting",
    "AuditComparison": "auditing",
    "Monitoring": "monitoring",
    "Comparison": "comparing",
    "Guess": "comparing.predicting",
    "Guessing": "comparing.predicting",
    "Watch": "monitoring",
    "Panel": "paneling",
    "DryRun": "results_dry_run",
    "Inspection": "results_isolation",
    "KubernetesExport": "exporting",
    "Logs": "results",
    "NodeList": "lab.node_views",
    "NodeStatus": "lab.node_views",
    "ServerList": "results",
    "ServerStatus": "results",
    "Stopped": "results",
    "LabError": "errors",
    "AskInterrupted": "errors",
}

__all__ = [
    "Answer",
    "AskInterrupted",
    "Audit",
    "AuditComparison",
    "Chat",
    "ClusterStatus",
    "Comparison",
    "DryRun",
    "Exchange",
    "Guess",
    "Guessing",
    "Inspection",
    "KubernetesExport",
    "LabError",
    "Logs",
    "Monitoring",
    "NodeList",
    "NodeStatus",
    "Panel",
    "Room",
    "Server",
    "ServerList",
    "ServerStatus",
    "Stopped",
    "Watch",
    "__version__",
    "ask",
    "attach",
    "audit",
    "build",
    "chat",
    "classroom",
    "cluster",
    "compare",
    "doctor",
    "export",
    "inspect",
    "join",
    "kit",
    "logs",
    "models",
    "monitor",
    "nodes",
    "panel",
    "predict",
    "preflight",
    "progress",
    "ps",
    "pull",
    "reset",
    "rm",
    "start",
    "stop",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"llmlab.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module 'llmlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext llmlab`: make `%llm` and `%%llm` known to this notebook."""
    from llmlab.notebook import load_ipython_extension as load  # noqa: PLC0415 - IPython only on demand

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext llmlab`: take `%llm` away; running servers go on."""
    from llmlab.notebook import unload_ipython_extension as unload  # noqa: PLC0415 - IPython only on demand

    unload(shell)
