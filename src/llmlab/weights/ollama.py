"""Models that Ollama has on this machine: `ollama:name[:tag]`, read where they lie, never copied.

Ollama keeps a manifest per tag, `manifests/HOST/NAMESPACE/NAME/TAG` (newer
versions: `manifests-v2/…`, often links to blobs), which names the model's
layers by sha256, and the layers as `blobs/sha256-…`. What the manifests say
is not trusted: digests must look like digests, and nothing outside the store
is opened. (Layout: ollama, `manifest/manifest.go`, `manifest/paths.go`.)
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmlab.errors import ModelFileError, ModelNotFoundError, UnknownNameError, UsageError
from llmlab.reporting import reporter

SCHEME: Final = "ollama:"
_MODEL: Final = "application/vnd.ollama.image.model"
_PROJECTOR: Final = "application/vnd.ollama.image.projector"
_LIST: Final = "application/vnd.ollama.manifest.list.v2+json"
# In a list of manifests: those that are made of one GGUF file.
_RUNNERS: Final = ("llamacpp", "ollama")
# The registry's name was the first of these before it became the second.
_HOSTS: Final = ("registry.ollama.ai", "ollama.com")
_LIBRARY: Final = "library"
_LATEST: Final = "latest"
_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST: Final = re.compile(r"sha256[:-]([0-9a-f]{64})")
_FOLDERS: Final = ("manifests-v2", "manifests")
_MOST_BYTES: Final = 1 << 20  # a manifest has a few hundred bytes
# Where installers put it: the service's home, packages of distributions, snap.
_SYSTEM_STORES: Final = (
    "/usr/share/ollama/.ollama/models",
    "/var/lib/ollama/.ollama/models",
    "/var/lib/ollama/models",
    "/var/lib/ollama",
    "/var/snap/ollama/common/models",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """A model and one of its tags.

    Attributes:
        namespace: The user who published it; "library" for Ollama's own.
        model: Its name.
        tag: Its tag, such as "0.5b" or "latest".
        host: The registry that it came from.
    """

    namespace: str
    model: str
    tag: str
    host: str = _HOSTS[0]

    def __str__(self) -> str:
        """What `ollama pull` takes."""
        host = "" if self.host in _HOSTS else f"{self.host}/"
        namespace = "" if self.namespace == _LIBRARY and not host else f"{self.namespace}/"
        return f"{host}{namespace}{self.model}:{self.tag}"


def parse(reference: str) -> Name:
    """The name in `ollama:[[host/]namespace/]name[:tag]`.

    Raises:
        UsageError: If it is no such name.
    """
    text = reference.removeprefix(SCHEME)
    path, _, tag = text.partition(":")
    parts = path.split("/")
    if 1 <= len(parts) <= 3 and all(map(_valid, [*parts, tag or _LATEST])):  # noqa: PLR2004
        *front, model = parts
        namespace = front.pop() if front else _LIBRARY
        return Name(
            host=front[0] if front else _HOSTS[0], namespace=namespace, model=model, tag=tag or _LATEST
        )
    raise UsageError(
        f"{reference[:80]!r} is not the name of an Ollama model",
        hint="write it as `ollama list` shows it: ollama:qwen2.5:0.5b",
    )


def find(reference: str) -> Path:
    """The GGUF file of a model that Ollama has.

    Args:
        reference: `ollama:name[:tag]`.

    Raises:
        UsageError: If the reference is malformed.
        UnknownNameError: If Ollama has models here, but not this one.
        ModelNotFoundError: If there is no store, or the model's file is not in it.
        ModelFileError: If its manifest is damaged, or leads out of the store.
    """
    wanted = parse(reference)
    known: list[str] = []
    stores = _stores()
    for store in stores:
        for name, manifest in _manifests(store):
            if _same(name, wanted):
                return _model_file(store, name, manifest, tell=True)[0]
            known.append(f"{SCHEME}{name}")
    if known:
        error = UnknownNameError("model", f"{SCHEME}{wanted}", known)
        error.hint = f"{error.hint}; `ollama pull {wanted}` fetches it"
        raise error
    looked = ", ".join(str(store) for store in stores) or "no directory of Ollama"
    raise ModelNotFoundError(
        f"Ollama has no model {str(wanted)!r} here (looked in: {looked})",
        hint=f"ollama pull {wanted} (if its models lie elsewhere, set OLLAMA_MODELS)",
    )


def parts(reference: str) -> list[tuple[str, bytes]]:
    """Kind and content of what a model has besides its weights: template, parameters, system text, licence.

    Args:
        reference: `ollama:name[:tag]`, of a model that `find` has found.

    Raises:
        ModelError: If one cannot be read.
    """
    wanted = parse(reference)
    for store in _stores():
        for name, manifest in _manifests(store):
            if _same(name, wanted):
                layers = _layers(_gguf_manifest(store, _read(store, manifest)))
                return [
                    (str(layer.get("mediaType")), _content(_blob(store, layer.get("digest"), manifest)))
                    for layer in layers
                    if layer.get("mediaType") not in {_MODEL, _PROJECTOR}
                ]
    raise ModelNotFoundError(
        f"Ollama has no model {str(wanted)!r} here any more", hint=f"ollama pull {wanted}"
    )


def stored() -> list[tuple[str, Path, int]]:
    """Reference, file and size in bytes of each model that Ollama has; damaged ones are left out."""
    found: dict[str, tuple[str, Path, int]] = {}
    for store in _stores():
        for name, manifest in _manifests(store):
            reference = f"{SCHEME}{name}"
            try:
                path, size = _model_file(store, name, manifest, tell=False)
            except (ModelNotFoundError, ModelFileError):
                continue
            found.setdefault(reference, (reference, path, size))
    return sorted(found.values())


def _stores() -> list[Path]:
    """Directories that have manifests; `OLLAMA_MODELS` rules out the others, as it does for Ollama."""
    if own := os.environ.get("OLLAMA_MODELS", "").strip().strip("\"'"):
        places = [Path(own).expanduser()]
    else:
        places = [Path("~/.ollama/models").expanduser(), *map(Path, _SYSTEM_STORES)]
    return [place for place in places if any(_is_dir(place / folder) for folder in _FOLDERS)]


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # another user's home
        return False


def _manifests(store: Path) -> Iterator[tuple[Name, Path]]:
    """Name and manifest of each tag; the newer layout goes first, as in Ollama."""
    for folder in _FOLDERS:
        try:
            paths = sorted((store / folder).glob("*/*/*/*"))
        except OSError:
            continue
        for path in paths:
            host, namespace, model, tag = path.relative_to(store / folder).parts
            if all(map(_valid, (host, namespace, model, tag))) and not _is_dir(path):
                yield Name(host=host, namespace=namespace, model=model, tag=tag), path


def _model_file(store: Path, name: Name, manifest: Path, *, tell: bool) -> tuple[Path, int]:
    """The file of the model's layer and its size in bytes."""
    document = _gguf_manifest(store, _read(store, manifest))
    layers = _layers(document)
    models = [layer for layer in layers if layer.get("mediaType") == _MODEL]
    if not models:
        raise ModelFileError(
            f"Ollama's {name} is not one GGUF file", hint="llama.cpp cannot run it; take another model"
        )
    if len(models) > 1:
        raise ModelFileError(f"Ollama's {name} is in {len(models)} parts", hint="take another model")
    if tell and any(layer.get("mediaType") == _PROJECTOR for layer in layers):
        reporter().note(f"{name} also reads images in Ollama; here it reads text only.")
    path = _blob(store, models[0].get("digest"), manifest)
    try:
        return path, path.stat().st_size
    except PermissionError as error:
        raise _unreadable(path) from error
    except OSError as error:
        raise ModelNotFoundError(
            f"Ollama's {name} is incomplete: there is no {path}", hint=f"ollama pull {name}"
        ) from error


def _gguf_manifest(store: Path, document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The manifest itself, or the one of a list that llama.cpp can run."""
    if document.get("mediaType") != _LIST:
        return document
    children = document.get("manifests")
    for child in children if isinstance(children, list) else []:
        if not isinstance(child, dict) or str(child.get("runner", "")).lower() not in _RUNNERS:
            continue
        if "layers" not in child and "digest" in child:
            return _read(store, _blob(store, child["digest"], store))
        return child
    return {}


def _layers(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    layers = document.get("layers")
    return [layer for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []


def _content(path: Path) -> bytes:
    """A small file of the store."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES)
    except PermissionError as error:
        raise _unreadable(path) from error
    except OSError as error:
        raise ModelFileError(
            f"Ollama's {path} cannot be read: {error}", hint="pull the model again"
        ) from error


def _read(store: Path, path: Path) -> Mapping[str, Any]:
    _inside(store, path)
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_MOST_BYTES))
    except PermissionError as error:
        raise _unreadable(path) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(
            f"Ollama's manifest {path} cannot be read: {error}", hint="pull the model again with Ollama"
        ) from error
    if not isinstance(document, dict):
        raise ModelFileError(f"Ollama's manifest {path} is not one", hint="pull the model again with Ollama")
    return document


def _blob(store: Path, digest: object, manifest: Path) -> Path:
    match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if match is None:
        raise ModelFileError(
            f"{manifest} names {str(digest)[:80]!r}, which is no sha256",
            hint="pull the model again with Ollama",
        )
    path = store / "blobs" / f"sha256-{match[1]}"
    _inside(store, path)
    return path


def _inside(store: Path, path: Path) -> None:
    """Refuse what a link leads out of the store."""
    try:
        real, root = path.resolve(), store.resolve()
    except (OSError, RuntimeError) as error:
        raise ModelFileError(f"{path} cannot be followed: {error}", hint="see what it links to") from error
    if not real.is_relative_to(root):
        raise ModelFileError(
            f"{path} leads out of Ollama's directory, to {real}", hint="give that file's path instead"
        )


def _unreadable(path: Path) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"{path} cannot be read by this user", hint="ask whoever installed Ollama for read access"
    )


def _valid(part: str) -> bool:
    return _PART.fullmatch(part) is not None and ".." not in part


def _same(name: Name, wanted: Name) -> bool:
    """Whether two names mean one model; Ollama ignores case."""
    return str(name).lower() == str(wanted).lower()
