"""The form of a start: from what was filled in to the line that does the same, and whether it would go."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from llmlab import render
from llmlab.errors import LabError, MemoryFitError, ModelNotFoundError, UnknownNameError
from llmlab.lab import launch
from llmlab.lab.planning import Wish
from llmlab.reporting import Reporter, reporting_to
from llmlab.verbs import VERBS, Call, parse
from llmlab.weights import catalog, hub

Verdict = Literal["fits", "too big", "refused", "unknown"]
_HUB = "hf:"
_FETCHABLE = (_HUB, "synthetic:")
_REMEDY = re.compile(r"((?:--[a-z-]+ [\w.]+ )+)would fit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Whether a start would go; nothing was started or fetched.

    Attributes:
        verdict: "too big" for the memory there is; "refused" for another reason;
            "unknown" if it can only be told once the model is here.
        message: What `start` would say, or what it would take.
        hint: What to do about it; "" if nothing is to be done.
        notes: What `start` would note.
        remedy: Parameters of `start` with which it would fit, as they are typed.
    """

    verdict: Verdict
    message: str
    hint: str = ""
    notes: tuple[str, ...] = ()
    remedy: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """What was filled in.

    Attributes:
        values: Parameter of `start` → what was typed; what is empty is not given.
    """

    values: Mapping[str, str]

    def call(self) -> Call:
        """The call of `start` that it stands for.

        Raises:
            UsageError: What was typed does not fit, in the words of the command line.
        """
        verb = VERBS["start"]
        words: list[str] = []
        known = {parameter.name: parameter for parameter in verb.parameters}
        for name, value in self.values.items():
            text = str(value).strip()
            if name not in known:
                raise UnknownNameError("option of start", name, known)
            parameter = known[name]
            if not text or (text == str(parameter.default) and parameter.flags):
                continue
            if not parameter.flags:
                words.append(text)
            elif parameter.values:
                words.append(f"--{text}")
            elif parameter.type is None:
                words.append(parameter.flags[0])
            else:
                words.append(f"{parameter.flags[0]}={text}")
        return parse(["start", *words], prog="%llm")

    def check(self) -> Checked:
        """Whether it would go, as far as that can be told without starting or fetching anything."""
        try:
            call = self.call()
            wish = _wish(call)
            if _only_on_the_hub(wish.model):
                return Checked(
                    verdict="unknown",
                    message=f"{wish.model} is not here: whether it fits is told when it is fetched",
                )
            with reporting_to(Reporter()):
                return _tried(wish)
        except LabError as error:
            return told(error)


def told(error: LabError, model: str = "tiny") -> Checked:
    """What is to be said of an error of a start.

    Args:
        error: The error.
        model: The model that was to be started.
    """
    remedy = None
    if found := _REMEDY.search(error.hint):
        arguments = parse(["start", model, *shlex.split(found[1])]).arguments
        remedy = {name: str(value) for name, value in arguments.items() if name != "model"}
    verdict: Verdict = "too big" if isinstance(error, MemoryFitError) else "refused"
    return Checked(verdict=verdict, message=error.message, hint=error.hint, remedy=remedy)


def _wish(call: Call) -> Wish:
    """The arguments of `start`, those that were not given as well."""
    given = call.arguments
    parameters = inspect.signature(call.verb.function).parameters
    arguments: dict[str, Any] = {
        field.name: given.get(field.name, parameters[field.name].default)
        for field in fields(Wish)
        if field.name in parameters
    }
    return Wish(**arguments)


def _only_on_the_hub(model: str) -> bool:
    """Whether a hub would have to be asked what the model is made of."""
    return model.startswith(_HUB) and not hub.find(hub.parse(model))


def _tried(wish: Wish) -> Checked:
    try:
        decided = launch.decide(wish, fetch=False)
    except ModelNotFoundError:
        # What can be fetched or written was found to fit before it was looked for.
        listed = catalog.find(wish.model)
        if not listed and not wish.model.startswith(_FETCHABLE):
            raise
        first = "written" if wish.model.startswith("synthetic:") else "fetched"
        return Checked(verdict="fits", message=f"it fits; the model is {first} first")
    need = decided.plan.prediction.required_mib
    return Checked(verdict="fits", message=f"it fits: it needs {render.mib_text(need)}", notes=decided.notes)
