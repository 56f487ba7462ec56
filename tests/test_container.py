"""The behaviour suite on sealed containers, and what only they do."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import llmlab
from llmlab import errors, runtime, weights
from llmlab.backends import docker_api
from llmlab.builds import find_build
from llmlab.errors import ImageError, MemoryFitError, NameTakenError, ServerStoppedError, UsageError
from llmlab.reporting import reporting_to
from tests.behaviour import Recorder, ServerBehaviour
from tests.conftest import eventually, inventory, missing, run_cli

pytestmark = pytest.mark.usefixtures("require_docker")


def inspected(server: llmlab.Server) -> dict[str, Any]:
    """What the container engine says of a server."""
    entry = docker_api.connect().container(server.record.container_id or "")
    assert entry
    return entry


def _limited(container_id: str, limit_mib: int) -> bool:
    """Give a running container another memory limit; whether that was possible."""
    limit = f"{limit_mib}m"
    command = ["docker", "update", "--memory", limit, "--memory-swap", limit, container_id]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


class TestContainer(ServerBehaviour):
    @pytest.fixture
    def place(self, require_docker, require_engine):
        return {"backend": "container"}

    def test_it_is_sealed(self, place):
        server = llmlab.start("tiny", **place)
        entry = inspected(server)
        host = entry["HostConfig"]
        assert host["NetworkMode"] == "none"
        assert host["ReadonlyRootfs"] is True
        # Podman writes down which of its defaults it took away; the receipt compares with what is in force.
        assert host["CapDrop"] == ["ALL"] or docker_api.connect().is_podman
        assert any(option.startswith("no-new-privileges") for option in host["SecurityOpt"])
        assert not host["PortBindings"]
        assert not entry["NetworkSettings"]["Ports"]
        assert not host["Privileged"]
        assert {mount["Destination"]: mount["RW"] for mount in entry["Mounts"]} == {
            "/models/tiny.gguf": False,
            "/run/llmlab": True,
        }

    def test_the_receipt_agrees_on_every_control(self, place):
        controls = llmlab.start("tiny", **place).inspect().isolation
        assert [control.name for control in controls if not control.agrees] == []
        seen = {control.name: control.in_force for control in controls}
        assert seen["network"] == "only loopback"
        assert seen["capabilities"] == "none"
        assert str(seen["system calls"]).startswith("filtered")

    def test_it_runs_the_same_libraries_as_the_native_server(self, place):
        boxed = llmlab.start("tiny", **place).record.build
        bare = llmlab.start("tiny", backend="native").record.build
        assert boxed == bare
        assert any(name.startswith("libllama.so") for name in boxed)

    def test_the_image_holds_the_engines_files_and_nothing_else(self, place):
        server = llmlab.start("tiny", **place)
        name = (server.record.image or "").partition("@")[0]
        made = subprocess.run(["docker", "create", name, "x"], capture_output=True, text=True, check=True)
        try:
            tar = subprocess.run(
                f"docker export {made.stdout.strip()} | tar -t",
                shell=True,
                capture_output=True,
                text=True,
                check=True,
            ).stdout.split()
        finally:
            subprocess.run(["docker", "rm", made.stdout.strip()], capture_output=True, check=True)
        files = {f"/{entry}" for entry in tar if not entry.endswith("/")}
        # What the container engine itself puts into every container.
        files -= {
            "/.dockerenv",
            "/etc/hostname",
            "/etc/hosts",
            "/etc/resolv.conf",
            "/etc/mtab",
            "/dev/console",
        }
        assert files == {file.target for file in find_build().files}

    def test_the_image_is_made_once(self, place):
        first = llmlab.start("tiny", **place).record.image
        assert llmlab.start("tiny", **place).record.image == first

    def test_limits_reach_the_container(self, place):
        server = llmlab.start("tiny", memory="700m", cpus=0.5, **place)
        host = inspected(server)["HostConfig"]
        assert host["Memory"] == host["MemorySwap"] == 700 * 1024 * 1024
        assert host["NanoCpus"] == 500_000_000
        assert host["PidsLimit"] == 256

    @pytest.mark.parametrize(
        ("limits", "message"),
        [
            ({"memory": "lots"}, "not a size"),
            ({"memory": 0}, "not a size"),
            ({"cpus": 0}, "cpus is 0"),
            ({"cpus": 10_000}, "cpus is 10000"),
            ({"threads": 0}, "threads is 0"),
            ({"slots": -1}, "slots is -1"),
            ({"context": 0}, "context is 0"),
            ({"name": "no spaces"}, "cannot be a name"),
            ({"name": "../up"}, "cannot be a name"),
        ],
    )
    def test_bad_arguments_are_told_in_one_line(self, place, limits, message):
        with pytest.raises(UsageError, match=message) as caught:
            llmlab.start("tiny", **place, **limits)
        assert "\n" not in str(caught.value)

    def test_a_limit_that_is_too_small_is_refused_with_numbers(self, place, isolated_runtime):
        with pytest.raises(MemoryFitError, match="the limit is 10 MiB"):
            llmlab.start("tiny", memory="10m", **place)
        with pytest.raises(MemoryFitError, match="more than this machine has"):
            llmlab.start("tiny", memory="9999t", **place)
        assert inventory(isolated_runtime) == []

    def test_a_named_image_is_used(self, place, tmp_path):
        """The official images' layout, made here from the same files: /app/llama-server."""
        name = "llmlab-test/official:latest"
        source = llmlab.start("tiny", **place).record.image or ""
        build = find_build()
        folder = Path(next(f.target for f in build.files if f.source.name == build.server.name)).parent
        _retag(source.partition("@")[0], name, str(folder), tmp_path)
        try:
            server = llmlab.start("tiny", image=name, **place)
            assert server.record.argv[0] == "/app/llama-server"
            assert server.ask("What is a GPU?", max_tokens=5).text
            assert all(control.agrees for control in server.inspect().isolation)
        finally:
            llmlab.stop(all=True)
            subprocess.run(["docker", "rmi", "-f", name], capture_output=True, check=False)

    def test_an_image_has_no_say(self, place, tmp_path):
        """Its entrypoint, user, volumes, ports and health check are not what runs."""
        name = "llmlab-test/hostile:latest"
        source = llmlab.start("tiny", **place).record.image or ""
        build = find_build()
        folder = Path(next(f.target for f in build.files if f.source.name == build.server.name)).parent
        changes = (
            'ENTRYPOINT ["/bin/evil"]',
            'CMD ["--evil"]',
            "USER 0:0",
            "WORKDIR /evil",
            "EXPOSE 4444",
            "VOLUME /data",
            "HEALTHCHECK --interval=1s CMD /bin/evil",
        )
        _retag(source.partition("@")[0], name, str(folder), tmp_path, changes)
        try:
            server = llmlab.start("tiny", name="a", image=name, **place)
            assert server.ask("What is a GPU?", max_tokens=5).text
            seen = server.inspect()
            assert seen.differences == ()
            assert "/data closed" in str({c.name: c for c in seen.isolation}["other mounts"].in_force)
            entry = inspected(server)
            assert [entry["Path"], *entry["Args"]][0] == "/app/llama-server"
            assert "--evil" not in entry["Args"]
            assert not entry["NetworkSettings"]["Ports"]
            assert not [mount for mount in entry["Mounts"] if mount["Type"] == "volume"]
            audit = llmlab.audit("a")
            assert isinstance(audit, llmlab.Audit)
            assert audit.exit_status == 0, audit
        finally:
            llmlab.stop(all=True)
            subprocess.run(["docker", "rmi", "-f", name], capture_output=True, check=False)

    def test_an_image_that_cannot_be_had(self, place, isolated_runtime):
        with pytest.raises(ImageError, match="cannot be had"):
            llmlab.start("tiny", image="127.0.0.1:1/no/such:image", **place)
        assert inventory(isolated_runtime) == []

    def test_an_image_that_cannot_be_made(self, place, isolated_runtime, monkeypatch):
        api = docker_api.connect()
        monkeypatch.setattr(api, "image_id", lambda _: None)
        # The engine refuses what is not a tar.
        monkeypatch.setattr("llmlab.backends.image.pack", lambda _, file: file.write(b"not a tar" * 1000))
        with pytest.raises(ImageError, match="cannot make the image"):
            llmlab.start("tiny", **place)
        assert inventory(isolated_runtime) == []

    def test_a_container_of_that_name_that_is_not_ours(self, place, isolated_runtime):
        server = llmlab.start("tiny", name="a", **place)
        image = (server.record.image or "").partition("@")[0]
        name = inspected(server)["Name"].lstrip("/")
        server.stop()
        subprocess.run(["docker", "create", "--name", name, image, "x"], capture_output=True, check=True)
        try:
            with pytest.raises(NameTakenError, match="exists already"):
                llmlab.start("tiny", name="a", **place)
        finally:
            subprocess.run(["docker", "rm", name], capture_output=True, check=True)
        assert inventory(isolated_runtime) == []

    def test_stopped_by_another_tool(self, place):
        server = llmlab.start("tiny", name="a", **place)
        subprocess.run(["docker", "rm", "-f", inspected(server)["Id"]], capture_output=True, check=True)
        with pytest.raises(ServerStoppedError, match="has been stopped"):
            server.ask("What is a GPU?")
        # Only its directory is left, and the next look removes it.
        assert llmlab.stop(all=True).names in {(), ("a",)}

    def test_paused_by_another_tool(self, place):
        server = llmlab.start("tiny", name="a", **place)
        subprocess.run(["docker", "pause", inspected(server)["Id"]], capture_output=True, check=True)
        assert server.status.state == "paused"
        assert server.status.detail == f"paused; docker unpause llmlab-{runtime.scope()}-a lets it go on"
        subprocess.run(["docker", "unpause", inspected(server)["Id"]], capture_output=True, check=True)
        eventually(lambda: server.status.state == "ready")

    def test_a_kill_is_told_from_a_lack_of_memory(self, place):
        server = llmlab.start("tiny", name="a", **place)
        subprocess.run(["docker", "kill", inspected(server)["Id"]], capture_output=True, check=True)
        assert eventually(lambda: server.status.state == "exited")
        assert server.status.detail.endswith("exit code 137: killed by SIGKILL, no lack of memory seen")

    def test_out_of_memory_is_named(self, place):
        server = llmlab.start("tiny", name="a", context=1024, **place)
        # The least that the kernel grants, and too little when a prompt comes: what it holds cannot be taken from it.
        granted = (_limited(inspected(server)["Id"], limit) for limit in range(12, 64, 2))
        assert any(granted)
        with suppress(ServerStoppedError):
            for _ in range(50):
                server.ask("container " * 300, max_tokens=50)
        assert eventually(lambda: "137" in server.status.detail or "memory" in server.status.detail)

    def test_docker_is_the_default_where_it_is(self, require_engine):
        assert llmlab.start("tiny").record.backend == "container"

    # The `docker` package leaves it to Python to close the files of contexts.
    @pytest.mark.filterwarnings("ignore:unclosed file .*meta.json:ResourceWarning")
    def test_another_context_that_is_chosen_meanwhile_is_noticed(self, require_docker, monkeypatch, tmp_path):
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
        monkeypatch.delenv("DOCKER_HOST", raising=False)
        monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
        if not shutil.which("docker"):
            missing("docker", "the command")

        def typed(*words: str) -> None:
            subprocess.run(["docker", "context", *words], check=True, capture_output=True)

        usual = docker_api.connect().address
        other = f"unix://{tmp_path}/other.sock"
        Path(other.removeprefix("unix://")).symlink_to(usual.removeprefix("unix://"))
        typed("create", "other", "--docker", f"host={other}")
        assert docker_api.connect().address == usual
        typed("use", "other")
        assert docker_api.connect().address == other
        typed("use", "default")
        assert docker_api.connect().address == usual

    def test_without_docker_it_runs_natively_and_says_so(self, require_engine, monkeypatch):
        monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
        with reporting_to(Recorder()) as seen, llmlab.start("tiny") as server:
            assert server.record.backend == "native"
            assert "not isolated" in server._repr_mimebundle_()["text/html"]
        assert "no container engine answers" in seen.notes[0]
        assert "apt install docker.io" in seen.notes[0]
        assert "--native" not in seen.notes[0]
        with pytest.raises(errors.DaemonError, match="--native"):
            llmlab.start("tiny", backend="container")

    def test_a_model_that_only_root_may_read(self, place, tmp_path):
        if os.getuid() != 0:
            pytest.skip("needs to be root")
        path = tmp_path / "private.gguf"
        path.write_bytes(weights.resolve("tiny").path.read_bytes())
        path.chmod(0o600)
        server = llmlab.start(str(path), **place)
        assert "only root may read" in " ".join(server.record.notes)
        assert server.ask("What is a GPU?", max_tokens=5).text

    def test_labels_find_all_of_them(self, place):
        llmlab.start("tiny", name="a", **place)
        found = subprocess.run(
            [
                *("docker", "ps", "-a", "--filter", "label=llmlab.server"),
                *("--filter", f"label=llmlab.user={runtime.scope()}", "--format", "{{.Names}}"),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.strip().endswith("-a")
        run_cli("stop", "--all")
        assert json.loads(run_cli("ps", "--json").stdout)["servers"] == []


def _retag(source: str, name: str, folder: str, work: Path, changes: Sequence[str] = ()) -> None:
    """An image like `source` whose engine lies in /app, with changes as in a Dockerfile."""
    made = subprocess.run(
        ["docker", "create", source, "x"], capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        script = f"docker export {made} | tar -x -C {work} && mv {work}{folder} {work}/app"
        subprocess.run(script, shell=True, check=True, capture_output=True)
        told = " ".join(f"--change {shlex.quote(change)}" for change in changes)
        script = f"tar -c -C {work} . | docker import {told} - {name}"
        subprocess.run(script, shell=True, check=True, capture_output=True)
    finally:
        subprocess.run(["docker", "rm", made], capture_output=True, check=True)
