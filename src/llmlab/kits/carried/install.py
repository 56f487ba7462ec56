"""Set up llmlab from the folder that this file lies in, without a network.

    sh install.sh [--into FOLDER]

makes FOLDER/venv (~/llmlab-class unless told otherwise) from the kit's wheels, and lets
the llmlab in it do the rest: `llmlab kit install`. Doing it again is harmless.
Only Python's own library is used: the machine need not have anything else, not even pip.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

KIT = Path(__file__).resolve().parent
SYSTEMS = {"linux": "linux", "darwin": "macos"}
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def main() -> int:
    """Install; returns the exit status."""
    parser = argparse.ArgumentParser(description="Set up llmlab from this kit, without a network.")
    parser.add_argument("--into", default="~/llmlab-class", metavar="FOLDER", help="where it goes")
    into = Path(parser.parse_args().into).expanduser().resolve()
    try:
        kit = json.loads((KIT / "kit.json").read_text(encoding="utf-8"))
        check_wheels()
        python = choose_python(kit)
        make_environment(python, into / "venv")
    except (OSError, ValueError, KeyError, subprocess.CalledProcessError) as error:
        return failed(str(error) or type(error).__name__)
    command = [str(into / "venv" / "bin" / "llmlab"), "kit", "install", str(KIT), "--into", str(into)]
    return subprocess.run(command, check=False).returncode


def check_wheels() -> None:
    """Compare the wheels with their checksums before anything of them is run."""
    say("checking the wheels")
    expected = {}
    for line in (KIT / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, _, path = line.partition("  ")
        if path.startswith("wheels/"):
            expected[path[len("wheels/") :]] = digest
    there = {path.name for path in (KIT / "wheels").glob("*") if not path.name.startswith(".")}
    if not expected:
        raise ValueError("this kit has no wheels: it adds to a machine that has llmlab (llmlab kit install)")
    bad = sorted(there ^ set(expected))
    bad += [name for name in sorted(there & set(expected)) if sha256(KIT / "wheels" / name) != expected[name]]
    if bad:
        raise ValueError(
            "the kit is not whole (missing, changed or foreign: " + ", ".join(bad[:5]) + "). Copy it anew."
        )


def sha256(path: Path) -> str:
    """The hash of a file; "" of what is no plain file."""
    if path.is_symlink() or not path.is_file():
        return ""
    made = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            made.update(block)
    return made.hexdigest()


def choose_python(kit: "dict[str, list[str]]") -> str:
    """A Python that the kit has wheels for: this one, or another on PATH."""
    machine = platform.machine().lower()
    if sys.platform == "linux":
        machine = MACHINES.get(machine, machine)
    here = SYSTEMS.get(sys.platform, sys.platform) + "-" + machine
    if here not in kit["platforms"]:
        raise ValueError(
            "this kit is for " + ", ".join(kit["platforms"]) + ", and this machine is " + here + "."
        )
    own = ".".join(str(part) for part in sys.version_info[:2])
    if own in kit["python"]:
        return sys.executable
    for version in kit["python"]:
        found = shutil.which("python" + version)
        if found:
            return found
    raise ValueError(
        "this kit has wheels for Python " + ", ".join(kit["python"]) + ", and this machine has " + own + "."
    )


def make_environment(python: str, venv: Path) -> None:
    """Make the environment, with pip from the kit, since a system may have none."""
    program = venv / "bin" / "python"
    is_new = not program.exists()
    if is_new:
        say("making " + str(venv))
        subprocess.run([python, "-m", "venv", "--without-pip", str(venv)], check=True)
    pip = max((KIT / "wheels").glob("pip-*.whl"))
    own = max((KIT / "wheels").glob("llmlab-*.whl"))
    install = [
        str(program),
        str(pip / "pip"),
        "--isolated",
        "--disable-pip-version-check",
        "install",
        "--quiet",
    ]
    install += ["--no-index", "--find-links", str(KIT / "wheels")]
    environment = {
        name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}
    }
    say("installing the wheels (about a minute)")
    subprocess.run([*install, "pip", str(own) + "[lab,classroom]"], check=True, env=environment)
    if not is_new:
        # Another kit may bring other files under the same version.
        subprocess.run([*install, "--force-reinstall", "--no-deps", str(own)], check=True, env=environment)


def say(text: str) -> None:
    """A line for the learner."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def failed(reason: str) -> int:
    """Say why it did not work."""
    sys.stderr.write("install: " + reason + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
