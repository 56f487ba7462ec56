"""A question behind `%llm` may end in a question mark.

IPython takes every line that ends in one for a request for help on its last
word: `%llm ask What is this?` would say that there is no object `this`, and the
cell would count as a success. `%llm?` and `%llm ask?` are left to IPython.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_LINE = re.compile(r"(\s*(?:[\w.]+\s*=\s*)?)%llm\s+(\S+\s.*\?\s*)", re.DOTALL)


def register(shell: InteractiveShell) -> None:
    """Read such lines as what they are, in `shell`."""
    shell.input_transformers_cleanup.append(transform)


def unregister(shell: InteractiveShell) -> None:
    """Leave them to IPython."""
    if transform in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.remove(transform)


def transform(lines: list[str]) -> list[str]:
    """The lines of a cell, with such lines as the call that IPython makes of a magic."""
    if lines and lines[0].startswith("%%"):
        return lines
    matches = [(_LINE.fullmatch(line), line) for line in lines]
    return [
        f"{match[1]}get_ipython().run_line_magic('llm', {match[2].strip()!r})\n" if match else line
        for match, line in matches
    ]
