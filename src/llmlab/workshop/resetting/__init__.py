"""A machine brought back to where the learner began, with a list of all that was removed.

Removed is what comes back by itself within seconds. What took minutes (engines,
downloads) or cannot be had again (progress) goes only if its option is given: a notebook
cannot ask.
"""

from __future__ import annotations

from llmlab import backends
from llmlab.backends.docker_api import DockerApi
from llmlab.errors import BackendError
from llmlab.lab import registry
from llmlab.reporting import reporter
from llmlab.specs import Record
from llmlab.workshop.resetting import files, images
from llmlab.workshop.resetting.items import Found
from llmlab.workshop.resetting.views import Reset

__all__ = ["Reset", "reset"]


def reset(
    *, downloads: bool = False, builds: bool = False, progress: bool = False, dry_run: bool = False
) -> Reset:
    """Bring this machine back to the start: stop all of your servers, remove what llmlab has left.

    Servers, whoever started them, with their containers, sockets and directories; llmlab's
    images, what audits have left, and what was noted of predictions. Listed with its size;
    what is kept is listed, too, with the command that removes it. Nothing that is not
    llmlab's or that is another user's is touched. The exit status is 1 if something could
    not be removed, or the container engine could not be looked at.

    Args:
        downloads: Remove models as well: those that llmlab has fetched, used or written.
        builds: Remove the compiled engine as well; compiling it takes about 5 minutes.
        progress: Remove your progress in the workshop's lessons as well.
        dry_run: Remove nothing: only list what would be.

    Raises:
        LabError: The directory of servers cannot be used.
    """
    report = reporter()
    report.begin("reset", ("look", "remove"))
    failed = True
    try:
        report.stage("look", "at what is there")
        found, unseen = _found(downloads=downloads, builds=builds, progress=progress)
        items = []
        for each in found:
            if each.remove and not dry_run:
                report.stage("remove", f"{each.item.kind} {each.item.name}")
            items.append(each.settled(dry_run=dry_run))
        failed = False
    finally:
        report.end(failed=failed)
    return Reset(items=tuple(items), unseen=tuple(unseen), dry_run=dry_run)


def _found(*, downloads: bool, builds: bool, progress: bool) -> tuple[list[Found], list[str]]:
    """All there is, in the order in which it is removed; and what could not be looked at."""
    engine, problem = images.connect()
    records = registry.find_all()
    names = {record.name for record in records}
    hidden = [record for record in records if _is_hidden(record)]
    found = list(files.servers([record for record in records if record not in hidden]))
    found += images.unseen_servers(hidden)
    unseen = [f"containers, images and volumes: {problem}"] if problem else []
    if engine:
        found += _in_engine(engine, {str(record.container_id) for record in records}, downloads=downloads)
    found += files.leftovers(names)
    found += files.audits()
    found += files.models(downloads=downloads)
    found += files.cache(downloads=downloads, builds=builds)
    found += files.state(builds=builds, progress=progress)
    return found, unseen


def _is_hidden(record: Record) -> bool:
    """Whether its container engine does not answer."""
    try:
        backends.backend(record.backend).look(record)
    except BackendError:
        return True
    return False


def _in_engine(engine: DockerApi, servers: set[str], *, downloads: bool) -> list[Found]:
    containers = list(images.containers(engine, servers))
    going = {*servers, *(container_id for container_id, each in containers if each.remove)}
    return [
        *(each for _, each in containers),
        *images.images(engine, going),
        *images.volumes(engine, downloads=downloads),
    ]
