"""Docker's contexts: names for container engines, with what is needed to be let in.

The `docker` package reads them; here it is handed in by its one door.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmlab.errors import BackendError

ASKS_NOTHING = "1.24"
"""A version of the API that the package knows: with it, making a client sends nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What Docker has written down of an engine.

    Attributes:
        name: Its name.
        address: Where it listens, as in `DOCKER_HOST`.
        tls: Certificates, as the `docker` package has them, or None.
    """

    name: str
    address: str
    tls: Any = None


def find_without_config(docker: Any) -> None:
    """Let the package find contexts where there is no config.json, which `docker context create` does not make.

    It looks for them beside that file; the `docker` command looks in the directory.

    Args:
        docker: The package.
    """
    config = docker.context.config
    usual = config.find_config_file

    def found() -> str | None:
        folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
        return str(folder / "config.json") if (folder / "contexts").is_dir() else usual()

    if usual is docker.utils.config.find_config_file:  # not ours already
        config.find_config_file = found


def read(docker: Any) -> tuple[Context, ...]:
    """All contexts, the default one first.

    Args:
        docker: The package.

    Raises:
        BackendError: If what is written down of one cannot be read.
    """
    try:
        return tuple(
            Context(name=str(each.Name), address=_address(str(each.Host)), tls=each.TLSConfig)
            for each in docker.context.ContextAPI.contexts()
            if each.Host
        )
    except Exception as error:
        raise BackendError(f"Docker's contexts cannot be read: {error}", hint="docker context ls") from error


def parameters(docker: Any, address: str | None) -> dict[str, Any]:
    """What the package needs to be told of an engine: `base_url`, and `tls` where it has certificates.

    Args:
        docker: The package.
        address: Where it listens; None for what the environment and the current context say.

    Raises:
        BackendError: If what is written down of a context cannot be read.
    """
    if address is None:
        found: dict[str, Any] = docker.utils.kwargs_from_env()
        return found if "base_url" in found else docker.context.ContextAPI.kwargs_from_context() | found
    # The context that has this address, if one has it, knows the certificates.
    known = next((each.tls for each in read(docker) if each.address == address and each.tls), None)
    if known:
        return {"base_url": address, "tls": known}
    told: dict[str, Any] = docker.utils.kwargs_from_env(environment={**os.environ, "DOCKER_HOST": address})
    return told


def client(docker: Any, told: Mapping[str, Any], timeout_s: float) -> Any:
    """A client of the package's, which speaks the newest API that both know.

    Args:
        docker: The package.
        told: As `parameters` gives them.
        timeout_s: How long each answer is waited for.
    """
    # With a version nothing is asked yet, so that the way there can be changed.
    made = docker.APIClient(version=ASKS_NOTHING, timeout=timeout_s, **told)
    if told.get("tls"):
        # The environment's bundle of authorities would be taken in place of the engine's own.
        made.trust_env = False
    return negotiated(made)


def negotiated(client: Any) -> Any:
    """The client, once it has asked which API it is to speak; closed if it gets no answer."""
    try:
        client._version = client._retrieve_server_version()  # noqa: SLF001 - what "auto" would have done
    except BaseException:
        client.close()
        raise
    return client


def _address(host: str) -> str:
    """A context's address in the form that all have here; the package's default has another one."""
    return host.replace("http+unix://", "unix://", 1)
