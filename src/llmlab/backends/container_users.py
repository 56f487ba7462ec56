"""The user that a server runs as in its container, and whether its socket is one that we may use."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from llmlab.backends.base import Starting
from llmlab.backends.docker_api import DockerApi

_NOBODY = 65534


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user in a container.

    Attributes:
        request: What the engine is told: `uid:gid`, or "" for the image's own.
        uid: Its number in there; None if only a name is known.
        gid: Its group's number; None likewise.
        ours: Whether we may use a socket that it makes, and it a directory that we give it.
        notes: What the user should know.
    """

    request: str
    uid: int | None
    gid: int | None
    ours: bool
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """As in messages."""
        return self.request or "of the image"


def of(api: DockerApi, starting: Starting, image: str) -> User:
    """The user that the server runs as.

    By default it must be able to write to the socket's directory and to be
    connected to by us: that is our own uid. In a rootless engine's user namespace
    that is 0. Root runs it as nobody, whose socket it can use all the same.

    Args:
        api: The container engine.
        starting: What is to be started.
        image: The image's id.
    """
    wanted = starting.profile.user
    uid, gid = os.getuid(), os.getgid()
    if wanted == "caller":
        if api.is_rootless():
            return User(request="0:0", uid=0, gid=0, ours=uid != 0 or api.is_local())
        if uid != 0:
            return User(request=f"{uid}:{gid}", uid=uid, gid=gid, ours=not api.maps_users())
        files = starting.spec.model.files
        if api.is_local() and not all(path.stat().st_mode & stat.S_IROTH for path in files):
            note = f"runs as root in the container, because only root may read {starting.spec.model.path}"
            return User(request="0:0", uid=0, gid=0, ours=not api.maps_users(), notes=(note,))
        request = f"{_NOBODY}:{_NOBODY}"
        return User(request=request, uid=_NOBODY, gid=_NOBODY, ours=not api.maps_users())
    text = api.image_user(image) if wanted == "image" else wanted
    name, _, group = (text or "0:0").partition(":")
    number = int(name) if name.isdigit() else None
    group_number = int(group) if group.isdigit() else 0 if number is not None and not group else None
    if api.is_rootless():
        ours = number == 0
    else:
        ours = not api.maps_users() and (number is not None if uid == 0 else number == uid)
    return User(request="" if wanted == "image" else wanted, uid=number, gid=group_number, ours=ours)


def give(api: DockerApi, user: User, path: Path) -> None:
    """Give a directory or file of root's to the container's user; everybody else's is theirs already."""
    if os.getuid() == 0 and not api.is_rootless() and user.uid is not None:
        os.chown(path, user.uid, -1 if user.gid is None else user.gid)


def take_back(folder: Path) -> None:
    """Nothing can be made in it any more, nor removed; the socket in it can still be used.

    A container that could write there could fill the host's disk, or put
    something else in the socket's place.
    """
    if os.getuid() == 0:
        # The group is the container's: a gate beside it has to get to the socket.
        os.chown(folder, 0, -1)
        folder.chmod(0o710)
    else:
        folder.chmod(0o500)


def tmpfs(user: User) -> dict[str, str]:
    """Options of a small file system in memory that only the container's user may use."""
    owner = "mode=1777" if user.uid is None else f"mode=0700,uid={user.uid},gid={user.gid or 0}"
    return {"type": "tmpfs", "device": "tmpfs", "o": f"size=64k,nr_inodes=16,{owner}"}
