"""Container start → first answer, against `docker run` by hand with the same flags and image."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import llmlab
from bench import common, raw

_PAIRS = 11
_QUESTION = "What is a container?"
_TOKENS = 16
# What differs between two containers by their nature.
_OWN = {"ContainerIDFile", "Mounts", "SecurityOpt", "ConsoleSize"}


def run() -> dict[str, Any]:
    """Measure pairs, in turns; the first is discarded."""
    with llmlab.start("tiny", backend="container", name="bench-like") as server:
        like = _inspected(str(server.record.container_id))
    with tempfile.TemporaryDirectory(prefix="llm-") as folder:
        hand = _ByHand(like, Path(folder))
        pairs: list[tuple[float, float]] = []
        for number in range(_PAIRS + 1):
            if number % 2:
                by_hand, ours = hand.seconds(), _ours_s()
            else:
                ours, by_hand = _ours_s(), hand.seconds()
            pairs.append((ours, by_hand))
        differences = hand.differences
    pairs = pairs[1:]
    ratio = common.spread([ours / by_hand for ours, by_hand in pairs])
    ours_s = common.spread([ours for ours, _ in pairs], 3)
    hand_s = common.spread([by_hand for _, by_hand in pairs], 3)
    common.show("start() + ask(), against docker run by hand", ratio, "×", "≤ 1.10")
    common.show("… start() + ask()", ours_s, "s", "–")
    common.show("… docker run, /health, one answer", hand_s, "s", "–")
    if differences:
        print(f"  the two containers differ in: {', '.join(differences)}")
    return {
        "ratio": {
            **ratio,
            "definition": "llmlab.start + ask over `docker run -d` + polling /health every 2 ms + one "
            "answer on a raw socket; both from the call to the end of the answer; start() asks for a "
            "first token of its own besides",
            "budget": "<= 1.10",
        },
        "llmlab_s": ours_s,
        "by_hand_s": hand_s,
        "differences_in_host_config": differences,
        "docker": _docker("version", "--format", "{{.Server.Version}}").strip(),
    }


def _ours_s() -> float:
    began = time.perf_counter()
    server = llmlab.start("tiny", backend="container", name="bench")
    server.ask(_QUESTION, max_tokens=_TOKENS, temperature=0, seed=1)
    elapsed = time.perf_counter() - began
    server.stop()
    return elapsed


class _ByHand:
    """The same container, made with the `docker` command."""

    def __init__(self, like: dict[str, Any], folder: Path) -> None:
        self._like, self._folder = like, folder
        self._socket_dir = folder / "socket"
        self._words = _flags(like, self._socket_dir, folder / "seccomp.json")
        self.differences: list[str] = []

    def seconds(self) -> float:
        """Run it once, from the command to the end of the answer."""
        self._socket_dir.mkdir(mode=0o700)
        uid, gid = (int(part) for part in self._like["Config"]["User"].split(":"))
        if os.getuid() == 0:
            os.chown(self._socket_dir, uid, gid)
        path = self._socket_dir / "llm.sock"
        body = raw.payload(_QUESTION, max_tokens=_TOKENS, temperature=0, seed=1)
        began = time.perf_counter()
        container = _docker("run", "-d", *self._words).strip()
        while not raw.healthy(path):
            time.sleep(0.002)
        raw.chat(path, body)
        elapsed = time.perf_counter() - began
        made = _inspected(container)["HostConfig"]
        asked = self._like["HostConfig"]
        self.differences = sorted(
            key for key in made if key not in _OWN and _same(made[key]) != _same(asked.get(key))
        )
        _docker("rm", "-f", container)
        shutil.rmtree(self._socket_dir)
        return elapsed


def _same(value: Any) -> Any:
    """A value of `docker inspect` without what means nothing: empty or None, the order of a list."""
    return sorted(map(str, value)) if isinstance(value, list) and value else value or None


def _flags(like: dict[str, Any], socket_dir: Path, seccomp: Path) -> list[str]:
    """The words behind `docker run -d` that make a container like the one inspected."""
    host, config = like["HostConfig"], like["Config"]
    words = ["--network", host["NetworkMode"], "--user", config["User"], "--workdir", config["WorkingDir"]]
    words += ["--no-healthcheck", "--memory", str(host["Memory"]), "--memory-swap", str(host["MemorySwap"])]
    words += ["--cpus", f"{host['NanoCpus'] / 1e9:g}", "--pids-limit", str(host["PidsLimit"])]
    words += ["--ipc", host["IpcMode"], "--cgroupns", host["CgroupnsMode"]]
    words += ["--restart", host["RestartPolicy"]["Name"], "--log-driver", host["LogConfig"]["Type"]]
    words += [
        word for key, value in host["LogConfig"]["Config"].items() for word in ("--log-opt", f"{key}={value}")
    ]
    words += ["--read-only"] if host["ReadonlyRootfs"] else []
    words += ["--init"] if host["Init"] else []
    words += [word for name in host["CapDrop"] for word in ("--cap-drop", name)]
    words += [word for target, how in host["Tmpfs"].items() for word in ("--tmpfs", f"{target}:{how}")]
    words += [w for u in host["Ulimits"] for w in ("--ulimit", f"{u['Name']}={u['Soft']}:{u['Hard']}")]
    words += [word for pair in config["Env"] for word in ("--env", pair)]
    for option in host["SecurityOpt"]:
        name, _, profile = option.partition("=")
        if name == "seccomp":
            # The API takes the profile, the command a file that holds it.
            seccomp.write_text(json.dumps(json.loads(profile)), encoding="utf-8")
            words += ["--security-opt", f"seccomp={seccomp}"]
        else:
            words += ["--security-opt", option]
    for mount in host["Mounts"]:
        source = mount["Source"] if mount.get("ReadOnly") else str(socket_dir)
        how = f"type=bind,source={source},target={mount['Target']},bind-propagation=rprivate"
        words += ["--mount", how + (",readonly" if mount.get("ReadOnly") else "")]
    program, *rest = config["Entrypoint"]
    return [*words, "--entrypoint", program, like["Image"], *rest, *config["Cmd"]]


def _inspected(container: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_docker("inspect", container))[0]
    return found


def _docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"docker {words[0]} failed: {done.stderr}")
    return done.stdout
