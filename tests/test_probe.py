"""The probe: what it attempts fails in a hardened container and succeeds in a weak one."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmlab.backends import docker_api, tool_image
from llmlab.builds import static
from llmlab.errors import EngineMissingError
from llmlab.isolation import create_request
from llmlab.isolation.profile import SCRATCH
from llmlab.profiles import SEALED, Mount
from llmlab.specs import Limits
from tests.conftest import REPOSITORY, eventually, missing

TOOLS = REPOSITORY / "src/llmlab/isolation/tools"
HOST_SOCKET = "/var/run/docker.sock"
LIMITS = Limits(memory_mib=64, cpus=0.25, pids=128)
WEAK_CAPABILITIES = ("SYS_ADMIN", "SYS_PTRACE", "SYS_RAWIO", "NET_ADMIN")
# What the kernel itself may be without; the weak container cannot have it either.
_NOT_IN_KERNEL = ("ENOSYS", "ENOENT", "EAFNOSUPPORT", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT")
_MAY_BE_WITHOUT = {"N8", "F6", "P4"}
# They change by themselves, or with each container that starts.
_VOLATILE = (
    "random/",
    "ns_last_pid",
    "pty/nr",
    "perf_event_max_sample_rate",
    "stat_refresh",
    "veth",
    "/br-",
    "quota/",
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="the probe is a Linux program")

Attempt = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One run of the probe in a container."""

    attempts: list[Attempt]
    seconds: float

    def of(self, check: str) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt["check"] == check]

    def named(self, text: str) -> Attempt:
        (found,) = [attempt for attempt in self.attempts if attempt["attempt"] == text]
        return found


@dataclass(frozen=True)
class Runs:
    """The same attempts in both containers, and how the host was before and after."""

    hardened: Run
    weak: Run
    hardened_name: str
    weak_name: str
    received: list[dict[str, str]]
    before: dict[str, object]
    after: dict[str, object]
    bystander_lives: bool
    model_unchanged: bool


@pytest.fixture(scope="module")
def probe() -> Path:
    try:
        return static.program("probe", machine=os.uname().machine)
    except EngineMissingError as error:
        missing("compiler", str(error))


@pytest.fixture(scope="module")
def image(require_docker) -> str:
    try:
        return tool_image.make(docker_api.connect(), "probe")[1]
    except EngineMissingError as error:
        missing("compiler", str(error))


def run(probe: Path, *words: str | bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([probe, *words], capture_output=True, timeout=60, check=False)


def parsed(output: bytes) -> list[Attempt]:
    """The attempts that were printed; the last line says that there are no more."""
    *lines, last = [json.loads(line) for line in output.splitlines()]
    assert last == {"done": True}
    return lines


@contextmanager
def container(request: dict[str, Any]) -> Iterator[str]:
    api = docker_api.connect()
    found = api.create(f"llmlab-test-probe-{secrets.token_hex(4)}", request)
    try:
        api.start(found)
        yield found
    finally:
        api.stop(found, 0)


def output_of(request: dict[str, Any], within_s: float = 60) -> tuple[int, list[str], float]:
    """Run a container to its end; its exit code, its lines, and how long it took."""
    api = docker_api.connect()
    start = time.perf_counter()
    with container(request) as found:
        state = eventually(
            lambda: (s := (api.container(found) or {})["State"])["Status"] == "exited" and s, within_s
        )
        return state["ExitCode"], api.log(found, None), time.perf_counter() - start


def attempts_in(request: dict[str, Any]) -> Run:
    code, lines, seconds = output_of(request)
    assert code == 0, lines
    return Run(parsed("\n".join(lines).encode()), seconds)


def hardened_request(
    image: str, words: list[str], mounts: tuple[Mount, ...] = (), *, user: str = "65534:65534"
) -> dict[str, Any]:
    made = create_request(
        SEALED,
        image=image,
        argv=["/probe", *words],
        environment={},
        user=user,
        limits=LIMITS,
        mounts=list(mounts),
        labels={"llmlab.test": "probe"},
    )
    made["HostConfig"]["Ulimits"] = [{"Name": "nofile", "Soft": 1024, "Hard": 1024}]
    return made


def weak_request(image: str, words: list[str], binds: tuple[str, ...] = (), **host: Any) -> dict[str, Any]:
    return {
        "Image": image,
        "Entrypoint": ["/probe"],
        "Cmd": words,
        "Labels": {"llmlab.test": "probe"},
        "HostConfig": {
            # Nearly what "Privileged" is, which not every engine can give (one in a container cannot).
            "CapAdd": list(WEAK_CAPABILITIES),
            "MaskedPaths": [],
            "ReadonlyPaths": [],
            "PidMode": "host",
            "IpcMode": "host",
            "UTSMode": "host",
            "CgroupnsMode": "host",
            "SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined"],
            "Binds": list(binds),
            **host,
        },
    }


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("", 0))
        return int(door.getsockname()[1])


def host_address(fallback: str) -> str:
    """An address of this machine that is not the engine's; the engine's gateway if there is none."""
    for name, addresses in psutil.net_if_addrs().items():
        if not name.startswith(("lo", "docker", "br-", "veth")):
            for address in addresses:
                if address.family == socket.AF_INET:
                    return address.address
    return fallback


def host_state() -> dict[str, object]:
    """What an attempt that goes wrong could have changed."""
    settings: dict[str, str] = {}
    for folder in ("kernel", "vm", "fs", "net/ipv4", "net/core"):
        for path in Path("/proc/sys", folder).rglob("*"):
            if path.is_file() and path.stat().st_mode & 0o400 and not any(x in str(path) for x in _VOLATILE):
                try:
                    settings[str(path)] = path.read_text()
                except OSError:
                    continue
    # Counters of what is open right now.
    settings = {path: text for path, text in settings.items() if not path.endswith(("-nr", "-state", "_nr"))}
    mounts = [line.split()[3:] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    shared = [mount for mount in mounts if not mount[1].startswith(("/var/lib/docker", "/run/docker"))]
    probes = [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if (process.info["cmdline"] or [""])[0] in {"/probe", "/probe-suid"}
    ]
    return {
        "settings": settings,
        "mounts": shared,
        "probes": probes,
        "init": psutil.Process(1).create_time(),
        "name": socket.gethostname(),
    }


@pytest.fixture(scope="module")
def runs(image: str, probe: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("host")
    model = folder / "m.gguf"
    model.write_bytes(b"GGUF" * 1000)
    secret = folder / "secret"
    secret.write_text("of the host")
    marker = f"bystander-{secrets.token_hex(8)}"
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(200)", marker])
    canary_nonce, port = secrets.token_hex(8), free_port()
    canary = subprocess.Popen(
        [probe, "serve", f"tcp={port}", f"nonce={canary_nonce}", "seconds=200"], stdout=subprocess.PIPE
    )
    sibling = {
        "Image": image,
        "Entrypoint": ["/probe"],
        "Cmd": ["serve", "tcp=4000", "udp=4001", "dns=53", f"nonce={canary_nonce}", "seconds=200"],
        "Labels": {"llmlab.test": "probe"},
    }
    api = docker_api.connect()
    try:
        with container(sibling) as found:
            eventually(lambda: {"listening": True} in [json.loads(line) for line in api.log(found, None)])
            network = (api.container(found) or {})["NetworkSettings"]["Networks"]["bridge"]
            address, gateway = network["IPAddress"], network["Gateway"]

            def words(name: str) -> list[str]:
                return [
                    "attempt", f"nonce={canary_nonce}", f"lan={host_address(gateway)}:{port}",
                    f"gateway={gateway}:{port}", "metadata=169.254.169.254", f"dns={address}",
                    f"name={name}.llmlab.test", f"udp={address}:4001", f"sibling={address}:4000",
                    f"marker={marker}", "model=/models/x.gguf", "scratch=/tmp", "fill_mib=72", "fds=1040",
                    "forks=144", "alloc_mib=80", "burn_s=0.3", "cpu_limit=0.25",
                    f"docker_socks={HOST_SOCKET}", f"host_paths={secret}", "mounts=/models,/tmp",
                ]  # fmt: skip

            before, stamp = (
                host_state(),
                (model.read_bytes(), model.stat().st_mtime_ns, model.stat().st_ctime_ns),
            )
            request = hardened_request(
                image, words("a1"), (Mount(source=str(model), target="/models/x.gguf"),)
            )
            # Nothing that is looked up leaves this machine.
            request["HostConfig"]["Dns"] = [address]
            hardened = attempts_in(request)
            binds = (f"{model}:/models/x.gguf", f"{HOST_SOCKET}:{HOST_SOCKET}", f"{secret}:{secret}")
            weak = attempts_in(weak_request(image, words("b2"), binds, Dns=[address]))
            received = [json.loads(line) for line in api.log(found, None)][1:]
            after = host_state()
            yield Runs(
                hardened=hardened,
                weak=weak,
                hardened_name="a1.llmlab.test",
                weak_name="b2.llmlab.test",
                received=received,
                before=before,
                after=after,
                bystander_lives=psutil.Process(bystander.pid).status() == psutil.STATUS_SLEEPING,
                model_unchanged=stamp
                == (model.read_bytes(), model.stat().st_mtime_ns, model.stat().st_ctime_ns),
            )
    finally:
        for process in (bystander, canary):
            process.kill()
            process.communicate()


# In containers


def test_every_attempt_fails_in_a_hardened_container(runs):
    assert [attempt for attempt in runs.hardened.attempts if attempt["succeeded"]] == []
    assert [attempt for attempt in runs.hardened.attempts if attempt.get("sent")] == []


def test_every_attempt_succeeds_in_a_weak_container(runs):
    """Apart from those that the receiver or the reader decides, and what this kernel is without."""
    failed = {
        attempt["attempt"]: attempt["observed"]
        for attempt in runs.weak.attempts
        if not attempt["succeeded"]
        and attempt["check"] not in {"P6", "N5"}
        and not (attempt["check"] in _MAY_BE_WITHOUT and str(attempt["observed"]).startswith(_NOT_IN_KERNEL))
    }
    assert failed == {}
    assert all(attempt["sent"] for attempt in runs.weak.of("N5"))


def test_both_containers_attempt_the_same(runs):
    keys = [[(a["check"], a["attempt"]) for a in run.attempts] for run in (runs.hardened, runs.weak)]
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == len(keys[0])
    checks = {check for check, _ in keys[0]}
    expected = {
        *(f"N{i}" for i in range(1, 9)),
        *(f"F{i}" for i in range(1, 7)),
        *(f"P{i}" for i in range(1, 7)),
    }
    assert checks - {"G1"} == expected | {"R1", "R2", "R3", "R4"}


def test_what_was_sent_reaches_the_sibling_from_the_weak_container_only(runs):
    texts = {(line["received"], line["text"]) for line in runs.received}
    assert ("dns", runs.weak_name) in texts
    assert ("dns", runs.hardened_name) not in texts
    assert [text.split()[1] for kind, text in texts if kind == "udp"] == [runs.weak_name]
    assert {line["from"].count(".") for line in runs.received} == {3}


def test_namespaces_of_the_weak_container_are_the_hosts(runs):
    for word, file in {"ipc": "ipc", "uts": "uts", "pid": "pid", "cgroup": "cgroup"}.items():
        host = Path("/proc/self/ns", file).stat().st_ino
        assert runs.weak.named(f"{word} namespace")["inode"] == host
        assert runs.hardened.named(f"{word} namespace")["inode"] != host


def test_limits_say_how_far_it_came(runs):
    assert "killed by signal 9" in runs.hardened.of("R1")[0]["observed"]
    assert runs.hardened.of("R2")[0]["observed"].startswith("EAGAIN")
    assert runs.hardened.of("R4")[0]["observed"].startswith("EMFILE")
    assert " CPUs, limit 0.25" in runs.hardened.of("R3")[0]["observed"]


def test_every_attempt_says_how_long_it_took(runs):
    for attempts in (runs.hardened.attempts, runs.weak.attempts):
        assert all(0 <= attempt.get("ms", 0) < 60_000 for attempt in attempts)
        assert sum("ms" in attempt for attempt in attempts) > len(attempts) / 2


def test_the_host_is_as_it_was(runs):
    for part, before in runs.before.items():
        if isinstance(before, dict):
            assert dict(runs.after[part].items() ^ before.items()) == {}
        assert runs.after[part] == before
    assert runs.bystander_lives
    assert runs.model_unchanged


def test_the_weak_container_changes_nothing_of_its_own_either(image):
    """Files are gone again, and so are processes: nothing lies about for the next attempt."""
    folder = Path(tempfile.mkdtemp(prefix="llm-"))
    folder.chmod(0o755)
    words = ["attempt", "scratch=/shared", "socket_dir=/shared", "fill_mib=1", "checks=F3,F4,F5,P1"]
    try:
        done = attempts_in(weak_request(image, words, (f"{folder}:/shared",)))
        assert all(attempt["succeeded"] for attempt in done.attempts)
        assert list(folder.iterdir()) == []
        assert folder.stat().st_mode & 0o7777 == 0o755
    finally:
        folder.rmdir()


def test_a_socket_directory_of_somebody_elses(image):
    folder = Path(tempfile.mkdtemp(prefix="llm-"))
    folder.chmod(0o755)
    user = f"{os.getuid() + 1000}:65534"
    mounts = (Mount(source=str(folder), target="/run/llmlab", read_only=False),)
    words = ["attempt", "socket_dir=/run/llmlab", "mounts=/tmp", "checks=F5"]
    try:
        done = attempts_in(hardened_request(image, words, mounts, user=user))
        assert not done.named("create a file in /run/llmlab")["succeeded"]
        assert not done.named("create a file in /run/llmlab after chmod")["succeeded"]
        assert done.named("other mounts")["observed"].startswith("/run/llmlab (")
    finally:
        folder.rmdir()


@pytest.mark.parametrize(
    ("weakness", "caught"),
    [
        ({"ReadonlyRootfs": False}, {"F1"}),
        ({"CapDrop": []}, {"P1"}),
        ({"SecurityOpt": ["seccomp=unconfined", "no-new-privileges:true"]}, {"N8"}),
        ({"Tmpfs": {SCRATCH: "rw,exec,size=64m,mode=1777"}}, {"F3"}),
        ({"NetworkMode": "bridge"}, {"N6"}),
    ],
    ids=lambda value: "-".join(sorted(value)),
)
def test_one_flag_less_is_seen_by_a_user_without_rights(image, weakness, caught):
    request = hardened_request(image, ["attempt", "scratch=/tmp", "checks=F1,F3,P1,P2,N6,N8"])
    request["HostConfig"] |= weakness
    if "NetworkMode" in weakness:
        request["NetworkDisabled"] = False
    assert {a["check"] for a in attempts_in(request).attempts if a["succeeded"]} == caught


def test_a_setuid_program_gains_without_no_new_privileges(image):
    request = hardened_request(image, ["attempt", "checks=P2"])
    request["HostConfig"]["SecurityOpt"].pop(0)
    (done,) = attempts_in(request).attempts
    assert done["succeeded"]
    assert done["observed"].startswith("uid 65534 became 0")


def test_the_setuid_copy_only_says_who_it_is(image):
    request = weak_request(image, ["attempt"])
    request |= {"Entrypoint": ["/probe-suid"], "User": "65534:65534"}
    code, lines, _ = output_of(request)
    assert code == 2
    assert lines == ["probe: as a setuid program only: probe whoami"]


def test_a_writable_model_mount_shows_even_where_the_file_may_not_be_written(image):
    with tempfile.NamedTemporaryFile() as model:
        Path(model.name).chmod(0o444)
        mounts = (Mount(source=model.name, target="/models/x.gguf", read_only=False),)
        request = hardened_request(
            image, ["attempt", "model=/models/x.gguf", "checks=F2"], mounts, user="4321:4321"
        )
        done = attempts_in(request)
    assert not done.named("open /models/x.gguf for writing")["succeeded"]
    assert done.named("write through the mount of /models/x.gguf")["succeeded"]


def test_the_image_is_made_once_and_holds_the_probe_only(image):
    assert tool_image.make(docker_api.connect(), "probe")[1] == image
    with container(weak_request(image, ["serve", "seconds=30"])) as found:
        listed = subprocess.run(
            f"docker export {found} | tar tv", shell=True, capture_output=True, text=True, check=True
        )
    files = {line.split()[-1]: line.split()[0] for line in listed.stdout.splitlines() if line.startswith("-")}
    assert files["probe"] == "-rwxr-xr-x"
    assert files["probe-suid"] == "-rwsr-xr-x"
    own = {"probe", "probe-suid"}
    assert {path for path in files if not path.startswith(("etc/", "dev/")) and path != ".dockerenv"} == own


# The command line


@linux
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "one of: attempt, serve, connect, whoami"),
        (["guess"], "one of: attempt, serve"),
        (["attempt", "colour=red"], "unknown argument: colour=red"),
        (["attempt", "nonce"], "unknown argument: nonce"),
        (["serve", "marker=x"], "unknown argument: marker=x"),
        (["attempt", "checks=N1,Z9"], "unknown check: Z9"),
        (["attempt", "fds=many"], "fds has to be a number"),
        (["attempt", "fds=1.5"], "fds has to be a whole number"),
        (["attempt", "fds=-1"], "fds has to be a number"),
        (["attempt", "scratch=/tmp", "fill_mib=nan"], "fill_mib has to be a number"),
        (["attempt", "nonce=a", "lan=192.0.2.1"], "not an address with a port: 192.0.2.1"),
        (["attempt", "nonce=a", "lan=host:80"], "not an address with a port: host:80"),
        (["attempt", "nonce=a", "lan=192.0.2.1:99999"], "not an address"),
        (["attempt", "metadata=[::1"], "not an address"),
        (["attempt", "name=a..b"], "not a host name"),
        (["attempt", "name=" + "x" * 64], "not a host name"),
        (["attempt", "model=m.gguf"], "absolute path"),
        (["connect"], "connect needs path="),
    ],
)
def test_what_it_does_not_understand(probe, words, message):
    done = run(probe, *words)
    assert done.returncode == 2
    assert done.stderr.decode().startswith("probe: ")
    assert message in done.stderr.decode()
    assert done.stdout == b""


@linux
def test_any_bytes_become_json(probe):
    path = '/a/"a\\b\n\x01é✓'.encode() + b"\xff\xc3/\xed\xa0\x80"
    done = run(probe, "connect", b"path=" + path)
    (line,) = [json.loads(line) for line in done.stdout.decode("utf-8").splitlines()]
    assert line["attempt"] == 'connect to /a/"a\\b\n\x01é✓\ufffd\ufffd/\ufffd\ufffd\ufffd'
    assert line["check"] == "A1"
    assert line["observed"] == "ENOENT: No such file or directory"


@linux
def test_connecting_to_a_unix_socket(probe):
    folder = tempfile.mkdtemp(prefix="llm-")
    path = f"{folder}/s"
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(path)
        refused = json.loads(run(probe, "connect", f"path={path}").stdout)
        door.listen()
        connected = json.loads(run(probe, "connect", f"path={path}").stdout)
    Path(path).unlink()
    Path(folder).rmdir()
    assert (refused["succeeded"], refused["observed"]) == (False, "ECONNREFUSED: Connection refused")
    assert (connected["succeeded"], connected["observed"]) == (True, "connected")
    assert "too long" in json.loads(run(probe, "connect", "path=/" + "x" * 200).stdout)["observed"]


@linux
def test_attempts_whose_keys_are_missing_are_left_out(probe):
    assert parsed(run(probe, "attempt", "checks=N1,N2,N3,N4,N5,N7,F2,F3,F4,P5,R1,R2,R3,R4").stdout) == []
    assert parsed(run(probe, "attempt", "lan=", "checks=N1").stdout) == []
    assert parsed(run(probe, "attempt", "lan=127.0.0.1:1", "checks=N1").stdout) == []


@linux
def test_a_listener_that_says_something_else_is_not_the_one(probe):
    port = free_port()
    with subprocess.Popen(
        [probe, "serve", f"tcp={port}", "nonce=other", "seconds=60"], stdout=subprocess.PIPE
    ) as door:
        assert door.stdout is not None
        assert json.loads(door.stdout.readline()) == {"listening": True}
        words = ["attempt", f"lan=127.0.0.1:{port}", "checks=N1"]
        (wrong,) = parsed(run(probe, *words, "nonce=mine!").stdout)
        (right,) = parsed(run(probe, *words, "nonce=other").stdout)
        door.terminate()
        assert door.wait(20) == 0
    (closed,) = parsed(run(probe, *words, "nonce=other").stdout)
    assert (wrong["succeeded"], wrong["observed"]) == (False, "connected, and read something else")
    assert (right["succeeded"], right["observed"]) == (True, "read the nonce")
    assert (closed["succeeded"], closed["observed"]) == (False, "ECONNREFUSED: Connection refused")


@linux
def test_a_listener_that_says_nothing(probe):
    with socket.create_server(("127.0.0.1", 0)) as door:
        lan = f"lan=127.0.0.1:{door.getsockname()[1]}"
        (silent,) = parsed(run(probe, "attempt", lan, "nonce=abc", "checks=N1").stdout)
    assert (silent["succeeded"], silent["observed"]) == (False, "no answer within 0.5 s")


@linux
def test_a_sibling_survives_what_is_no_dns_query(probe):
    dns, udp = free_port(), free_port()
    with (
        subprocess.Popen(
            [probe, "serve", f"dns={dns}", f"udp={udp}", "seconds=60"], stdout=subprocess.PIPE
        ) as door,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        assert door.stdout is not None
        door.stdout.readline()
        for junk in (b"", b"\0" * 12, b"\xff" * 600, b"\0" * 12 + b"\x3fshort", b"\0" * 12 + b"\x01a" * 200):
            sender.sendto(junk, ("127.0.0.1", dns))
        sender.sendto(b'a "nonce"\n\xfe', ("127.0.0.1", udp))
        first = json.loads(door.stdout.readline())
        (asked,) = parsed(run(probe, "attempt", f"dns=127.0.0.1:{dns}", "name=one.two", "checks=N4").stdout)[
            1:
        ]
        second = json.loads(door.stdout.readline())
        door.terminate()
    assert first == {"received": "udp", "text": 'a "nonce"\n\ufffd', "from": "127.0.0.1"}
    assert second == {"received": "dns", "text": "one.two", "from": "127.0.0.1"}
    assert asked["sent"]
    assert asked["succeeded"]


@linux
def test_a_port_that_is_taken(probe):
    with socket.create_server(("", 0)) as door:
        done = run(probe, "serve", f"tcp={door.getsockname()[1]}")
    assert done.returncode == 1
    assert b"cannot listen at tcp=" in done.stderr


@linux
def test_an_attempt_that_hangs_or_dies_stops_no_other(tmp_path):
    """The time limit and a kill, by attempts of the test's own."""
    (tmp_path / "wait.c").write_text(
        '#include "probe.h"\n#include <unistd.h>\n#include <signal.h>\n'
        'static void hang(struct result *r, const char *a) { (void)a; observe(r, "began"); pause(); }\n'
        "static void die(struct result *r, const char *a) { (void)r; (void)a; raise(SIGSYS); }\n"
        "static void leave(struct result *r, const char *a) { (void)r; (void)a; _exit(3); }\n"
        'static void go(struct result *r, const char *a) { r->succeeded = true; observe(r, "%s", a); }\n'
        "void list_network_attempts(void) {\n"
        '  attempt("N1", 300, hang, "", "hang"); attempt("N2", 9000, die, "", "die");\n'
        '  attempt("N3", 9000, leave, "", "leave"); attempt("N4", 9000, go, "it", "go"); }\n'
        "void list_file_attempts(void) {}\nvoid list_process_attempts(void) {}\nvoid list_limit_attempts(void) {}\n"
        "void connect_unix(struct result *r, const char *p) { (void)r; (void)p; }\n"
        "int serve(void) { return 0; }\nint whoami(void) { return 0; }\n"
    )
    made = tmp_path / "small"
    subprocess.run(
        ["gcc", "-std=c11", f"-I{TOOLS}", "-o", made, TOOLS / "probe.c", tmp_path / "wait.c"], check=True
    )
    seen = [(a["attempt"], a["succeeded"], a["observed"]) for a in parsed(run(made, "attempt").stdout)]
    assert seen == [
        ("hang", False, "no end within 0.3 s, after: began"),
        ("die", False, "killed by signal 31 (SIGSYS)"),
        ("leave", False, "ended without a result"),
        ("go", True, "it"),
    ]
