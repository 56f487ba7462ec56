"""What an export returns: the manifests, what is different there, and what to do with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmlab import render
from llmlab.exporting import writing
from llmlab.exporting.controls import Handled
from llmlab.exporting.manifests import Manifest
from llmlab.results import Result

_COLUMNS, _FIRST, _HERE = 110, 18, 34


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do.

    Attributes:
        what: What it does.
        command: The line of shell that does it.
    """

    what: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesExport(Result):
    """A server as manifests of Kubernetes.

    Attributes:
        name: What it is called there.
        namespace: Where it goes.
        manifests: The objects, in the order in which they are made.
        controls: What becomes of each control of the isolation.
        steps: What to do with the manifests.
        notes: What the user should know.
        folder: Where they were written; None if they were not.
    """

    HEADER = ("control", "with llmlab", "in Kubernetes")

    name: str
    namespace: str
    manifests: tuple[Manifest, ...]
    controls: tuple[Handled, ...]
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()
    folder: Path | None = None

    @property
    def differences(self) -> tuple[Handled, ...]:
        """The controls that are not the same there."""
        return tuple(control for control in self.controls if control.differs)

    @property
    def yaml(self) -> str:
        """All manifests as one file, which `kubectl apply -f` takes."""
        return writing.together(self.manifests, self.comments())

    def comments(self) -> tuple[str, ...]:
        """What stands above the manifests: the differences, the steps, the notes."""
        table = render.text_table(self.HEADER, [row for each in self.differences for row in _rows(each)])
        lines = [f"{self.name}: a sealed model server in namespace {self.namespace}.", ""]
        lines += ["What Kubernetes does otherwise than llmlab:", "", *table.splitlines()]
        for note in self.notes:
            lines += ["", *render.wrapped(note, _COLUMNS)]
        lines += ["", "What to do:"]
        for number, step in enumerate(self.steps, 1):
            said = render.wrapped(f"{number}. {step.what}", _COLUMNS)
            # Not wrapped: it is to be pasted.
            lines += ["", *said, *(f"   {line}" for line in step.command.splitlines())]
        return tuple(line.rstrip() for line in lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data: the objects are as Kubernetes takes them."""
        return {
            **super(KubernetesExport, self).to_dict(),
            "folder": str(self.folder) if self.folder else None,
            "manifests": {"apiVersion": "v1", "kind": "List", "items": [m.body for m in self.manifests]},
            "yaml": self.yaml,
        }

    def __str__(self) -> str:
        """The manifests as one file; what was written, the differences and the steps, if there is a folder."""
        if self.folder is None:
            return self.yaml.rstrip("\n")
        files = ", ".join(writing.files(self.manifests))
        return "\n".join([f"{self.folder}: {files}", "", *self.comments()])

    def to_html(self) -> str:
        """A card: what is different, what to do, and the manifests to open."""
        rows = [(each.control, each.here, each.there) for each in self.differences]
        body = render.html_table(self.HEADER, rows)
        body += "".join(render.html_small(note) for note in self.notes)
        steps = "".join(
            render.html_text(f"{number}. {step.what}") + render.html_code(step.command.splitlines())
            for number, step in enumerate(self.steps, 1)
        )
        body += render.html_section("What to do", steps)
        for manifest in self.manifests:
            title = f"{manifest.body['kind']} {manifest.body['metadata']['name']}"
            body += render.html_fold(title, render.html_code(writing.one(manifest).splitlines()))
        if self.folder:
            body += render.html_small(f"Written to {self.folder}.")
        side = render.html_muted(f"namespace {self.namespace}; nothing was sent to a cluster")
        return render.html_card(f"{self.name} for Kubernetes", body, side=side, wide=True)


def _rows(control: Handled) -> list[list[str]]:
    """A control in lines of a table."""
    here = render.wrapped(control.here, _HERE)
    there = render.wrapped(control.there, _COLUMNS - _FIRST - _HERE - 6)
    height = max(len(here), len(there))
    columns = [[control.control], here, there]
    return [[column[i] if i < len(column) else "" for column in columns] for i in range(height)]
