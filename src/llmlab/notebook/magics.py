"""The magics: parse, delegate, nothing else. The verbs are in `llmlab.verbs`."""

from __future__ import annotations

import dataclasses
import keyword
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError as OneLineError
from IPython.core.magic import needs_local_scope, no_var_expand

from llmlab.errors import LabError, UnknownNameError, UsageError
from llmlab.notebook import config
from llmlab.reporting import Reporter, reporting_to

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from llmlab.notebook.reporters import ScreenReporter
    from llmlab.verbs import Call

_NAME = "llm"
_KINDS = ("line", "cell")
_OUT = ("-o", "--out")
_OUT_HELP = "in a notebook also:\n  -o NAME, --out NAME   keep the result in a variable of this name\n"
_PLACEHOLDER = re.compile(r"(\\?)\{\{\s*([^\W\d]\w*)\s*\}\}")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or the stop button, while a verb was at work: one line in place of a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted: {self}"]


def register(shell: InteractiveShell, reporter: ScreenReporter) -> None:
    """Make `%llm` and `%%llm` known to `shell`, and `%config LLMLab`."""
    defaults = config.register(shell)

    @no_var_expand  # {braces} and $dollars in a prompt arrive as they were typed
    @needs_local_scope
    def llm(line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None) -> Any:
        r"""Start language models, ask them, look into them, stop them.

        %llm start tiny                 start the built-in model
        %llm ask "What is a container?" ask the newest server
        %llm ps                         list the servers
        %llm stop --all                 stop them all
        %llm models --fit               which models this machine can run

        `%llm` alone lists the verbs, `%llm VERB --help` explains one of them.
        `server = %llm start tiny` and `%llm start tiny -o server` keep the result.

        A long prompt is the body of a cell, as it stands:

        %%llm ask tiny -o answer
        Explain {this} for $5, in "two" lines.

        {{name}} is replaced by the value of the variable `name`. A backslash
        before it, as in \{{name}}, leaves the braces in the prompt.

        `%config LLMLab` shows what `start` and `ask` take in this notebook where
        nothing else is typed; `%config LLMLab.context = 2048` sets it.
        """
        from llmlab import verbs  # noqa: PLC0415 - with the first %llm, not with %load_ext

        try:
            prog = f"%{_NAME}" if cell is None else f"%%{_NAME}"
            values = {**shell.user_ns, **(local_ns or {})}
            words, out = _out(_with_numbers(word, values) for word in _split(line))
            call = _with_values(verbs.parse(words, prog=prog, body=cell), values)
            result = _run(call, defaults, reporter)
        except verbs.HelpShown as shown:
            verb = verbs.VERBS.get(words[0]) if words else None
            more = [_OUT_HELP, defaults.help_text(verb)] if verb else []
            print("\n".join([shown.text, *filter(None, more)]))  # noqa: T201 - help is text, to be shown where it was asked for
            return None
        except UsageError as error:
            # IPython shows exactly this class, and no subclass, as one line.
            raise OneLineError(" ".join(str(error).split())) from None
        if out:
            shell.push({out: result})
        return result

    for kind in _KINDS:
        shell.magics_manager.register_function(llm, kind, _NAME)


def unregister(shell: InteractiveShell) -> None:
    """Take them away."""
    for kind in _KINDS:
        shell.magics_manager.magics[kind].pop(_NAME, None)
    config.unregister(shell)


def _run(typed: Call, defaults: config.LLMLab, reporter: ScreenReporter) -> Any:
    """Call the verb, and show with what takes a while which Python line does the same."""
    call = defaults.filled(typed)
    try:
        if call.json:
            with reporting_to(Reporter()):  # data was asked for: nothing else is shown
                return call.run().to_dict()
        reporter.announce(call.python())
        try:
            return call.run()
        finally:
            reporter.announce("")
    except LabError as error:
        raise defaults.explained(error, typed, call) from error.__cause__
    except KeyboardInterrupt as interrupt:
        if type(interrupt) is not KeyboardInterrupt:  # it has something to say
            raise
        raise Interrupted(call.verb.name) from None


def _out(typed: Iterable[str]) -> tuple[list[str], str]:
    """The words without `-o NAME`, and that name; "" if there is none.

    Raises:
        UsageError: If it is no name for a variable.
    """
    words, name = list(typed), ""
    end = words.index("--") if "--" in words else len(words)
    kept, left = [], iter(words[:end])
    for word in left:
        flag, joined, value = word.partition("=")
        if flag not in _OUT:
            kept.append(word)
            continue
        name = value if joined else next(left, "")
        if not name.isidentifier() or keyword.iskeyword(name):
            raise UsageError(
                f"{name!r} is no name for a variable" if name else f"{flag} needs a variable's name",
                hint=f"such as {flag} answer",
            )
    return [*kept, *words[end:]], name


def _split(line: str) -> list[str]:
    """The words of a line as a shell would see them."""
    try:
        return shlex.split(line)
    except ValueError:
        raise UsageError(
            "a quote is not closed",
            hint="put the prompt in double quotes, or use a cell that begins with %%llm ask",
        ) from None


def _with_numbers(word: str, values: Mapping[str, Any]) -> str:
    """Put in numbers before parsing, so that options can be variables.

    Everything else waits until the line is parsed: a text that begins with a
    dash must not become an option, and what a model wrote must not be searched
    for placeholders.
    """

    def number(match: re.Match[str]) -> str:
        value = values.get(match[2])
        return _text(match[2], value) if not match[1] and isinstance(value, int | float) else match[0]

    return _PLACEHOLDER.sub(number, word)


def _text(name: str, value: Any) -> str:
    try:
        return str(value)
    except ValueError as error:  # Python refuses to write numbers of more than 4300 digits
        raise UsageError(f"{{{{{name}}}}} cannot become a text: {error}", hint="use a shorter one") from None


def _with_values(call: Call, values: Mapping[str, Any]) -> Call:
    """The call with `{{name}}` in its texts replaced by variables."""

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return match[0][1:]
        if match[2] not in values:
            names = [name for name in values if not name.startswith("_")]
            hint = UnknownNameError("variable", match[2], names).hint
            raise UsageError(
                f"no variable {match[2]!r} for {match[0]}",
                hint=f"{hint if hint.startswith('did') else 'assign it first'}; to keep the braces, write \\{match[0]}",
            )
        return _text(match[2], values[match[2]])

    def filled(argument: Any) -> Any:
        if isinstance(argument, str):
            return _PLACEHOLDER.sub(value, argument)
        if isinstance(argument, list | tuple):
            return type(argument)(filled(item) for item in argument)
        return argument

    return dataclasses.replace(call, arguments={key: filled(item) for key, item in call.arguments.items()})
