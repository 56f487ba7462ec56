"""A directory of safetensors, as the hub's original models are: which files belong to it, and their headers.

config.json says what the model is, *.safetensors hold its weights, in one file or in several that an
index names, and beside them lie the tokenizer's files. In the hub's cache all of these are links; a
model is known here by its first file of weights. (Format: safetensors, README; names: transformers.)
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmlab.errors import ModelFileError, ModelNotFoundError

SUFFIX: Final = ".safetensors"
CONFIG: Final = "config.json"
INDEX: Final = "model.safetensors.index.json"
_ONE: Final = "model.safetensors"
# Mistral's own form of the same weights.
_OTHER_FORM: Final = "consolidated"
_PART: Final = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.safetensors")
# What belongs to a tokenizer or to a chat; code is not among it, nor weights in other forms.
_BESIDE: Final = frozenset({".json", ".jinja", ".model", ".tiktoken", ".txt"})
_LENGTH: Final = struct.Struct("<Q")
_MOST_HEADER: Final = 100_000_000  # safetensors' own limit
_MOST_JSON: Final = 200_000_000
_AGAIN: Final = "download it again"


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor as a header has it.

    Attributes:
        name: Its name, such as `model.layers.0.self_attn.q_proj.weight`.
        dtype: Such as "BF16".
        shape: Its dimensions, slowest first.
        nbytes: Bytes of its data.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a directory with such a model, or one of its files of weights."""
    if path.suffix == SUFFIX and not path.is_dir():
        return True
    try:
        return path.is_dir() and ((path / CONFIG).exists() or any(path.glob(f"*{SUFFIX}")))
    except OSError:
        return False  # reading it says why


def first(path: Path) -> Path:
    """The file by which a model is known.

    Args:
        path: Its directory, or one of its files.

    Raises:
        ModelError: As `files`; also if there is no such file, or it is none of the model's.
    """
    if path.is_dir():
        return files(path)[0]
    if not path.exists() and not path.is_symlink():
        raise ModelNotFoundError(
            f"{path} does not exist", hint="name the directory with the model's config.json"
        )
    found = files(path.parent)
    if path.name not in {each.name for each in found}:
        raise ModelFileError(
            f"{path} is none of the files of the model in its directory: {_some([each.name for each in found])}",
            hint=f"name the directory: {path.parent}",
        )
    return found[0]


def name_of(path: Path) -> str:
    """What a model is called: its directory's name; of the hub's cache, that of the repository.

    Args:
        path: Its first file.
    """
    folder = path.parent.absolute()
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.rpartition("--")[2]
    return folder.name


def files(folder: Path) -> tuple[Path, ...]:
    """A model's files of weights, in order; links are not resolved.

    Raises:
        ModelNotFoundError: If there is no such directory, or none of weights in it, or it cannot be read.
        ModelFileError: If config.json is missing, or a file that the index or the names of others speak of.
    """
    try:
        return _files(folder)
    except OSError as error:
        raise ModelNotFoundError(
            f"{folder} cannot be read: {error.strerror or error}", hint="see who owns it"
        ) from error


def _files(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        raise ModelNotFoundError(
            f"{folder} is no directory", hint="name the directory with the model's config.json"
        )
    there = sorted(path for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))
    found = _indexed(folder) or [path for path in there if path.name == _ONE]
    found = found or [path for path in there if not path.name.startswith(_OTHER_FORM)]
    if not found:
        raise ModelNotFoundError(
            f"{folder} has no model in the form of {SUFFIX}",
            hint="llmlab takes no other form of weights but GGUF",
        )
    if not (folder / CONFIG).exists():
        adapter = (folder / "adapter_config.json").exists()
        raise ModelFileError(
            f"{folder} has weights and no {CONFIG}, which says what they are"
            + (": it is an adapter (LoRA) of another model" if adapter else ""),
            hint="merge it into that model first" if adapter else f"put the model's {CONFIG} beside them",
        )
    for path in (*found, *_beside(folder)):
        _require(path)
    _require_whole(found)
    return tuple(found)


def beside(folder: Path) -> tuple[Path, ...]:
    """What a model needs besides its weights: its configuration, and the files of its tokenizer."""
    return tuple(_beside(folder))


def parts(path: Path) -> list[Part]:
    """The tensors of a file.

    Raises:
        ModelNotFoundError: If it cannot be read.
        ModelFileError: If it is no such file, or damaged.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(_LENGTH.size)
            length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else _MOST_HEADER + 1
            if length > min(_MOST_HEADER, size - _LENGTH.size):
                raise ModelFileError(f"{path} is no {SUFFIX} file, or is cut off", hint=_AGAIN)
            header = json.loads(file.read(length))
        found = [_part(path, name, entry) for name, entry in header.items() if name != "__metadata__"]
        end = max(
            (int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"),
            default=0,
        )
    except OSError as error:
        raise ModelNotFoundError(
            f"{path} cannot be read: {error.strerror or error}", hint="see who owns it"
        ) from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path} is damaged: its header cannot be read", hint=_AGAIN) from error
    if _LENGTH.size + length + end != size:
        have, want = size, _LENGTH.size + length + end
        raise ModelFileError(
            f"{path} is damaged: it has {have} bytes, and its header speaks of {want}", hint=_AGAIN
        )
    return found


def read_json(path: Path) -> dict[str, Any]:
    """An object in a file of JSON; {} if there is no such file.

    Raises:
        ModelFileError: If it holds anything else, or cannot be read.
    """
    try:
        if not path.exists():
            return {}
        if path.stat().st_size > _MOST_JSON:
            raise ModelFileError(f"{path} is too large to be what its name says", hint=_AGAIN)
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}", hint=_AGAIN) from error
    if not isinstance(found, dict):
        raise ModelFileError(f"{path} is damaged: it holds no object", hint=_AGAIN)
    return found


def _indexed(folder: Path) -> list[Path]:
    """The files that the index names; none without one."""
    if not (folder / INDEX).exists():
        return []
    named = read_json(folder / INDEX).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        raise ModelFileError(f"{folder / INDEX} is damaged: it names no files", hint=_AGAIN)
    names = sorted(set(named.values()))
    for name in names:
        # They are files of this directory: nothing else is read, nor mounted.
        if name != Path(name).name or not name.endswith(SUFFIX):
            raise ModelFileError(
                f"{folder / INDEX} is damaged: {name[:80]!r} is no file of weights", hint=_AGAIN
            )
    missing = [name for name in names if not (folder / name).exists() and not (folder / name).is_symlink()]
    if missing:
        raise ModelFileError(
            f"{folder} lacks {_some(missing)}: {INDEX} names {len(names)} files, and {len(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing",
            hint="download what is missing into the same directory",
        )
    return [folder / name for name in names]


def _require_whole(found: list[Path]) -> None:
    """Refuse a model whose files call themselves parts of more."""
    matches = [match for path in found if (match := _PART.fullmatch(path.name))]
    for stem, total in {(match["stem"], int(match["total"])) for match in matches}:
        there = {
            int(match["number"])
            for match in matches
            if match["stem"] == stem and int(match["total"]) == total
        }
        # One that the names of others do not account for is refused by its number.
        lacking = next((number for number in range(1, total + 1) if number not in there), None)
        if lacking is not None:
            name = f"{stem}-{lacking:05}-of-{total:05}{SUFFIX}"
            raise ModelFileError(
                f"{found[0].parent} lacks {name}: its files are parts of {total}",
                hint="download what is missing into the same directory",
            )


def _require(path: Path) -> None:
    """Refuse a link that leads nowhere, as what an interrupted download leaves, and what is no file."""
    if not path.is_file():
        leads = f": it is a link to {path.readlink()}, where there is none" if path.is_symlink() else ""
        raise ModelFileError(f"{path} is no file{leads}", hint=_AGAIN)


def _beside(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix in _BESIDE
        and not path.name.startswith((".", _OTHER_FORM))
        and (path.is_symlink() or path.is_file())
    )


def _part(path: Path, name: str, entry: dict[str, Any]) -> Part:
    dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    numbers = (start, end, *shape)
    if (
        not isinstance(dtype, str)
        or any(type(number) is not int or number < 0 for number in numbers)
        or end < start
    ):
        raise ModelFileError(f"{path} is damaged: {name[:80]!r} has no place in it", hint=_AGAIN)
    if math.prod(shape) and end == start:
        raise ModelFileError(f"{path} is damaged: {name[:80]!r} has no data", hint=_AGAIN)
    return Part(name, dtype, tuple(shape), end - start)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")  # noqa: PLR2004 - as it says
