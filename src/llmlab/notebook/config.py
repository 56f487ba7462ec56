"""`%config LLMLab`: what `start` and `ask` take in this notebook where nothing else is typed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, get_args

from traitlets import Float, Int, TraitError, Unicode, validate
from traitlets.config import Configurable

from llmlab.errors import LabError, ServerBusyError, StartError, UsageError, suggest

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets import Bunch

    from llmlab.verbs import Call, Verb

_VERBS = ("start", "ask")
_SOURCE = "%config LLMLab"


class LLMLab(Configurable):
    """Defaults of `%llm start` and `%llm ask` in this notebook; what is typed comes first.

    The class is called as it is typed: `%config LLMLab.context = 2048`.
    """

    backend = Unicode(None, allow_none=True, help="Where `start` runs a server: native or container.").tag(
        config=True
    )
    profile = Unicode(
        None, allow_none=True, help="The isolation of a container that `start` makes, such as sealed or gpu."
    ).tag(config=True)
    context = Int(None, allow_none=True, help="Tokens of context for each request, for `start`.").tag(
        config=True
    )
    timeout_s = Float(
        None,
        allow_none=True,
        help="Longest wait in seconds: of `start` for the server, of `ask` for the next piece.",
    ).tag(config=True)

    @validate("backend")
    def _known_backend(self, proposal: Bunch) -> str | None:
        from llmlab.backends import backend_names  # noqa: PLC0415 - not with %load_ext

        return _one_of("backend", proposal["value"], backend_names())

    @validate("profile")
    def _known_profile(self, proposal: Bunch) -> str | None:
        from llmlab.profiles import ProfileName  # noqa: PLC0415 - likewise

        return _one_of("profile", proposal["value"], get_args(ProfileName))

    @validate("context")
    def _possible_context(self, proposal: Bunch) -> int | None:
        value: int | None = proposal["value"]
        if value is not None and value < 1:
            raise TraitError(f"context is {value}: it must be 1 or more, or None")
        return value

    @validate("timeout_s")
    def _possible_timeout(self, proposal: Bunch) -> float | None:
        from llmlab.lab.server import check_timeout  # noqa: PLC0415 - likewise

        value: float | None = proposal["value"]
        if value is not None:
            try:
                check_timeout(value)
            except UsageError as error:
                raise TraitError(str(error)) from None
        return value

    def filled(self, call: Call) -> Call:
        """The call with what is set here, as far as the verb knows it and nothing else was typed."""
        values = {**self._of(call.verb), **call.arguments}
        if values.get("backend") == "native" and "profile" not in call.arguments:
            values.pop("profile", None)  # a native server has none
        names = [parameter.name for parameter in call.verb.parameters]
        return dataclasses.replace(call, arguments={name: values[name] for name in names if name in values})

    def explained(self, error: LabError, typed: Call, filled: Call) -> LabError:
        """The error, which says what was not typed but set here: it may be the reason."""
        found = [
            f"{name} is {value!r}" for name, value in filled.arguments.items() if name not in typed.arguments
        ]
        if found and isinstance(error, UsageError | StartError | ServerBusyError):
            note = f"{' and '.join(found)}, set by {_SOURCE}"
            error.hint = f"{error.hint}; {note}" if error.hint else note
        return error

    def help_text(self, verb: Verb) -> str:
        """What is set here for a verb, to stand below its help; "" if nothing is."""
        lines = []
        for name, value in self._of(verb).items():
            (parameter,) = (each for each in verb.parameters if each.name == name)
            if parameter.values:
                lines.append(f"  {parameter.flags[parameter.values.index(value)]}")
            else:
                lines.append(f"  {parameter.flags[0]} {value}")
        return "\n".join([f"set by {_SOURCE}, where nothing else is typed:", *lines, ""]) if lines else ""

    def _of(self, verb: Verb) -> dict[str, Any]:
        """What is set here for a verb."""
        if verb.name not in _VERBS:
            return {}
        known = {parameter.name for parameter in verb.parameters}
        values = {name: getattr(self, name) for name in self.trait_names(config=True)}
        return {name: value for name, value in values.items() if value is not None and name in known}


def register(shell: InteractiveShell) -> LLMLab:
    """Make `%config LLMLab` known to a shell."""
    config = LLMLab(parent=shell)
    configurables: Any = shell.configurables  # typed too narrowly: a shell is only its first
    configurables.append(config)
    return config


def unregister(shell: InteractiveShell) -> None:
    """Take it away; the shell remembers what was set, as of all of its settings."""
    shell.configurables[:] = [each for each in shell.configurables if not isinstance(each, LLMLab)]


def _one_of(kind: str, value: str | None, known: tuple[str, ...]) -> str | None:
    if value is not None and value not in known:
        raise TraitError(f"no {kind} {value!r} ({suggest(value, known)})")
    return value
