"""Models in a kit: taken from where they lie, and put where their references find them."""

from __future__ import annotations

from pathlib import Path

from llmlab import engines, weights
from llmlab.errors import LabError, UsageError
from llmlab.kits import contents, files
from llmlab.kits.contents import ModelHeld
from llmlab.specs import Model
from llmlab.weights import anatomy, catalog, hub, hub_cache, store

FOLDER = "models"
_GIT_DIGITS = 40


def find(reference: str) -> Model:
    """A model that is here and can be in a kit.

    Raises:
        UsageError: If it cannot, or is none.
        ModelError: If it is not here, or damaged.
    """
    if reference.startswith("ollama:"):
        raise UsageError(
            f"{reference} belongs to Ollama's store", hint="name a model of the hub, or a GGUF file"
        )
    found = weights.resolve(reference, fetch=False)
    # A kit has what its engine, llama-server, serves; and of a directory it would have the weights alone.
    engines.require_form(engines.engine("llama-server"), anatomy.of_file(found.path).form, found.name)
    return found


def hold(reference: str, folder: Path) -> ModelHeld:
    """Copy a model that is here into a kit.

    Raises:
        UsageError: If two of the kit's models have files of the same name.
        ModelError: As `find`.
    """
    model = find(reference)
    if model.path == store.builtin_path():
        return ModelHeld(reference=reference, source="built-in")
    wanted = _hub_reference(reference)
    if wanted is not None:
        return _from_hub(reference, wanted, model.files, folder)
    synthetic = model.path.parent == store.synthetic_dir()
    held = {f"{FOLDER}/{path.name}": path for path in model.files}
    _copy(held, folder)
    return ModelHeld(
        reference=reference if synthetic else model.path.name,
        source="synthetic" if synthetic else "file",
        files={place: path.name for place, path in held.items()},
    )


def _hub_reference(reference: str) -> hub.HubReference | None:
    """What a reference means on the hub; None if it is no model of the hub's."""
    listed = None if Path(reference).is_file() else catalog.find(reference)
    actual = listed[0].at(listed[1]) if listed else reference
    return hub.parse(actual) if actual.startswith("hf:") else None


def _from_hub(reference: str, wanted: hub.HubReference, paths: tuple[Path, ...], folder: Path) -> ModelHeld:
    cache = next(each for each in hub_cache.caches() if each in paths[0].parents)
    snapshots = hub_cache.folder(cache, wanted) / "snapshots"
    commit = paths[0].relative_to(snapshots).parts[0]
    held, names, blobs = {}, {}, {}
    for path in paths:
        name = path.relative_to(snapshots / commit).as_posix()
        place = f"{FOLDER}/{wanted.owner}--{wanted.repo}/{name}"
        # A file system without links keeps the file itself, whose hash is its content's name all the same.
        held[place], names[place] = path, name
        blobs[place] = hub_cache.blob_name(path) or store.sha256(path)
    _copy(held, folder)
    return ModelHeld(
        reference=reference, source="hub", hub=str(wanted), commit=commit, files=names, blobs=blobs
    )


def _copy(held: dict[str, Path], folder: Path) -> None:
    for place, path in held.items():
        if not contents.is_safe(place):
            raise UsageError(
                f"the model's file {path.name!r} has a name that not every stick can hold", hint="rename it"
            )
        if (folder / place).exists():
            raise UsageError(f"two of the models have files named {path.name}", hint="rename one of them")
        files.copy(path, folder / place)


def install(held: ModelHeld, kit: Path, sums: dict[str, str], into: Path) -> tuple[files.State, str]:
    """Put a model where its reference finds it.

    Args:
        held: The model.
        kit: The kit.
        sums: The kit's checksums.
        into: The learner's folder, for models that are plain files.

    Returns:
        "installed" or "here", and what starts it.

    Raises:
        LabError: If it cannot be written.
    """
    if held.source == "built-in":
        return "here", held.reference
    if held.source == "hub":
        return _into_hub(held, kit, sums), held.reference
    folder = store.synthetic_dir() if held.source == "synthetic" else into / FOLDER
    state: files.State = "here"
    with files.written_to(folder, held.reference):
        for place, name in held.files.items():
            target = folder / name
            if target.is_file() and store.digest(target) == sums[place]:
                continue
            if target.exists() and held.source == "file":
                raise LabError(f"{target} is another file than the kit's", hint="move it away, and try again")
            draft = target.with_name(f".{name}.kit")
            files.copy(kit / place, draft)
            draft.replace(target)
            state = "installed"
    shown = str(folder / next(iter(held.files.values()))) if held.source == "file" else held.reference
    return state, shown


def _into_hub(held: ModelHeld, kit: Path, sums: dict[str, str]) -> files.State:
    wanted = hub.parse(held.hub)
    if hub_cache.find(wanted):
        return "here"
    repository = hub_cache.folder(hub_cache.target(), wanted)
    with files.written_to(repository, held.reference):
        for place, name in held.files.items():
            blob = held.blobs[place]
            digest = store.digest(kit / place, "git") if len(blob) == _GIT_DIGITS else sums[place]
            if digest != blob:
                raise LabError(
                    f"{place} is not the content that the kit says it is", hint="copy the kit anew"
                )
            target = repository / "blobs" / blob
            hub_cache.make_folder(target.parent, repository.parent)
            with hub_cache.locked(repository, blob, waiting=lambda: None):
                if not target.exists():
                    draft = target.with_name(f"{blob}.kit{hub_cache.INCOMPLETE}")
                    files.copy(kit / place, draft)
                    hub_cache.put(draft, target)
            hub_cache.link(repository, held.commit, name, target)
        hub_cache.set_main(repository, held.commit)
    return "installed"
