"""The audit: what it finds of real containers, sealed, weakened and hostile."""

from __future__ import annotations

import gc
import json
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

import llmlab
from llmlab import errors, runtime
from llmlab.auditing import Audit, AuditComparison, running, stand
from llmlab.auditing.checks import BY_ID, CHECKS, ON_THE_SERVER
from llmlab.auditing.judging import decide
from llmlab.auditing.results import Attempt, Finding
from llmlab.auditing.trials import Subject
from llmlab.backends import docker_api, tool_image
from llmlab.isolation import create_request
from llmlab.profiles import SEALED, Mount, Profile, ProfileName
from llmlab.specs import Limits
from tests.conftest import eventually, run_cli
from tests.docker_door import Door
from tests.test_results import EVIL
from tests.test_views import seen

pytestmark = pytest.mark.usefixtures("require_docker")

TRIED_IN_A_TWIN = frozenset(BY_ID) - ON_THE_SERVER
NETWORK = {"N1", "N2", "N3", "N4", "N5", "N6", "N7"}
# What the well-known flags leave open, and what plain `docker run` does.
VIDEO = NETWORK | {"N8", "N9", "F2", "P1", "P3", "R2", "R4", "A1", "A2", "A3"}
NONE = VIDEO | {"F1", "F3", "F4", "P2", "R1", "R3"}
FAILURES: dict[ProfileName, set[str]] = {"sealed": set(), "exposed": set(), "video": VIDEO, "none": NONE}


def left_of_audits() -> list[str]:
    return [str(entry["Names"]) for entry in docker_api.connect().containers(stand.LABEL)]


def told(findings: tuple[Finding, ...]) -> str:
    return "\n".join(map(str, findings))


def ids(findings: tuple[Finding, ...], verdict: str) -> set[str]:
    return {finding.id for finding in findings if finding.verdict == verdict}


# Servers


@pytest.fixture
def servers(require_engine: Any) -> list[llmlab.Server]:
    """One of each profile that there is on a machine without a GPU."""
    return [llmlab.start("tiny", name=name, profile=name) for name in FAILURES]


def test_a_sealed_server_passes_everything_that_applies_and_others_fail_what_they_should(servers, tmp_path):
    compared = llmlab.audit("sealed", against="exposed,video,none")
    assert isinstance(compared, AuditComparison)
    sealed, exposed, _, none = compared
    assert {audit.server: set(audit.failed()) for audit in compared} == FAILURES
    for audit in compared:
        assert ids(audit.findings, "inconclusive") == set(), told(audit.findings)
        assert audit.server == audit.isolation
    gpu = set() if list(Path("/dev").glob("nvidia*")) else {"G1"}
    assert ids(sealed.findings, "not applicable") == gpu | {"A2"}
    assert ids(exposed.findings, "not applicable") == gpu
    assert [audit.exit_status for audit in compared] == [0, 0, 1, 1]
    assert sealed.passed
    for finding in sealed.findings:
        if finding.verdict == "pass":
            assert any(attempt.control for attempt in finding.attempts), finding
            assert not any(attempt.succeeded for attempt in finding.attempts), finding
    assert "the server has" in sealed["R1"].observed
    assert "64 MiB" in sealed["R1"].observed
    eventually(lambda: not left_of_audits())
    for text in ("FAIL", "pass", "sealed", "none", "N1"):
        assert text in str(compared)
        assert text in compared.to_html()
    assert sealed.beside(none).audits == (sealed, none)


def test_the_command_line_is_for_scripts(servers):
    done = run_cli("audit", "sealed", "--checks", "N6,F,p2,m", "--json")
    data = json.loads(done.stdout)
    assert data["passed"] is True
    assert {finding["id"] for finding in data["findings"]} == {
        "N6",
        "F1",
        "F2",
        "F3",
        "F4",
        "F5",
        "F6",
        "P2",
        "M1",
    }
    attempt = next(finding for finding in data["findings"] if finding["id"] == "F1")["attempts"][0]
    assert attempt["control"] is True
    assert attempt["succeeded"] is False
    assert data["counts"] == {"fail": 0, "pass": 9, "inconclusive": 0, "not applicable": 0}
    failed = run_cli("audit", "none", "--checks", "F1", check=False)
    assert failed.returncode == 1
    assert "✗ FAIL" in failed.stdout


def test_bad_arguments_are_told_in_one_line(require_engine):
    with pytest.raises(errors.UsageError, match="no server is running"):
        llmlab.audit()
    llmlab.start("tiny", name="bare", backend="native")
    with pytest.raises(errors.UsageError, match="there is no isolation to audit"):
        llmlab.audit("bare")
    with pytest.raises(errors.UsageError, match="no check 'Z9'"):
        llmlab.audit("bare", checks="Z9")
    with pytest.raises(errors.UsageError, match="no server 'other'"):
        llmlab.audit("bare", against="other")


def test_an_exchanged_model_and_a_paused_server_are_seen(require_engine, tmp_path):
    path = tmp_path / "mine.gguf"
    path.write_bytes(llmlab.start("tiny", name="t").record.spec.model.path.read_bytes())
    llmlab.start(str(path), name="mine")
    altered = bytearray(path.read_bytes())
    altered[-1] ^= 1
    path.write_bytes(altered)
    found = llmlab.audit("mine", checks="M1")
    assert isinstance(found, Audit)
    assert found["M1"].verdict == "fail"
    assert "recorded" in found["M1"].observed


# Every control, weakened alone

USER = "65534:65534"
LIMITS = Limits(memory_mib=300, cpus=1.5, pids=256)
ROOT = {"user": "0:0"}
SOCKET = Mount(source="/var/run/docker.sock", target="/var/run/docker.sock", read_only=False)
MUTATIONS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "sealed": ({}, set()),
    "read_only": ({"read_only": False}, {"F1"}),
    "models_read_only": ({"models_read_only": False}, {"F2"}),
    "scratch_exec": ({"scratch_exec": True}, {"F3"}),
    "no scratch": ({"scratch_mib": None}, set()),
    "drop_capabilities": ({"drop_capabilities": ()}, {"P1"}),
    "add_capabilities": ({"add_capabilities": ("SYS_ADMIN",)}, {"P1", "P4"}),
    "no_new_privileges": ({"no_new_privileges": False}, {"P2"}),
    "seccomp default": ({"seccomp": "default"}, {"N8"}),
    "seccomp off": ({"seccomp": "unconfined"}, {"N8", "P4"}),
    "user": (ROOT, {"P3"}),
    "memory": ({"memory": False}, {"R1"}),
    "cpus": ({"cpus": False}, {"R3"}),
    "pids": ({"pids": None}, {"R2"}),
    "open_files": ({"open_files": None}, {"R4"}),
    "share pid": ({"share": ("pid",)}, {"P5", "P6"}),
    "share ipc": ({"share": ("ipc",)}, {"P6"}),
    "share uts": ({"share": ("uts",)}, {"P6"}),
    "network": ({"network": "bridge"}, {"N6"}),
    "network and seccomp": ({"network": "bridge", "seccomp": "default"}, NETWORK | {"N8"}),
    "host network": ({"network": "host", "seccomp": "default"}, NETWORK | {"N8", "P6"}),
    "docker.sock": ({"mounts": (SOCKET,), **ROOT}, {"F5", "P3"}),
    "a directory": ({"mounts": (Mount(source="/etc", target="/host-etc"),)}, {"F5"}),
}


@contextmanager
def created(profiles: dict[str, Profile], model: Path) -> Iterator[list[Subject]]:
    """Containers with these profiles, created and never started: a twin needs no more than the record."""
    api = docker_api.connect()
    image = tool_image.make(api, "probe")[1]
    made: list[str] = []
    try:
        subjects = []
        for number, (name, profile) in enumerate(profiles.items()):
            request = create_request(
                profile,
                image=image,
                argv=["/probe", "whoami"],
                environment={},
                user=USER if profile.user == "caller" else profile.user,
                limits=Limits(
                    memory_mib=LIMITS.memory_mib if profile.memory else None,
                    cpus=LIMITS.cpus if profile.cpus else None,
                    pids=profile.pids,
                ),
                mounts=[
                    Mount(source=str(model), target="/models/m.gguf", read_only=profile.models_read_only)
                ],
                labels={},
            )
            made.append(api.create(f"llmlab-test-{os.getpid()}-{number}", request))
            entry = api.container(made[-1])
            assert entry
            subjects.append(Subject(name=name, entry=entry))
        yield subjects
    finally:
        for container in made:
            api.stop(container, 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that stands for a model; whoever can write it may."""
    path = tmp_path_factory.mktemp("model") / "m.gguf"
    path.write_bytes(b"GGUF")
    path.chmod(0o666)
    path.parent.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def mutants(require_docker: None, model: Path) -> dict[str, tuple[Finding, ...]]:
    """What the audit finds of each weakened profile; one control and one sibling for all of them."""
    profiles = {name: replace(SEALED, **changes) for name, (changes, _) in MUTATIONS.items()}
    with created(profiles, model) as subjects:
        found, _ = running.observe(docker_api.connect(), subjects, TRIED_IN_A_TWIN)
    return dict(zip(profiles, found, strict=True))


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_control_that_is_weakened_is_caught_by_exactly_its_checks(mutants, name):
    assert ids(mutants[name], "fail") == MUTATIONS[name][1], told(mutants[name])


@pytest.mark.parametrize(("size", "failed"), [("64k", set()), ("1m", {"F5"})])
def test_only_what_is_laid_over_a_place_to_close_it_is_no_mount_of_this_machine(model, size, failed):
    """Where an engine keeps a mount's options, a file system in memory of this machine looks much the same."""
    with created({"closed": SEALED}, model) as subjects:
        tmpfs = subjects[0].entry["HostConfig"]["Tmpfs"]
        tmpfs["/host-memory"] = f"ro,nosuid,nodev,noexec,size={size},mode=755"
        (found,), _ = running.observe(docker_api.connect(), subjects, frozenset({"F5"}))
    assert ids(found, "fail") == failed, told(found)


def test_what_is_seen_of_a_control_is_written_down(mutants):
    """Findings of a control alone would prove nothing: each verdict has its attempts."""
    for name, findings in mutants.items():
        for finding in findings:
            if finding.verdict == "pass":
                assert any(attempt.control and attempt.succeeded is False for attempt in finding.attempts), (
                    name
                )
            elif finding.verdict == "fail":
                assert any(attempt.succeeded for attempt in finding.attempts), name


# Hostile, slow and dying engines


@contextmanager
def through(folder: Path, **how: Any) -> Iterator[Door]:
    """A door that is the user's container engine; afterwards, the real one is."""
    with Door(folder / "d", **how) as door, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", door.url)
        yield door
    # The docker package does not close a socket that is refused: here, where that is known.
    gc.collect()


refused = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)


IGNORED: dict[str, tuple[str, set[str]]] = {
    "no limit of processes": ("PidsLimit", {"R2"}),
    "root is writable": ("ReadonlyRootfs", {"F1"}),
    "capabilities are kept": ("CapDrop", {"P1"}),
    "memory is not limited": ("Memory", {"R1"}),
    "the network is there": ("NetworkMode", {"N6"}),
}


@pytest.mark.parametrize("what", IGNORED)
def test_an_engine_that_ignores_an_option_is_caught(require_engine, tmp_path, what):
    option, checks = IGNORED[what]

    def ignore(request: dict[str, Any]) -> None:
        request.get("HostConfig", {}).pop(option, None)
        if option == "Memory":
            request["HostConfig"].pop("MemorySwap", None)
        if option == "NetworkMode":
            request.pop("NetworkDisabled", None)

    with through(tmp_path, alter=ignore):
        llmlab.start("tiny", name="a")
        found = llmlab.audit("a", checks=",".join(sorted(checks | {"F2", "P2"})))
        assert isinstance(found, Audit)
        assert set(found.failed()) == checks, told(found.findings)
        llmlab.stop("a")


def test_a_slow_engine_is_no_failure(require_engine, tmp_path):
    llmlab.start("tiny", name="a")
    with through(tmp_path, delay_s=0.3):
        found = llmlab.audit("a", checks="N1,F1,P1")
    assert found.exit_status == 0, found


@refused
@pytest.mark.parametrize(
    "at", [r"create\?name=\S*sibling", r"create\?name=\S*control", r"/containers/\w+/start", r"/attach"]
)
def test_an_engine_that_dies_meanwhile_is_told_and_nothing_is_left(require_engine, tmp_path, at):
    llmlab.start("tiny", name="a")
    threads = threading.active_count()
    with through(tmp_path, shut_at=at), pytest.raises(errors.BackendError) as caught:
        llmlab.audit("a", checks="N1,F1,P1")
    assert caught.value.hint
    # What was running ends by itself; what was only created is removed by the next audit.
    assert llmlab.audit("a", checks="F1").exit_status == 0
    eventually(lambda: not left_of_audits(), 60)
    eventually(lambda: threading.active_count() <= threads)


def test_what_a_killed_audit_has_left_is_removed_by_the_next(require_engine):
    llmlab.start("tiny", name="a")
    gone = subprocess.Popen(["true"])
    process = None
    while process is None and gone.poll() is None:
        process = runtime.process(gone.pid)
    gone.wait()
    owner = f"{process.pid}:{process.start}" if process else ""
    if not owner:
        pytest.skip("it ended too soon")
    api = docker_api.connect()
    image = tool_image.make(api, "probe")[1]
    left = api.create(
        f"llmlab-test-left-{os.getpid()}",
        {"Image": image, "Entrypoint": ["/probe"], "Labels": {stand.LABEL: owner}},
    )
    llmlab.audit("a", checks="F1")
    assert api.container(left) is None


def audit_until_interrupted() -> None:
    for _ in range(100):
        llmlab.audit("a")


def test_ctrl_c_leaves_nothing(require_engine):
    llmlab.start("tiny", name="a")
    timer = threading.Timer(0.7, lambda: os.kill(os.getpid(), 2))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            audit_until_interrupted()
    finally:
        timer.cancel()
    eventually(lambda: not left_of_audits())


def test_the_machine_is_as_before(require_engine):
    """The probe harms nothing, though in the control almost everything succeeds."""

    def machine() -> dict[str, Any]:
        settings = {}
        for path in sorted(Path("/proc/sys").rglob("*")):
            # What nobody can set is a counter; the last process id is one that can be set,
            # and the containers' interfaces come and go with them.
            if path.name == "ns_last_pid" or any(part.startswith("veth") for part in path.parts):
                continue
            with suppress(OSError):
                if path.is_file() and path.stat().st_mode & stat.S_IWUSR:
                    settings[str(path)] = path.read_text()
        own = {m.split(" - ")[0].split()[4] for m in Path("/proc/self/mountinfo").read_text().splitlines()}
        return {
            "settings": settings,
            "mounts": {m for m in own if "docker" not in m and "containerd" not in m},
            "addresses": {
                name: [a.address for a in found if a.family == 2]
                for name, found in psutil.net_if_addrs().items()
                if not name.startswith("veth")
            },
            "host name": os.uname().nodename,
        }

    server = llmlab.start("tiny", name="a")
    model = server.record.spec.model.path
    kept = (model.stat().st_mtime_ns, model.stat().st_mode, model.read_bytes())
    others = {
        p.pid: p.create_time()
        for p in psutil.process_iter()
        if p.name() not in {"containerd-shim", "containerd-shim-runc-v2", "docker-proxy"}
    }
    before = machine()
    assert isinstance(audit := llmlab.audit("a"), Audit)
    eventually(lambda: not left_of_audits())
    assert machine() == before
    assert (model.stat().st_mtime_ns, model.stat().st_mode, model.read_bytes()) == kept
    engine = {"dockerd", "containerd", "llama-server", "tini", "docker-init"}
    after = {p.pid: p.create_time() for p in psutil.process_iter() if p.name() in engine}
    assert {pid: when for pid, when in others.items() if pid in after} == {
        pid: when for pid, when in after.items() if pid in others
    }
    assert server.ask("What is a GPU?", max_tokens=4).text
    assert audit.seconds > 0


# Verdicts


def attempt(succeeded: bool | None, control: bool | None) -> Attempt:  # noqa: FBT001 - three-valued
    return Attempt(text="try", succeeded=succeeded, observed="seen", control=control, control_observed="weak")


@pytest.mark.parametrize(
    ("attempts", "verdict"),
    [
        ([attempt(False, True)], "pass"),
        ([attempt(False, True), attempt(False, False)], "pass"),
        ([attempt(False, False)], "inconclusive"),
        ([attempt(False, None)], "inconclusive"),
        ([attempt(None, True)], "inconclusive"),
        ([attempt(False, True), attempt(None, True)], "inconclusive"),
        ([attempt(True, True), attempt(False, True)], "fail"),
        ([attempt(True, False)], "fail"),
        ([attempt(True, None)], "fail"),
        ([], "inconclusive"),
    ],
)
def test_an_attempt_counts_only_if_it_succeeds_in_the_control(attempts, verdict):
    assert decide(BY_ID["N1"], attempts).verdict == verdict
    assert decide(BY_ID["N1"], attempts).observed


def test_every_check_says_what_it_is_for():
    assert len({check.id for check in CHECKS}) == len(CHECKS) == 30
    for check in CHECKS:
        assert check.title
        assert check.meaning


def example(text: str = "seen") -> Audit:
    def finding(verdict: Any) -> Finding:
        made = decide(BY_ID["N1"], [replace(attempt(True, True), text=text, observed=text)])
        return replace(made, verdict=verdict, observed=text, title=text)

    verdicts = ("fail", "pass", "inconclusive", "not applicable")
    return Audit(
        server=text, isolation=text, engine=text, findings=tuple(map(finding, verdicts)), notes=(text,)
    )


def test_exit_status_says_fail_before_inconclusive():
    audit = example()
    assert audit.exit_status == 1
    only = replace(audit, findings=audit.findings[1:])
    assert only.exit_status == 3
    assert not only.passed
    assert replace(audit, findings=audit.findings[1:2]).exit_status == 0
    assert only.beside(audit).exit_status == 1
    assert AuditComparison(()).exit_status == 0


@pytest.mark.parametrize("text", EVIL, ids=range(len(EVIL)))
def test_nothing_hostile_becomes_markup_or_reaches_a_terminal(text):
    audit = example(text)
    for view in (audit, audit.beside(audit), audit.findings[0], AuditComparison(())):
        seen(view.to_html())
        shown = view._repr_mimebundle_()["text/plain"]
        assert not [c for c in shown if not c.isprintable() and c not in "\n\t\u00a0\u200d"]
        json.dumps(view.to_dict())
