"""What the doctor has seen, as one plain value that can be saved and read again.

Checks look at nothing else, so the facts of another machine, sent as a file,
give the rows that machine would have given. A field that is empty is a thing
that is not there; a probe that failed stands in `failed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from llmlab.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was seen of a machine.

    Attributes:
        note: Where these facts come from, if not from a machine just now.
        system: "Linux", "Darwin" or "Windows".
        machine: The CPU's kind, such as "x86_64".
        release: The kernel's release.
        texts: Path of a file → the beginning of its text.
        variables: Environment variable → value, or "set" where it is nobody's business.
        user: `uid`, names of the `groups` this process is in, and whether the
            user is `listed` in the group of the engine's socket.
        engine: The container engine: `address` and its `source`, whether `tls`
            protects it, its `socket`, what it says (`version`, `info`), or `error`.
        outputs: Command line → what it printed.
        refusals: Command line → what it printed when it failed.
        nodes: Path of a device or a mark of the system → "rw", "r" or "".
        pci: Graphics cards, as "vendor:device driver".
        cdi: Files of the container device interface.
        gpus: NVIDIA's GPUs; None where there is no driver to ask.
        memory: MiB: `total`, `available`, `usable`.
        disks: What lies there → `path`, `free_bytes`, `total_bytes`.
        packages: Python package → version, of those that are installed.
        python: `version`, `executable`, `prefix`, whether a `kernel` runs here,
            and the `server` that started it: `prefixes`, `packages`.
        build: The compiled engine: `server`, `origin`; `error` where it cannot be used; the
            `accelerators` that it was compiled for and the `devices` that it lists, where that is
            known; what llama-cpp-python's own libraries are for: `wheel`.
        runtime: The directory of servers: `path`, `mode`, `socket_bytes`; `error`.
        changelogs: A distribution's package → its `version`, and the CVE numbers
            that its changelog names as `mended`.
        failed: Probe → why it is not known.
    """

    note: str = ""
    system: str = ""
    machine: str = ""
    release: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    user: Mapping[str, Any] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    refusals: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[str, str] = field(default_factory=dict)
    pci: tuple[str, ...] = ()
    cdi: tuple[str, ...] = ()
    gpus: tuple[Mapping[str, Any], ...] | None = None
    memory: Mapping[str, Any] = field(default_factory=dict)
    disks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    python: Mapping[str, Any] = field(default_factory=dict)
    build: Mapping[str, Any] = field(default_factory=dict)
    runtime: Mapping[str, Any] = field(default_factory=dict)
    changelogs: Mapping[str, Any] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The facts as plain JSON data."""
        return asdict(self)

    @property
    def info(self) -> Mapping[str, Any]:
        """What `docker info` says; empty if no engine has answered."""
        found: Mapping[str, Any] = self.engine.get("info") or {}
        return found

    @property
    def components(self) -> dict[str, Mapping[str, Any]]:
        """Name → what `docker version` says of a part of the engine."""
        version = self.engine.get("version") or {}
        return {str(part["Name"]): part for part in version.get("Components") or ()}

    @property
    def engine_version(self) -> str:
        """The engine's version, or ""."""
        version = self.engine.get("version") or {}
        return str(version.get("Version") or self.info.get("ServerVersion") or "")

    @property
    def is_podman(self) -> bool:
        """Whether the engine is Podman behind Docker's API."""
        return "Podman Engine" in self.components

    @property
    def is_desktop(self) -> bool:
        """Whether the engine is Docker Desktop's, in a virtual machine of its own."""
        return "Docker Desktop" in str(self.info.get("OperatingSystem", ""))

    @property
    def is_rootless(self) -> bool:
        """Whether the engine runs without root."""
        return any("rootless" in str(option) for option in self.info.get("SecurityOptions") or ())

    @property
    def is_local(self) -> bool:
        """Whether the engine shares this machine's kernel and files."""
        return str(self.engine.get("address", "")).startswith("unix://") and not self.is_desktop

    @property
    def wsl(self) -> int:
        """2 or 1 inside of that Windows Subsystem for Linux, otherwise 0."""
        kernel = f"{self.texts.get('/proc/version', '')} {self.release}".lower()
        if "wsl2" in kernel or "/dev/dxg" in self.nodes:
            return 2
        if "microsoft" not in kernel:
            return 0
        # WSL 1 has no Linux kernel: its release ends in "-Microsoft".
        return 2 if "WSL_INTEROP" in self.variables and "microsoft-standard" in kernel else 1

    @property
    def hosted(self) -> str:
        """The service that runs this notebook, or ""."""
        for variable, name in _HOSTS:
            if variable in self.variables:
                return name
        return ""

    @property
    def has_nvidia(self) -> bool:
        """Whether there is an NVIDIA GPU with a driver."""
        return bool(self.gpus) or any(
            line.startswith("nvidia-smi") and text.strip() for line, text in self.outputs.items()
        )


_HOSTS = (
    ("COLAB_RELEASE_TAG", "Google Colab"),
    ("BINDER_SERVICE_HOST", "Binder"),
    ("BINDER_REPO_URL", "Binder"),
    ("KAGGLE_KERNEL_RUN_TYPE", "Kaggle"),
)


def from_dict(data: Any) -> Facts:
    """Facts that were saved; what is not known of them is left out.

    Raises:
        UsageError: If these are no facts.
    """
    if isinstance(data, dict) and isinstance(data.get("facts"), dict):
        data = data["facts"]  # what `llmlab doctor --json` prints
    if not isinstance(data, dict) or not isinstance(data.get("system"), str):
        raise UsageError("these are no facts", hint="save them with: llmlab doctor --json > facts.json")
    empty = Facts()
    known: dict[str, Any] = {}
    for each in fields(Facts):
        if each.name not in data or data[each.name] is None:
            continue
        value = data[each.name]
        wanted: type = list if each.name == "gpus" else type(getattr(empty, each.name))
        if isinstance(value, (list, tuple)) and wanted in {list, tuple}:
            known[each.name] = tuple(value)
        elif isinstance(value, wanted):
            known[each.name] = value
        else:
            raise UsageError(f"the facts' {each.name!r} is no {wanted.__name__}", hint="save them anew")
    return Facts(**known)
