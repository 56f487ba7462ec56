"""How far a learner has got: to see, to hand in, and for a teacher to lay side by side."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

from llmlab.arguments import Arg
from llmlab.errors import MALFORMED, UnknownNameError, UsageError
from llmlab.workshop import keeping
from llmlab.workshop.lessons import NUMBERS, load
from llmlab.workshop.modes import here
from llmlab.workshop.progress_views import AnswerKey, ClassProgress, Learner, LessonProgress, Progress
from llmlab.workshop.sitting import standing

FORMAT = "llmlab progress 1"
_LONGEST_BYTES = 1 << 20  # a progress file has a few thousand


def progress(
    lesson: str | None = None,
    *,
    save: Annotated[str | None, Arg(metavar="FILE", completes="path")] = None,
    name: str | None = None,
    collect: Annotated[str | None, Arg(metavar="FOLDER", completes="path")] = None,
    key: bool = False,
) -> Progress | ClassProgress | AnswerKey:
    """Show how far you have got in the lessons, or a class has.

    What the checks of the notebooks found is kept on this machine. It can be
    handed in as a file, which says what was predicted, tried and reached; it is
    there for help, not for marks: a learner could change it.

    Args:
        lesson: A lesson, such as 02, with each of its tasks. Unset: a line for each lesson.
        save: Write it to this file as well, to be handed in.
        name: The learner's name in that file.
        collect: Read the files that were handed in to this folder, and show the class.
        key: Show the instructor's answers, with the reasons and the usual mistakes.

    Raises:
        UsageError: The file or folder cannot be used, or options do not go together.
    """
    numbers = _chosen(lesson)
    if key:
        return AnswerKey(lessons=tuple(load(number) for number in numbers))
    if collect is not None:
        if save or name:
            raise UsageError("--collect reads, --save writes", hint="use one of them")
        return _collected(Path(collect).expanduser(), numbers)
    if name is not None and save is None:
        raise UsageError("--name is for a file that is saved", hint="add --save FILE")
    found = Progress(lessons=_own(numbers), detailed=lesson is not None)
    if save is not None:
        _save(Path(save).expanduser(), to_hand_in(found, name or ""))
        return Progress(lessons=found.lessons, detailed=found.detailed, saved=save)
    return found


def to_hand_in(found: Progress | None = None, name: str = "") -> dict[str, Any]:
    """A learner's progress as plain JSON data; `learner_of` reads it.

    Args:
        found: The progress. Unset: in all lessons.
        name: The learner's name.
    """
    lessons = found.lessons if found else _own(NUMBERS)
    return {
        "format": FORMAT,
        "name": name,
        "made": time.time(),
        "containers": here().to_dict()["container"],
        "lessons": {one.lesson.number: keeping.to_data(one.lesson.number, one.kept) for one in lessons},
    }


def _own(numbers: tuple[str, ...]) -> tuple[LessonProgress, ...]:
    """What is kept on this machine."""
    mode = here()
    lessons = []
    for number in numbers:
        kept = keeping.read(number)
        lessons.append(
            LessonProgress(lesson=load(number), standing=standing(load(number), kept, mode), kept=kept)
        )
    return tuple(lessons)


def _chosen(lesson: str | None) -> tuple[str, ...]:
    if lesson is None:
        return NUMBERS
    number = lesson.zfill(2)
    if number not in NUMBERS:
        raise UnknownNameError("lesson", lesson, NUMBERS)
    return (number,)


def _save(path: Path, data: dict[str, Any]) -> None:
    if path.exists() and _read(path) is None:
        raise UsageError(f"{path} is there and is no progress file", hint="choose another name for --save")
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(json.dumps(data, indent=1), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UsageError(
            f"{path} cannot be written: {error.strerror}", hint="choose another place"
        ) from error


def _collected(folder: Path, numbers: tuple[str, ...]) -> ClassProgress:
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder", hint="put the learners' files into one, and name it")
    newest: dict[str, Learner] = {}
    problems = []
    for path in sorted(folder.glob("*.json")):
        learner = _read(path)
        if learner is None:
            problems.append(f"{path.name} is no progress file of this version of llmlab")
            continue
        before = newest.get(learner.name)
        if before and before.made >= learner.made:
            problems.append(f"{path.name} is an older one of {learner.name}")
            continue
        if before:
            problems.append(f"of {learner.name} there are several; {path.name} is the newest")
        newest[learner.name] = learner
    if not newest and not problems:
        raise UsageError(
            f"{folder} holds no progress files", hint="learners make them: llmlab progress --save FILE"
        )
    lessons = tuple(load(number) for number in numbers)
    return ClassProgress(lessons=lessons, learners=tuple(newest.values()), problems=tuple(problems))


def _read(path: Path) -> Learner | None:
    """What stands in a progress file; None if it is none."""
    try:
        if path.stat().st_size > _LONGEST_BYTES:
            return None
        return learner_of(json.loads(path.read_text(encoding="utf-8")), path.stem)
    except (OSError, ValueError, RecursionError):
        return None


def learner_of(data: Any, name: str) -> Learner | None:
    """What a learner has handed in; None if it is no progress of this version.

    Args:
        data: The content of a progress file.
        name: The learner's name, where the file does not tell.
    """
    try:
        if data["format"] != FORMAT:
            return None
        made = float(data["made"])
        time.localtime(made)  # it is shown as a day, which a number may be too large for
        return Learner(
            name=str(data.get("name") or name)[:80],
            made=made,
            kept={
                str(number): keeping.from_data(lesson)
                for number, lesson in data["lessons"].items()
                if number in NUMBERS
            },
        )
    except (OSError, *MALFORMED):
        return None
