"""Completion behind `%llm`: verbs, options, servers, models and paths."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from glob import escape, glob
from pathlib import Path
from typing import TYPE_CHECKING

from IPython.core.completer import SimpleCompletion, context_matcher
from IPython.core.getipython import get_ipython

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext, SimpleMatcherResult
    from IPython.core.interactiveshell import InteractiveShell

# `%llm …`, `%%llm …` and `server = %llm …`, up to the cursor.
_LINE = re.compile(r"(?:\s*%(%)?|.*=\s*%)llm\s+(.*)", re.DOTALL)
_OUT = ("-o", "--out")
_TAKES_BODY = ["ask"]
_SYNTHETIC = "synthetic:"
_PATIENCE_S = 0.5  # a container engine or a disk that does not answer must not hold up the Tab key


def register(shell: InteractiveShell) -> None:
    """Complete what is typed behind `%llm` in `shell`."""
    shell.Completer.custom_matchers.append(complete)


def unregister(shell: InteractiveShell) -> None:
    """Complete nothing any more."""
    matchers = shell.Completer.custom_matchers
    matchers[:] = [matcher for matcher in matchers if matcher is not complete]


# A matcher and not a `complete_command` hook: to what a hook finds, IPython
# adds the Python names that would fit there.
@context_matcher(identifier="llmlab")  # type: ignore[untyped-decorator]  # IPython is untyped
def complete(context: CompletionContext) -> SimpleMatcherResult:
    """What could stand where the cursor is; nothing where that is not known."""
    found: list[str] = []
    # Whatever goes wrong: the Tab key shows nothing then, and no traceback.
    with contextlib.suppress(Exception):
        line = _LINE.fullmatch(context.text_until_cursor)
        # The body of a cell is a prompt.
        if line and not (context.cursor_line and re.match(r"\s*%%llm\b", context.full_text)):
            # A token of Python's ends at a colon, a word of a command line does not.
            *before, word = re.split(r"\s+", line[2])
            kept = len(word) - len(context.token)
            if word.endswith(context.token):
                found = [
                    found[kept:]
                    for found in candidates(before, word, cell=bool(line[1]))
                    if found.startswith(word)
                ]
    return {"completions": [SimpleCompletion(word) for word in found], "suppress": bool(found)}


def candidates(before: list[str], word: str, *, cell: bool = False) -> list[str]:
    """All that could follow the words `before`, given the beginning of a `word`.

    Args:
        before: The words before it, the verb first.
        word: What is there of the word to be completed.
        cell: Whether a body is to follow, as behind `%%llm`.
    """
    from llmlab.verbs import VERBS  # noqa: PLC0415 - with the first Tab, not with %load_ext

    if not before:
        return ["--help"] if word.startswith("-") else _TAKES_BODY if cell else list(VERBS)
    verb = VERBS.get(before[0])
    if verb is None:
        return []
    if before[-1] in _OUT:
        return _variables()
    for option in verb.options:
        if before[-1] in option.flags and option.takes_value:
            return list(option.choices) or _things(option.completes, word)
    if word.startswith("-"):
        return [*(flag for option in verb.options for flag in option.flags), *_OUT, "--json", "--help"]
    found: list[str] = []
    for positional in verb.positionals:
        found += list(positional.choices) or _things(positional.completes, word)
    return found


def _variables() -> list[str]:
    """The user's own variables, one of which may be assigned anew."""
    shell = get_ipython()
    if shell is None:
        return []
    return [name for name in shell.user_ns if name[0] != "_" and name not in shell.user_ns_hidden]


def _things(kind: str, word: str) -> list[str]:
    """Servers, models or paths."""
    if kind == "server":
        return _at_once(_servers)
    if kind == "model":
        return [*_at_once(lambda: _models(word)), *_paths(word, only=".gguf")]
    if kind == "node":
        return ["any", *_at_once(_nodes)]
    return _paths(word) if kind == "path" else []


def _models(word: str) -> Iterator[str]:
    """The built-in model, those of the catalog and those on this machine; shapes once they are asked for."""
    from llmlab.weights import catalog, shapes, store  # noqa: PLC0415 - with the first Tab

    # The listing of the disk comes last: it is what can be slow.
    sources: tuple[Callable[[], list[str]], ...] = (
        lambda: [entry.name for entry in catalog.entries()],
        lambda: [_SYNTHETIC + name for name in (shapes.shapes() if word.startswith(_SYNTHETIC) else [""])],
        lambda: [model.reference for model in store.stored()],
    )
    seen = {store.TINY}
    yield store.TINY
    for names in sources:
        with contextlib.suppress(Exception):  # what one source does not know, another may
            for name in names():
                if name not in seen:
                    seen.add(name)
                    yield name


def _paths(word: str, *, only: str = "") -> list[str]:
    """Files and folders that begin with `word`, as it was typed."""
    home = str(Path.home())
    typed = word.replace("~", home, 1) if word.startswith("~") else word
    found = []
    for path in sorted(glob(escape(typed) + "*")):  # noqa: PTH207 - keeps "./" and "~" as typed
        folder = Path(path).is_dir()
        if folder or path.endswith(only):
            shown = word[:1] + path[len(home) :] if word.startswith("~") else path
            found.append(shown + "/" if folder else shown)
    return found


def _servers() -> Iterator[str]:
    from llmlab.lab import registry  # noqa: PLC0415 - the same

    for record in registry.find_all():
        yield record.name


def _nodes() -> Iterator[str]:
    from llmlab.backends import nodes  # noqa: PLC0415 - the same

    for node in nodes.all_nodes():
        yield node.name


def _at_once(source: Callable[[], Iterator[str]]) -> list[str]:
    """What a source has to say within a moment."""
    names: list[str] = []

    def look() -> None:
        with contextlib.suppress(Exception):  # the same
            for name in source():
                names.append(name)  # noqa: PERF402 - one by one: what is known in time is shown

    thread = threading.Thread(target=look, name="llmlab-completion", daemon=True)
    thread.start()
    thread.join(_PATIENCE_S)
    return list(names)
