"""Make the seccomp profile of the sealed container from Docker's default one.

    python tools/make_seccomp.py default.json "moby 28.5.2, profiles/seccomp/default.json, 2025-11-05"

The first argument is `profiles/seccomp/default.json` of the moby project (in
its source, or in a distribution's source package of Docker Engine). The
outcome differs from it in three things: `socket` is allowed for AF_UNIX alone;
`socketcall`, with which a 32-bit program would get round that, is gone; and so
is what changes permissions. The container's user owns the directory of its
socket, from which the right to write is taken once the server is ready: it
must not be able to give that back to itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parent.parent / "src/llmlab/isolation/seccomp.json"
AF_UNIX = 1
# Extended attributes include access control lists.
PERMISSIONS = {
    *("chmod", "fchmod", "fchmodat", "fchmodat2"),
    *("setxattr", "lsetxattr", "fsetxattr", "setxattrat"),
    *("removexattr", "lremovexattr", "fremovexattr", "removexattrat"),
}


def narrow(profile: dict[str, Any]) -> dict[str, Any]:
    """The profile with sockets of the unix family only, and without changes of permissions.

    Raises:
        ValueError: If the profile's `socket` rule is not where it is expected;
            then the default has changed and this script must be looked at.
    """
    rules: list[dict[str, Any]] = []
    found = 0
    for rule in profile["syscalls"]:
        names = [name for name in rule["names"] if name not in {"socket", "socketcall", *PERMISSIONS}]
        found += "socket" in rule["names"]
        if names:
            rules.append({**rule, "names": names})
    if found != 1 or profile["defaultAction"] != "SCMP_ACT_ERRNO":
        raise ValueError("not the expected default profile: look at its socket rule by hand")
    only_unix = [{"index": 0, "value": AF_UNIX, "op": "SCMP_CMP_EQ"}]
    rules.append({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": only_unix})
    return {**profile, "syscalls": rules}


def main() -> None:
    """Read the default, write the narrowed one with its source."""
    source, origin = sys.argv[1:]
    profile = narrow(json.loads(Path(source).read_text(encoding="utf-8")))
    # Docker ignores keys it does not know: the source travels with the file.
    text = json.dumps({"source": f"{origin}; made by tools/make_seccomp.py", **profile}, indent=1)
    TARGET.write_text(text + "\n", encoding="utf-8")
    print(f"wrote {TARGET.name}: {len(profile['syscalls'])} rules")


if __name__ == "__main__":
    main()
