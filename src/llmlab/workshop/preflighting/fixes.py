"""Which commands of a report may be shown to be copied: those that llmlab writes itself.

A report comes from somebody else's machine, and a teacher may paste what it says.
"""

from __future__ import annotations

import re

_PACKAGE = (
    r"(?:docker|psutil|huggingface-hub|nvidia-ml-py|jupyterlab|notebook|ipykernel|ipywidgets|anywidget|"
    r"jupyterlab_widgets|cmake|ninja|llmlab)"
)
_REQUIREMENT = rf"'?{_PACKAGE}(?:(?:==|>=)[\d.*]{{1,12}})?'?"
_SYSTEM_PACKAGE = (
    r"(?:docker\.io|docker-ce|moby-engine|runc|containerd|podman|crun|gcc-c\+\+|g\+\+|gcc|libc6-dev|"
    r"nvidia-container-toolkit|nvidia-driver)"
)
_MODEL = r"(?:tiny|(?:hf|synthetic|ollama):[\w./:-]{1,120}|[\w.:-]{1,60})"
_KNOWN = tuple(
    re.compile(pattern)
    for pattern in (
        r"sudo usermod -aG (?:docker|podman|dockerroot) \$USER",
        r"newgrp (?:docker|podman|dockerroot)",
        rf"sudo (?:apt-get|dnf) install(?: --only-upgrade)?(?: {_SYSTEM_PACKAGE})+",
        r"sudo apt-get update",
        r"sudo ubuntu-drivers install",
        r"sudo systemctl (?:restart|enable --now) docker",
        r"systemctl --user restart docker",
        r"sudo chmod 660 (?:/var)?/run/docker\.sock",
        r"sudo nvidia-ctk runtime configure --runtime=docker",
        r"sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia\.yaml",
        r"sudo dmesg \| grep -i nvidia",
        r"sudo reboot",
        rf"pip install(?: --upgrade)?(?: {_REQUIREMENT})+",
        r"python3\.12 -m venv \.venv",
        r"arch -arm64 python3 -m venv \.venv",
        r"xcode-select --install",
        r"brew install --cask docker-desktop",
        r"open -a Docker",
        r"docker desktop (?:restart|update)",
        r"docker (?:context ls|info|version|system df)",
        r"unset (?:DOCKER_HOST|LLMLAB_LLAMA_SERVER)",
        r"export DOCKER_HOST=ssh://USER@HOST",
        r"export LLMLAB_RUNTIME_DIR=\$\(mktemp -d /tmp/llm-XXXX\)",
        r"wsl(?:\.exe)? --(?:install -d Ubuntu-24\.04|shutdown|set-version [\w.-]{1,40} 2)",
        r"wsl -d Ubuntu-24\.04",
        r"llmlab (?:doctor|models|models --fit|ps|ps --usage|stop --all|reset --downloads --dry-run)",
        r"llmlab build(?: --force| --gpu cuda)?",
        rf"llmlab pull {_MODEL}",
        rf"llmlab start {_MODEL}(?: --(?:native|container))?",
        rf"llmlab start {_MODEL} --context \d{{1,7}} --slots \d{{1,3}}(?: --kv-type [a-z0-9_]{{1,8}})?",
    )
)


def is_known(command: str) -> bool:
    """Whether a command is made of nothing but what llmlab itself tells people to type."""
    parts = command.split(" && ")
    return all(any(pattern.fullmatch(part) for pattern in _KNOWN) for part in parts)
