"""Fetching models, from a hub that speaks the protocol of the real one."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.errors
import pytest
from filelock import FileLock

from llmlab.errors import (
    AccessError,
    ChecksumError,
    DiskSpaceError,
    HubError,
    LabError,
    ModelFileError,
    ModelNotFoundError,
    UsageError,
)
from llmlab.reporting import Reporter, reporting_to
from llmlab.testing.hub import Fault, Hub
from llmlab.weights import (
    gguf,
    hub,
    hub_cache,
    hub_download,
    hub_headers,
    hub_http,
    hub_names,
    hub_patience,
    store,
)
from tests.conftest import eventually, missing, run_cli
from tests.faults.contract import promise

TINY = store.builtin_path().read_bytes()
REPO = "hf:teach/tiny-GGUF"
SPLIT = "hf:teach/split-GGUF"
SIZE = 600_000
FIRST = "tiny-Q4_K_M.gguf"
# A second user of this machine, without any rights: `nobody`.
NOBODY = 65534


class Told(Reporter):
    """Remembers what it is told, and does something with it."""

    def __init__(self, react: Callable[[int, int | None], None] | None = None) -> None:
        self.steps: list[tuple[str, int, int | None]] = []
        self.notes: list[str] = []
        self._stage = ""
        self._react = react

    def stage(self, stage: str, detail: str = "") -> None:
        self._stage = stage

    def progress(self, done: int, total: int | None) -> None:
        self.steps.append((self._stage, done, total))
        if self._react:
            self._react(done, total)

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the hub serves."""
    root = tmp_path / "served"
    files = {
        f"teach/tiny-GGUF/{FIRST}": TINY[:SIZE],
        "teach/tiny-GGUF/tiny-Q8_0.gguf": TINY,
        "teach/tiny-GGUF/mmproj-F16.gguf": TINY[:1000],
        "teach/tiny-GGUF/README.md": b"A model.",
        "teach/split-GGUF/big/split-Q4_0-00001-of-00003.gguf": TINY[:100_000],
        "teach/split-GGUF/big/split-Q4_0-00002-of-00003.gguf": TINY[100_000:250_000],
        "teach/split-GGUF/big/split-Q4_0-00003-of-00003.gguf": TINY[250_000:300_000],
        "teach/words/README.md": b"No model.",
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


@pytest.fixture
def served(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, and an environment in which it is the hub."""
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGING")) or name == hub_cache.SHARED:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LLMLAB_CACHE_DIR", str(tmp_path / "cache"))
    with Hub(folder).serving() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        yield running
    huggingface_hub.close_session()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long pauses between attempts."""
    monkeypatch.setattr(hub_patience, "WAITS_S", (0.01, 0.01, 0.01))


def pull(reference: str) -> hub.Fetched:
    return hub.pull(hub.parse(reference))


def blobs() -> list[str]:
    """What lies in the cache, by name."""
    return sorted(path.name for path in hub_cache.own().glob("models--*/blobs/*"))


def ranges(hub_: Hub) -> list[str]:
    return [request.range for request in hub_.requests if request.server == "bytes"]


# References


@pytest.mark.parametrize(
    "text",
    [
        "hf:owner/repo",
        "hf:Qwen/Qwen2.5-0.5B-GGUF:Q4_K_M",
        "hf:a/b/c/d-00001-of-00002.gguf",
        "hf:o/r:UD-IQ1_S",
    ],
)
def test_a_reference_is_written_as_it_is_read(text):
    assert str(hub.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "hf:",
        "hf:owner",
        "hf:owner/",
        "hf:/repo",
        "hf:owner/repo:",
        "hf:owner/repo/",
        "hf:owner/repo/file.bin",
        "hf:owner/repo/../x.gguf",
        "hf:owner/repo//x.gguf",
        "hf:owner/..",
        "hf:../repo",
        "hf:owner/a--b",
        "hf:owner/repo:Q4/..",
        "hf:owner/repo:Q4 K",
        "hf:owner/re po",
        "hf:owner/repo/a\\b.gguf",
        "hf:owner/repo/a\nb.gguf",
        "hf:https://huggingface.co/owner/repo",
        "owner/repo",
    ],
)
def test_a_malformed_reference_is_refused_with_the_forms_there_are(text):
    with pytest.raises(UsageError, match="hf:owner/repo:Q4_K_M"):
        hub.parse(text)


@pytest.mark.parametrize(
    ("reference", "chosen"),
    [
        ("hf:o/r", "m-Q4_K_M.gguf"),
        ("hf:o/r:q8_0", "m-Q8_0.gguf"),
        ("hf:o/r:Q4_K", None),
        ("hf:o/r:Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        ("hf:o/r:UD-Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        ("hf:o/r:IQ2_XXS", "IQ2_XXS/m-00001-of-00002.gguf"),
        ("hf:o/r:BF16", None),
        ("hf:o/r/IQ2_XXS/m-00002-of-00002.gguf", "IQ2_XXS/m-00001-of-00002.gguf"),
        ("hf:o/r/m-Q8_0.gguf", "m-Q8_0.gguf"),
        ("hf:o/r/m-Q5_0.gguf", None),
    ],
)
def test_a_quantisation_names_a_file(reference, chosen):
    names = [
        "m-Q8_0.gguf",
        "m-UD-Q4_K_M.gguf",
        "m-Q4_K_M.gguf",
        "m-UD-Q4_K_XL.gguf",
        "IQ2_XXS/m-00001-of-00002.gguf",
        "IQ2_XXS/m-00002-of-00002.gguf",
        "m-BF16-00001-of-00002.gguf",
        "mmproj-m-Q4_K_M.gguf",
        "imatrix.gguf",
        "README.md",
    ]
    files = hub_names.choose(hub_names.models(names), hub.parse(reference))
    assert (files[0] if files else None) == chosen


@pytest.mark.parametrize("only", ["model-f16.gguf", "x-Q2_K.gguf"])
def test_without_a_quantisation_of_the_usual_ones_the_first_is_taken(only):
    assert hub_names.choose(hub_names.models([only, "longer-name-Q3_K_L.gguf"]), hub.parse("hf:o/r")) == (
        only,
    )


@pytest.mark.parametrize(
    "name",
    ["../x.gguf", "a/../../x.gguf", "/x.gguf", "a\\..\\x.gguf", "C:x.gguf", "a//b", ".", "", "a\0b", "a\nb"],
)
def test_a_name_that_leads_elsewhere_is_not_safe(name):
    assert not hub_names.is_safe(name)


# Fetching


def test_a_model_is_fetched_verified_and_found(served):
    told = Told()
    assert hub.find(hub.parse(REPO)) is None
    with reporting_to(told):
        fetched = pull(REPO)
    assert fetched.path.read_bytes() == TINY[:SIZE]
    assert fetched.path.name == FIRST
    assert (fetched.file_bytes, fetched.downloaded_bytes) == (SIZE, SIZE)
    assert fetched.sha256 == fetched.path.resolve().name == store.digest(fetched.path)
    assert hub.find(hub.parse(REPO)) == fetched.path
    assert told.steps[0] == ("pull", 0, SIZE)
    assert ("pull", SIZE, SIZE) in told.steps
    assert ("verify", SIZE, SIZE) in told.steps
    assert [model.reference for model in hub.stored()] == ["hf:teach/tiny-GGUF:Q4_K_M"]


def test_what_is_here_is_not_fetched_again(served):
    pull(REPO)
    sent = served.sent_bytes()
    assert pull(REPO).downloaded_bytes == 0
    assert served.sent_bytes() == sent


def test_other_tools_find_what_llmlab_fetched(served):
    fetched = pull(REPO)
    cache = hub_cache.own()
    assert huggingface_hub.try_to_load_from_cache("teach/tiny-GGUF", FIRST, cache) == str(fetched.path)
    info = huggingface_hub.scan_cache_dir(cache)
    assert not info.warnings
    assert info.size_on_disk == SIZE


def test_llmlab_finds_what_other_tools_fetched(served):
    path = huggingface_hub.hf_hub_download(
        "teach/tiny-GGUF", FIRST, cache_dir=hub_cache.own(), endpoint=served.endpoint
    )
    sent = served.sent_bytes()
    assert hub.find(hub.parse(REPO)) == Path(path)
    assert pull(REPO).path == Path(path)
    assert served.sent_bytes() == sent


def test_a_whole_repository_can_be_had_from_the_hub_with_other_tools(served, tmp_path):
    path = huggingface_hub.snapshot_download(
        "teach/tiny-GGUF", local_dir=tmp_path / "copy", endpoint=served.endpoint
    )
    assert (Path(path) / "tiny-Q8_0.gguf").read_bytes() == TINY
    assert (Path(path) / "README.md").read_bytes() == b"A model."


def test_a_connection_that_breaks_twice_is_resumed_where_it_broke(served):
    served.faults.append(Fault("drop", times=2, after_bytes=200_001))
    told = Told()
    with reporting_to(told):
        fetched = pull(REPO)
    assert fetched.path.read_bytes() == TINY[:SIZE]
    assert ranges(served) == ["bytes=0-599999", "bytes=200001-599999", "bytes=400002-599999"]
    assert served.sent_bytes() == SIZE == fetched.downloaded_bytes
    done = [step[1] for step in told.steps if step[0] == "pull"]
    assert done == sorted(done)


def test_a_hub_that_breaks_every_connection_is_given_up_and_resumed_later(served, hurried):
    served.faults += [Fault("drop", after_bytes=150_000), Fault("drop", times=None)]
    with pytest.raises(HubError, match="cannot be reached") as caught:
        pull(REPO)
    assert "goes on from there" in caught.value.hint
    assert hub.find(hub.parse(REPO)) is None
    assert hub.stored() == []
    served.faults.clear()
    before = served.sent_bytes()
    told = Told()
    with reporting_to(told):
        assert pull(REPO).path.read_bytes() == TINY[:SIZE]
    assert served.sent_bytes() - before == SIZE - 150_000
    assert told.steps[0] == ("pull", 150_000, SIZE)


def test_no_more_is_asked_for_at_once_than_a_network_gives(served, monkeypatch):
    monkeypatch.setattr(hub_download, "_MOST_AT_ONCE_BYTES", 250_000)
    assert pull(REPO).path.read_bytes() == TINY[:SIZE]
    assert ranges(served) == ["bytes=0-249999", "bytes=250000-499999", "bytes=500000-599999"]


def test_a_server_that_does_not_know_ranges_sends_everything_anew(served):
    served.faults += [Fault("drop", after_bytes=100_000), Fault("ignore-range", times=2)]
    assert pull(REPO).path.read_bytes() == TINY[:SIZE]


@pytest.mark.parametrize("where", ["api", "resolve", "bytes"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_failure_that_passes_is_waited_for(served, hurried, where, status):
    served.faults.append(Fault("status", where, times=2, status=status))
    assert pull(REPO).path.read_bytes() == TINY[:SIZE]


@pytest.mark.parametrize("where", ["api", "resolve", "bytes"])
@pytest.mark.parametrize("status", [400, 418, 429, 500])
def test_a_failure_that_stays_is_a_clear_error(served, hurried, where, status):
    served.faults.append(Fault("status", where, times=None, status=status))
    with pytest.raises(HubError, match=f"answers {status}"):
        pull(REPO)
    assert hub.stored() == []


def test_the_hub_may_say_how_long_to_wait(served):
    served.faults.append(Fault("status", "api", status=429, headers={"Retry-After": "1"}))
    started = time.monotonic()
    pull(REPO)
    assert time.monotonic() - started >= 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "3600"},
        {"RateLimit": '"api";r=0;t=290'},
        {"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"},
    ],
    ids=lambda headers: next(iter(headers.values()))[:12],
)
def test_nobody_waits_for_an_hour(served, headers):
    served.faults.append(Fault("status", "resolve", times=None, status=429, headers=headers))
    with pytest.raises(HubError, match="answers 429"):
        pull(REPO)
    assert sum("/resolve/" in request.path for request in served.requests) == 1


def test_a_split_model_is_fetched_with_all_of_its_parts(served):
    told = Told()
    with reporting_to(told):
        fetched = pull(f"{SPLIT}:Q4_0")
    assert fetched.path.name == "split-Q4_0-00001-of-00003.gguf"
    assert fetched.file_bytes == 300_000
    (model,) = hub.stored()
    assert b"".join(path.read_bytes() for path in model.files) == TINY[:300_000]
    assert {total for stage, _, total in told.steps if stage == "pull"} == {300_000}
    assert [done for stage, done, _ in told.steps if stage == "pull"][-1] == 300_000


def test_a_split_model_that_lacks_a_part_is_not_found_and_only_that_is_fetched(served):
    path = pull(SPLIT).path
    (path.parent / "split-Q4_0-00002-of-00003.gguf").resolve().unlink()
    assert hub.find(hub.parse(SPLIT)) is None
    assert hub.stored() == []
    sent = served.sent_bytes()
    assert pull(SPLIT).downloaded_bytes == 150_000
    assert served.sent_bytes() - sent == 150_000
    assert hub.find(hub.parse(SPLIT)) == path


def test_a_new_revision_fetches_only_what_changed(served, folder):
    first = pull(SPLIT).path
    (folder / "teach/split-GGUF/big/split-Q4_0-00003-of-00003.gguf").write_bytes(TINY[:77_777])
    fetched = pull(SPLIT)
    assert fetched.downloaded_bytes == 77_777
    assert fetched.path != first
    assert hub.find(hub.parse(SPLIT)) == fetched.path


def test_a_header_can_be_had_without_the_model(served, monkeypatch):
    monkeypatch.setattr(hub_headers, "_FIRST_BYTES", 10_000)
    wanted = hub.parse(f"{REPO}:Q8_0")
    (path,) = hub.headers(wanted)
    found = gguf.read_header(path, complete=False)
    whole = gguf.read_header(store.builtin_path())
    assert found.tensors == whole.tensors
    assert dict(found.metadata) == dict(whole.metadata)
    assert path.stat().st_size < 200_000
    assert served.sent_bytes() < 400_000
    assert hub.find(wanted) is None
    assert [model.reference for model in store.stored()] == ["tiny"]
    asked = len(ranges(served))
    assert hub.headers(wanted) == (path,)
    assert len(ranges(served)) == asked


def test_a_header_survives_a_connection_that_breaks_and_a_server_without_ranges(served, hurried, monkeypatch):
    monkeypatch.setattr(hub_headers, "_FIRST_BYTES", 50_000)
    served.faults += [
        Fault("drop", times=2, after_bytes=30_000),
        Fault("ignore-range", times=None),
    ]
    (path,) = hub.headers(hub.parse(f"{REPO}:Q8_0"))
    assert path.read_bytes() == TINY[: path.stat().st_size]


def test_what_has_no_header_is_no_model(served, folder, tmp_path):
    (folder / "teach/words/words.gguf").write_bytes(b"This is no model." * 1_000_000)
    with pytest.raises(ModelFileError, match=r"words\.gguf"):
        hub.headers(hub.parse("hf:teach/words"))
    assert served.sent_bytes() < 10_000_000
    assert list((tmp_path / "cache").rglob("*.gguf")) == []


# What there is


@pytest.mark.parametrize(
    ("reference", "message", "hint"),
    [
        ("hf:teach/tinyGGUF", "no repository teach/tinyGGUF", "did you mean teach/tiny-GGUF"),
        ("hf:nobody/nothing", "no repository nobody/nothing", "HF_TOKEN"),
        (f"{REPO}:Q4_K_S", "has no Q4_K_S", "did you mean Q4_K_M"),
        (f"{REPO}/tiny-Q9.gguf", "has no file tiny-Q9.gguf", "tiny-Q8_0.gguf"),
        ("hf:teach/words", "no GGUF file", "-GGUF"),
    ],
)
def test_what_the_hub_does_not_have_is_named_with_what_it_has(served, reference, message, hint):
    with pytest.raises(ModelNotFoundError, match=message) as caught:
        pull(reference)
    assert hint in caught.value.hint


def test_a_file_that_goes_away_meanwhile_is_an_error(served):
    served.faults.append(Fault("status", "resolve", status=404, headers={"X-Error-Code": "EntryNotFound"}))
    with pytest.raises(ModelNotFoundError, match=FIRST):
        pull(REPO)


# Who may have it


def test_a_gated_model_without_a_token_names_the_page_and_the_token(served):
    served.gated["teach/tiny-GGUF"] = {"hf_accepted"}
    with pytest.raises(AccessError, match="accepted its licence") as caught:
        pull(REPO)
    assert f"{served.endpoint}/teach/tiny-GGUF" in caught.value.hint
    assert "HF_TOKEN" in caught.value.hint
    assert "hf auth login" in caught.value.hint


def test_a_gated_model_is_given_to_who_accepted_and_the_token_stays_with_the_hub(served, monkeypatch):
    served.gated["teach/tiny-GGUF"] = {"hf_accepted"}
    served.tokens.add("hf_somebody")
    monkeypatch.setenv("HF_TOKEN", "hf_somebody")
    with pytest.raises(AccessError, match="accepted its licence"):
        pull(REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_accepted")
    assert pull(REPO).downloaded_bytes == SIZE
    assert {request.token for request in served.requests if request.server == "bytes"} == {""}
    assert "hf_accepted" in {request.token for request in served.requests if "/resolve/" in request.path}


def test_a_wrong_token_is_an_access_error(served, monkeypatch):
    served.tokens.add("hf_somebody")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(AccessError, match="Invalid credentials"):
        pull(REPO)


def test_a_token_that_cannot_be_sent_is_not_shown(served, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secrét")
    with pytest.raises(AccessError) as caught:
        pull(REPO)
    assert "sec" not in str(caught.value)
    assert all("/api/models" not in request.path for request in served.requests)


def test_what_the_hub_says_cannot_steer_a_terminal_and_no_password_is_shown(served, hurried, monkeypatch):
    said = {"X-Error-Message": "\x1b[31mno\x07 Bearer hf_secret", "X-Error-Code": "\x1b[2J"}
    monkeypatch.setenv("HF_ENDPOINT", served.endpoint.replace("//", "//me:hidden@"))
    served.faults.append(Fault("status", "api", times=None, status=403, headers=said))
    with pytest.raises(AccessError) as caught:
        pull(REPO)
    assert "\x1b" not in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert "hf_secret" not in str(caught.value)


def test_a_private_model_is_given_to_its_owner_alone(served, monkeypatch):
    served.private["teach/tiny-GGUF"] = {"hf_owner"}
    with pytest.raises(ModelNotFoundError, match="or it is private") as caught:
        pull(REPO)
    assert "HF_TOKEN" in caught.value.hint
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    assert pull(REPO).downloaded_bytes == SIZE


# What must not be taken for a model


def test_wrong_bytes_are_removed(served):
    served.faults.append(Fault("corrupt"))
    with pytest.raises(ChecksumError, match="not what the hub has published"):
        pull(REPO)
    assert blobs() == []
    assert hub.stored() == []
    assert pull(REPO).path.read_bytes() == TINY[:SIZE]


def test_a_part_that_does_not_fit_is_fetched_anew_once(served):
    commit, files = hub_http.listing(hub.parse(REPO))
    blob = next(file.blob for file in files if file.name == FIRST)
    part = hub_cache.own() / "models--teach--tiny-GGUF" / "blobs" / f"{blob}.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(1000))
    told = Told()
    with reporting_to(told):
        assert pull(REPO).path.read_bytes() == TINY[:SIZE]
    assert any("anew" in note for note in told.notes)
    assert ranges(served) == ["bytes=1000-599999", "bytes=0-599999"]
    assert commit


def test_parts_that_never_fit_are_given_up(served):
    served.faults += [Fault("drop", times=1, after_bytes=1000), Fault("corrupt", times=None)]
    with pytest.raises(ChecksumError):
        pull(REPO)
    assert blobs() == []


def test_a_part_that_is_longer_than_the_file_is_thrown_away(served):
    commit, files = hub_http.listing(hub.parse(REPO))
    blob = next(file.blob for file in files if file.name == FIRST)
    part = hub_cache.own() / "models--teach--tiny-GGUF" / "blobs" / f"{blob}.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(SIZE + 1))
    assert pull(REPO).path.read_bytes() == TINY[:SIZE]
    assert commit


def test_a_file_that_is_shorter_than_listed_is_not_taken(served, hurried):
    served.faults.append(Fault("short", times=None, after_bytes=10))
    with pytest.raises(HubError, match="shorter"):
        pull(REPO)
    assert hub.find(hub.parse(REPO)) is None
    assert hub.stored() == []


@pytest.mark.parametrize(
    "name",
    [
        "../../evil-Q4_K_M.gguf",
        "a/../../../evil-Q4_K_M.gguf",
        "/tmp/evil-Q4_K_M.gguf",  # noqa: S108 - it is never made
        "..\\evil-Q4_K_M.gguf",
        "a\nb-Q4_K_M.gguf",
    ],
)
def test_a_name_that_leads_out_of_the_cache_is_refused(served, tmp_path, name):
    served.aliases["teach/tiny-GGUF"] = {name: FIRST}
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(HubError, match="leads elsewhere"):
        pull(REPO)
    assert sorted(tmp_path.rglob("*")) == before
    assert served.sent_bytes() == 0


def test_a_link_out_of_the_cache_is_no_model(served, tmp_path):
    entry = pull(REPO).path
    outside = tmp_path / "outside.gguf"
    outside.write_bytes(TINY)
    entry.unlink()
    entry.symlink_to(outside)
    assert hub.find(hub.parse(REPO)) is None
    assert hub.stored() == []
    entry.unlink()
    entry.symlink_to(entry)
    assert hub.find(hub.parse(REPO)) is None


def test_a_folder_that_leads_out_of_the_cache_is_not_written_to(served, tmp_path):
    commit = served.commit("teach/split-GGUF")
    snapshot = hub_cache.own() / "models--teach--split-GGUF" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    (snapshot / "big").symlink_to(outside)
    with pytest.raises(LabError, match="leads out of the cache"):
        pull(SPLIT)
    assert list(outside.iterdir()) == []


# Room


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 1 MiB for the cache."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        os.getuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], check=False).returncode
    ):
        missing("small disk", "mounting one needs root")
    monkeypatch.setenv("HF_HUB_CACHE", str(place / "hub"))
    yield place
    subprocess.run(["umount", place], check=True)


@promise(
    part="Disk and files",
    fault="A model is larger than the free disk",
    sees="`pull` and `start` refuse before a byte is fetched, with both sizes",
    keeps="Everything",
    cleans="Nothing was begun",
    within_s=60,
)
def test_what_does_not_fit_is_not_begun(served, small_disk):
    with pytest.raises(DiskSpaceError, match=r"it needs 3(\.\d)? MB more, 1\.0 MB are free") as caught:
        pull(f"{REPO}:Q8_0")
    assert "HF_HUB_CACHE" in caught.value.hint
    assert served.sent_bytes() == 0
    assert list(small_disk.iterdir()) == []


def test_a_part_that_is_here_needs_no_room(served, small_disk, hurried):
    served.faults += [Fault("drop", after_bytes=500_000), Fault("drop", times=None)]
    with pytest.raises(HubError):
        pull(REPO)
    served.faults.clear()
    (small_disk / "other").write_bytes(bytes(400_000))
    assert pull(REPO).downloaded_bytes == SIZE - 500_000


@promise(
    part="Disk and files",
    fault="The disk fills up in the middle of a download",
    sees="The download ends and says how much more it needs, where, and how to choose another place",
    keeps="What has come: `pull` goes on from there once there is room",
    cleans="Nothing; `rm` removes the part",
    within_s=60,
)
def test_a_disk_that_fills_up_meanwhile_is_a_clear_error(served, small_disk):
    def fill(done: int, _: int | None) -> None:
        if done > 0 and not (small_disk / "other").exists():
            with suppress(OSError), (small_disk / "other").open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass

    with reporting_to(Told(fill)), pytest.raises(DiskSpaceError, match="the disk is full"):
        pull(REPO)
    assert hub.find(hub.parse(REPO)) is None
    (small_disk / "other").unlink()
    fetched = pull(REPO)
    assert fetched.path.read_bytes() == TINY[:SIZE]
    assert fetched.downloaded_bytes < SIZE


# Without a network


def test_offline_nothing_is_asked_for(served, monkeypatch):
    pull(REPO)
    asked = len(served.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    told = Told()
    with reporting_to(told):
        assert pull(REPO).downloaded_bytes == 0
    assert any("HF_HUB_OFFLINE" in note for note in told.notes)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        pull(f"{REPO}:Q8_0")
    assert len(served.requests) == asked


def test_without_the_hub_what_is_here_is_used(served, hurried, monkeypatch):
    path = pull(REPO).path
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    told = Told()
    with reporting_to(told):
        assert pull(REPO).path == path
    assert any("cannot be reached" in note for note in told.notes)
    with pytest.raises(HubError, match=r"127\.0\.0\.1:9 cannot be reached"):
        pull(f"{REPO}:Q8_0")


@pytest.mark.parametrize(
    "endpoint", ["nonsense", "ftp://x", "http://", "http://a b", "http://127.0.0.1:99999"]
)
def test_an_endpoint_that_is_none_is_a_clear_error(served, hurried, monkeypatch, endpoint):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(HubError) as caught:
        pull(REPO)
    assert caught.value.hint


def test_something_else_than_a_hub_is_a_clear_error(served, folder, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"{served.endpoint}/elsewhere")
    with pytest.raises(HubError, match="answers 404"):
        pull(REPO)


def test_the_environment_holds_as_it_is_at_each_call(served, folder, tmp_path, monkeypatch):
    pull(REPO)
    (tmp_path / "served2/other/words-GGUF").mkdir(parents=True)
    (tmp_path / "served2/other/words-GGUF/words-Q8_0.gguf").write_bytes(TINY[:1234])
    with Hub(tmp_path / "served2").serving() as second:
        monkeypatch.setenv("HF_ENDPOINT", second.endpoint)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
        assert hub.stored() == []
        assert pull("hf:other/words-GGUF").path.is_relative_to(tmp_path / "elsewhere")
        huggingface_hub.close_session()


def test_without_huggingface_hub_the_hint_is_how_to_get_it(served, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(LabError, match="need huggingface_hub") as caught:
        pull(REPO)
    assert "pip install huggingface_hub" in caught.value.hint
    assert hub.find(hub.parse(REPO)) is None


# Several at once, and killed


def _pulling(reference: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "llmlab", "pull", reference, "--json"]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _part_bytes() -> int:
    return sum(path.stat().st_size for path in hub_cache.own().glob("models--*/blobs/*.incomplete"))


def test_two_processes_fetch_a_file_once(served):
    served.faults.append(Fault("slow", times=None, bytes_per_s=400_000))
    both = [_pulling(REPO), _pulling(REPO)]
    for each in both:
        _, errors = each.communicate(timeout=60)
        assert each.returncode == 0, errors
    assert served.sent_bytes() == SIZE
    assert hub.find(hub.parse(REPO)) is not None


@promise(
    part="Disk and files",
    fault="A download is killed (SIGKILL), or the machine goes down",
    sees="The model is not listed",
    keeps="What has come: the next `pull` goes on from there, and verifies the whole",
    cleans="Nothing; `rm` removes the part",
    within_s=60,
)
def test_a_pull_that_was_killed_leaves_no_model_and_is_resumed(served):
    served.faults.append(Fault("slow", times=None, bytes_per_s=300_000))
    first = _pulling(REPO)
    eventually(lambda: _part_bytes() > 100_000)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    part = _part_bytes()
    assert 100_000 < part < SIZE
    assert hub.find(hub.parse(REPO)) is None
    assert hub.stored() == []
    served.faults.clear()
    fetched = pull(REPO)
    assert fetched.path.read_bytes() == TINY[:SIZE]
    assert fetched.downloaded_bytes == SIZE - part
    assert ranges(served)[-1] == f"bytes={part}-599999"


def test_who_waits_goes_on_when_the_other_is_killed(served):
    served.faults.append(Fault("slow", times=None, bytes_per_s=200_000))
    first = _pulling(REPO)
    eventually(lambda: _part_bytes() > 0)
    second = _pulling(REPO)
    eventually(lambda: sum("/api/models/teach" in request.path for request in served.requests) == 2)
    time.sleep(0.3)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    served.faults.clear()
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 0, errors
    assert "Another process is fetching" in errors
    assert int(ranges(served)[-1].removeprefix("bytes=").partition("-")[0]) > 0
    path = hub.find(hub.parse(REPO))
    assert path
    assert path.read_bytes() == TINY[:SIZE]


def test_the_lock_is_the_one_that_huggingface_hub_takes(served):
    _, files = hub_http.listing(hub.parse(REPO))
    blob = next(file.blob for file in files if file.name == FIRST)
    lock = hub_cache.own() / ".locks" / "models--teach--tiny-GGUF" / f"{blob}.lock"
    lock.parent.mkdir(parents=True)
    done = threading.Event()

    def fetch() -> None:
        pull(REPO)
        done.set()

    with FileLock(lock):
        thread = threading.Thread(target=fetch)
        thread.start()
        assert not done.wait(0.7)
        assert served.sent_bytes() == 0
    thread.join(30)
    assert done.is_set()


def test_ctrl_c_keeps_what_has_come(served):
    def interrupt(done: int, _: int | None) -> None:
        if done > 100_000:
            raise KeyboardInterrupt

    told = Told(interrupt)
    with reporting_to(told), pytest.raises(KeyboardInterrupt):
        pull(REPO)
    assert any("goes on from there" in note for note in told.notes)
    assert hub.find(hub.parse(REPO)) is None
    assert 100_000 < _part_bytes() < SIZE
    assert pull(REPO).downloaded_bytes < SIZE - 100_000


# Shared by a class


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that a class shares, where everybody can look."""
    with tempfile.TemporaryDirectory(prefix="llm-") as name:
        Path(name).chmod(0o755)
        path = Path(name) / "models"
        monkeypatch.setenv(hub_cache.SHARED, str(path))
        yield path


def test_a_teacher_fetches_for_all_whatever_the_umask(served, shared):
    before = os.umask(0o077)
    try:
        fetched = pull(SPLIT)
    finally:
        os.umask(before)
    assert fetched.path.is_relative_to(shared)
    for path in shared.rglob("*"):
        if ".locks" not in path.parts and not path.is_symlink():
            wanted = 0o055 if path.is_dir() else 0o044
            assert path.stat().st_mode & wanted == wanted, path
    (model,) = hub.stored()
    assert model.shared


_LEARNER = """
import os, sys
from pathlib import Path
from llmlab.weights import hub, hub_cache, store
wanted = hub.parse({reference!r})
hub.pull(wanted)                         # the teacher; this also imports everything
os.setgid({nobody}); os.setuid({nobody})
os.environ.update(HF_HOME={home!r}, LLMLAB_CACHE_DIR={home!r}, HOME={home!r})
shared = hub_cache.shared()
before = sorted(map(str, shared.rglob("*")))
assert not os.access(shared, os.W_OK)
path = hub.find(wanted)
assert path.is_relative_to(shared), path
assert path.read_bytes()[:4] == b"GGUF"
assert hub.fetch(wanted) == path
assert hub.pull(wanted).downloaded_bytes == 0
assert [(s.reference, s.shared) for s in hub.stored()] == [({reference!r}, True)]
other = hub.pull(hub.parse({other!r}))   # not shared: goes to the learner's own cache
assert other.path.is_relative_to({home!r}), other
assert sorted(map(str, shared.rglob("*"))) == before
print("learner", other.downloaded_bytes)
"""


def test_a_learner_uses_what_is_shared_without_writing_there(served, shared):
    if os.getuid():
        missing("second user", "becoming another user needs root")
    with tempfile.TemporaryDirectory(prefix="llm-") as home:
        os.chown(home, NOBODY, NOBODY)
        script = _LEARNER.format(reference=f"{REPO}:Q4_K_M", other=f"{REPO}:Q8_0", nobody=NOBODY, home=home)
        # Where it looks for a token, huggingface_hub decides once.
        environment = {**os.environ, "HF_HOME": home}
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"learner {len(TINY)}"


def test_what_is_in_the_own_cache_goes_to_the_shared_one_when_a_teacher_asks(served, monkeypatch, tmp_path):
    pull(REPO)
    monkeypatch.setenv(hub_cache.SHARED, str(tmp_path / "class"))
    assert pull(REPO).path.is_relative_to(tmp_path / "class")
    assert [model.shared for model in hub.stored()] == [True, False]


# Nothing foreign leaks


def _errors_of(module: Any) -> list[type[Exception]]:
    return [
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Exception) and not issubclass(kind, Warning)
    ]


def _http_library() -> Any:
    base = next(
        kind for kind in huggingface_hub.errors.HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError"
    )
    return sys.modules[base.__module__.partition(".")[0]]


FOREIGN = {
    *_errors_of(huggingface_hub.errors),
    *_errors_of(_http_library()),
    OSError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
    ConnectionResetError,
    TimeoutError,
    UnicodeDecodeError,
}


@pytest.mark.parametrize("kind", sorted(FOREIGN, key=str), ids=lambda kind: kind.__name__)
def test_every_error_of_the_libraries_becomes_one_of_ours(kind):
    error = kind.__new__(kind)
    error.args = ("something happened",)
    if kind is UnicodeDecodeError:
        error = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "something happened")

    def ask() -> None:
        with hub_http.translated(hub.parse("hf:o/r")):
            raise error

    with pytest.raises((HubError, hub_patience.PassingError)) as caught:
        ask()
    shown = caught.value.error if isinstance(caught.value, hub_patience.PassingError) else caught.value
    assert isinstance(shown, HubError)
    assert shown.hint


# The hub itself


def test_a_folder_can_be_served_from_the_command_line(served, folder):
    command = [sys.executable, "-m", "llmlab.testing.hub", str(folder), "--drop", "2", "--token", "secret"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stdout
            name, _, endpoint = serving.stdout.readline().strip().partition("=")
            assert name == "HF_ENDPOINT"
            environment = {**os.environ, name: endpoint}
            refused = run_cli("pull", REPO, check=False, env=environment)
            assert refused.returncode == 1
            assert "Traceback" not in refused.stderr
            run_cli("pull", REPO, env={**environment, "HF_TOKEN": "secret"})
        finally:
            serving.send_signal(signal.SIGINT)
    path = hub.find(hub.parse(REPO))
    assert path
    assert path.read_bytes() == TINY[:SIZE]


def test_the_hub_imports_nothing_of_llmlab():
    code = "import sys, llmlab.testing.hub; print(sorted(m for m in sys.modules if m.startswith('llmlab')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        done.stdout.strip()
        == "['llmlab', 'llmlab.testing', 'llmlab.testing.answering', 'llmlab.testing.hub']"
    )
