"""The labels of what llmlab makes in a container engine: found and removed by them, never by name."""

from __future__ import annotations

from llmlab import runtime

SERVER = "llmlab.server"
USER = "llmlab.user"
RECORD = "llmlab.record"
SIDECAR = "llmlab.sidecar"
MODEL = "llmlab.model"
TOOL = "llmlab.tool"


def mine(**more: str) -> dict[str, str]:
    """The labels of something of this user's; keywords are the constants above, such as `SERVER`."""
    return {USER: runtime.scope(), **{globals()[name]: value for name, value in more.items()}}


def container_name(server: str) -> str:
    """Container names are the machine's, server names the user's."""
    return f"llmlab-{runtime.scope()}-{server}"
