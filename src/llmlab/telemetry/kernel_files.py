"""The kernel's small files, which say something else each time they are read."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

_GONE = {errno.ENODEV, errno.ENOENT, errno.ESRCH}


class KernelFile:
    """A small file of the kernel's, opened once and then read from its start again and again.

    Whatever goes wrong, there is nothing to read. A file that is gone, or that was
    not there at the beginning, does not come back: one that has the same name
    later belongs to something else.

    Args:
        path: The file, or None for one that there is not.
    """

    __slots__ = ("_descriptor",)

    def __init__(self, path: Path | None) -> None:
        self._descriptor: int | None = None
        if path is not None:
            # ValueError: a null byte in a path that came from a file.
            with suppress(OSError, ValueError):
                self._descriptor = os.open(path, os.O_RDONLY)

    def read(self) -> bytes | None:
        """All that it holds now; None if it cannot be read."""
        size = 8192
        while self._descriptor is not None:
            try:
                found = os.pread(self._descriptor, size, 0)
            except OSError as error:
                # What has ended must not be held by our descriptor; others may work next time.
                if error.errno in _GONE:
                    self.close()
                return None
            if len(found) < size:
                return found
            # Read anew, so that all of it is of the same moment.
            size *= 4
        return None

    @property
    def is_open(self) -> bool:
        """Whether there is anything to read from."""
        return self._descriptor is not None

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
