"""Write binder/requirements.txt: those lines of requirements.lock that the notebooks need.

    python -m tools.binder_lock

repo2docker installs that file before it has the rest of the repository, so it
has to hold all it says itself. It is for the Python of binder/runtime.txt, on
Linux; the packages have to be installed here, since they say what they need.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parent.parent
BINDER = REPOSITORY / "binder"
_EXTRAS = ("lab", "build", "classroom")
# What makes the package itself; and the other front end that repo2docker brings, to match JupyterLab.
_MORE = ("hatchling", "notebook")
_HEAD = """\
# What the notebooks need of requirements.lock, for the Python of runtime.txt.
# Written by `python -m tools.binder_lock`; a test compares them.
"""


def python_version() -> str:
    """The Python of binder/runtime.txt, such as "3.11"."""
    return (BINDER / "runtime.txt").read_text(encoding="ascii").strip().removeprefix("python-")


def text() -> str:
    """What binder/requirements.txt has to say.

    Raises:
        KeyError: A package that is needed is not in requirements.lock.
    """
    locked = dict(_locked())
    roots = [Requirement(line) for line in metadata.requires("llmlab") or ()]
    names = _needed([*_wanted(roots, _EXTRAS), *map(Requirement, _MORE)])
    return _HEAD + "".join(locked[name] for name in sorted(names))


def _locked() -> Iterator[tuple[str, str]]:
    """Name and lines of each package of the lock that is for this Python."""
    lock = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    for block in re.findall(r"^[a-z0-9].*\n(?:[ \t]+.*\n)*", lock, re.MULTILINE):
        requirement = Requirement(block.split("\\\n", 1)[0])
        if requirement.marker is None or requirement.marker.evaluate(_environment()):
            yield canonicalize_name(requirement.name), block


def _needed(requirements: Iterable[Requirement]) -> set[str]:
    """The names of the packages, and of all that they need."""
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    left = list(requirements)
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        found.add(name)
        key = (name, frozenset(requirement.extras))
        if key not in seen:
            seen.add(key)
            lines = metadata.requires(name) or ()
            left += _wanted(map(Requirement, lines), ("", *requirement.extras))
    return found


def _wanted(requirements: Iterable[Requirement], extras: Iterable[str]) -> list[Requirement]:
    """Those that hold for this Python and one of the extras."""
    environments = [_environment(extra) for extra in ("", *extras)]
    return [
        requirement
        for requirement in requirements
        if requirement.marker is None or any(map(requirement.marker.evaluate, environments))
    ]


def _environment(extra: str = "") -> dict[str, str]:
    """Where it will be installed."""
    version = python_version()
    fixed = {
        "python_version": version,
        "python_full_version": f"{version}.0",
        "implementation_version": f"{version}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "os_name": "posix",
        "extra": extra,
    }
    return {**{name: str(value) for name, value in default_environment().items()}, **fixed}


def main() -> int:
    """Write the file."""
    (BINDER / "requirements.txt").write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
