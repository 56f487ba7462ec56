"""Which files ggml itself reads: `python -m tests.ggml_reader LIBRARY DIRECTORY` prints their names.

A process of its own, because hostile files go in, and because another ggml may
be loaded where the tests run.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path


class Options(ctypes.Structure):
    """ggml's `gguf_init_params`: the header alone, no tensors."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def main() -> None:
    ggml = ctypes.CDLL(sys.argv[1])
    ggml.gguf_init_from_file.argtypes = [ctypes.c_char_p, Options]
    ggml.gguf_init_from_file.restype = ctypes.c_void_p
    ggml.gguf_free.argtypes = [ctypes.c_void_p]
    for path in Path(sys.argv[2]).iterdir():
        if header := ggml.gguf_init_from_file(os.fsencode(path), Options(no_alloc=True, ctx=None)):
            ggml.gguf_free(header)
            print(path.name)  # noqa: T201 - its output


if __name__ == "__main__":
    main()
