"""Manifests as text: YAML with comments, one file or a folder for kustomize."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from llmlab import render
from llmlab.errors import LabError, UsageError
from llmlab.exporting.manifests import Manifest

_COLUMNS = 106
_NUMBER = re.compile(r"[-+.]*\d")
_KUSTOMIZATION = "kustomization.yaml"


class _Dumper(yaml.SafeDumper):
    """Writes YAML as people do: no anchors, and a text of several lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the library's signature
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # What begins like a number is one for some readers of YAML and not for others, such as 1e3.
    style = "|" if "\n" in text else "'" if _NUMBER.match(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def one(manifest: Manifest) -> str:
    """One object, with what it is for above it."""
    said = [line for why in manifest.why for line in render.wrapped(why, _COLUMNS)]
    return _commented(said) + _dumped(manifest.body)


def together(manifests: Sequence[Manifest], comments: Sequence[str]) -> str:
    """All objects in one file."""
    return "---\n".join([_commented(comments), *(one(manifest) for manifest in manifests)])


def files(manifests: Sequence[Manifest]) -> list[str]:
    """The names of the files that `folder` writes."""
    return [_KUSTOMIZATION, *(f"{manifest.name}.yaml" for manifest in manifests)]


def folder(place: Path, manifests: Sequence[Manifest], comments: Sequence[str]) -> None:
    """Write a file for each object, and one that names them for kustomize.

    Raises:
        UsageError: If something is there already.
        LabError: If it cannot be written.
    """
    listed = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": files(manifests)[1:],
    }
    texts = [_commented(comments) + _dumped(listed), *(one(manifest) for manifest in manifests)]
    try:
        place.mkdir(parents=True, exist_ok=True)
        if any(place.iterdir()):
            raise UsageError(
                f"{place} is not empty",
                hint="choose another folder: what is there may have been changed by hand",
            )
        for name, text in zip(files(manifests), texts, strict=True):
            (place / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise LabError(
            f"{place} cannot be written: {error.strerror}", hint="choose another folder for --into"
        ) from None


def _dumped(value: dict[str, Any]) -> str:
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_COLUMNS)
    return text


def _commented(lines: Sequence[str]) -> str:
    # A model's name or a path is in some: what ends a line for YAML must not end the comment.
    return "".join(f"# {render.plain(line)}".rstrip() + "\n" for line in lines)
