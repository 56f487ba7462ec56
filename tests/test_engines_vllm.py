"""The behaviour suite on vLLM, and what only vLLM does: its stand-in, or its image for the CPU (tests/stand_ins.py)."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pytest

import llmlab
from llmlab import engines
from llmlab.backends import docker_api, labels
from llmlab.engines import vllm
from llmlab.errors import RequestError, StartError, UsageError
from llmlab.lab import engine_gpus, registry, sources
from llmlab.machine import Gpu, Slice
from llmlab.specs import ServeSpec
from llmlab.testing.stand_ins import MARK
from llmlab.weights import resolve
from tests import stand_ins
from tests.behaviour import ServerBehaviour
from tests.checkpoints import checkpoint, in_hub_cache
from tests.conftest import eventually, inventory
from tests.tcp_door import tcp_door

pytestmark = pytest.mark.usefixtures("require_docker", "require_engine")
not_real = pytest.mark.skipif(stand_ins.REAL, reason="this is about the stand-in")
PATHS = engines.Paths(
    program=PurePosixPath("vllm"),
    model=PurePosixPath("/models/tiny.gguf"),
    scratch=PurePosixPath("/tmp"),  # noqa: S108 - the container's own
    socket=PurePosixPath("/run/llmlab/llm.sock"),
)


@pytest.fixture
def place(require_docker: None, require_engine: Any) -> dict[str, Any]:
    return stand_ins.place("vllm")


def spec(**changes: Any) -> ServeSpec:
    made = ServeSpec(model=resolve("tiny"), engine="vllm", context=512, slots=3, threads=2)
    return replace(made, **changes)


@pytest.mark.slow
class TestVllm(ServerBehaviour):
    tells_slots = False
    word = "serve"

    @pytest.fixture
    def place(self, require_docker, require_engine):
        return stand_ins.place("vllm")


def test_it_is_sealed_but_for_what_it_compiles(place):
    with llmlab.start("tiny", name="a", **place) as server:
        seen = server.inspect()
        assert seen.differences == ()
        controls = {control.name: control for control in seen.isolation}
        assert controls["network"].in_force == "only loopback"
        assert controls["scratch"].in_force == "4096 MiB, nosuid, nodev"
        assert server.record.transport == "socket"
        audit = llmlab.audit("a")
        assert isinstance(audit, llmlab.Audit)
        # It loads what it has compiled; that is said in the profile's name, too.
        assert audit.failed() == ("F3",)
        assert "scratch exec True" in str(seen)


def test_it_reports_to_nobody_and_has_shared_memory_of_its_own(place):
    with llmlab.start("tiny", name="a", **place) as server:
        entry = docker_api.connect().container(server.record.container_id or "") or {}
        told = dict(each.split("=", 1) for each in entry["Config"]["Env"])
        for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            assert told[name] == "1"
        assert told["VLLM_CACHE_ROOT"].startswith("/tmp/")  # noqa: S108 - the container's own
        assert entry["HostConfig"]["ShmSize"] == 1024 * 1024 * 1024
        assert entry["HostConfig"]["IpcMode"] == "private"
        assert not entry["Config"]["User"].startswith("0:") or server.record.user == "0:0"


def test_an_endpoint_for_other_tools(place):
    with llmlab.start("tiny", name="a", expose=0, **place) as server:
        assert server.record.endpoint.exposed_port
        assert server.ask("What is a GPU?", max_tokens=5).text


@pytest.mark.parametrize("transport", ["relay", "sidecar"])
def test_it_is_reached_through_other_transports(place, transport):
    with llmlab.start("tiny", transport=transport, **place) as server:
        assert server.record.transport == transport
        assert server.ask("What is a GPU?", max_tokens=5).text


def test_its_own_figures_are_read(place):
    with llmlab.start("tiny", name="a", **place) as server:
        found = sources.of_server(server.record, ())
        source = next(each for each in found if any(metric.key == "answering" for metric in each.metrics))
        assert "vLLM's num_requests_running" in " ".join(metric.method for metric in source.metrics)
        assert "context" not in {metric.key for metric in source.metrics}
        asking = threading.Thread(target=lambda: [server.ask("What is a GPU?") for _ in range(20)])
        asking.start()
        try:
            # A rate needs two looks; the engine is asked between them, in another thread.
            assert eventually(lambda: (source.read(time.monotonic()).get("generated") or 0) > 0)
            assert source.read(time.monotonic())["waiting"] == 0
        finally:
            asking.join()
            for each in found:
                each.close()


@not_real
@pytest.mark.parametrize("hub", [False, True], ids=["directory", "hub's cache"])
def test_a_directory_of_safetensors_is_served_from_read_only_mounts(place, tmp_path, hub):
    folder = checkpoint(tmp_path / "Small-Llama", parts=2)
    folder = in_hub_cache(tmp_path / "hub", folder) if hub else folder
    with llmlab.start(str(folder), **place) as server:
        assert server.name == "small-llama"
        entry = docker_api.connect().container(server.record.container_id or "") or {}
        mounts = {mount["Destination"]: mount for mount in entry["Mounts"] if mount["Type"] == "bind"}
        for path in folder.iterdir():
            mount = mounts[f"/models/{path.name}"]
            assert not mount["RW"]
            # The blob itself: a link would lead nowhere in the container.
            assert mount["Source"] == str(path.resolve())
        assert server.record.argv[1:5] == ("serve", "/models", "--served-model-name", "small-llama")
        assert server.ask("What is a GPU?", max_tokens=5).text
        log = str(server.logs(tail=None))
        assert "LlamaForCausalLM: 11 tensors in model-00001-of-00002.safetensors" in log
        assert f"{MARK}: " in log
        assert server.inspect().differences == ()


@not_real
def test_on_another_machine_a_directory_is_sent_anew_when_its_configuration_has_changed(
    place, tmp_path, monkeypatch
):
    folder = checkpoint(tmp_path / "small")
    before = set(docker_api.connect().volumes(labels.MODEL))
    with tcp_door() as address:
        monkeypatch.setenv("DOCKER_HOST", address)
        try:
            for context in (2048, 1024):
                checkpoint(folder, max_position_embeddings=context)
                with llmlab.start(str(folder), **place) as server:
                    assert server.ask("What is a GPU?", max_tokens=5).text
                    argv = server.record.argv
                    assert argv[argv.index("--max-model-len") + 1] == str(context)
            made = set(docker_api.connect().volumes(labels.MODEL)) - before
            assert len(made) == 2
        finally:
            for volume in set(docker_api.connect().volumes(labels.MODEL)) - before:
                docker_api.connect().remove_volume(volume)


@not_real
def test_a_directory_that_it_cannot_load_ends_the_start_with_its_log(
    place, tmp_path, monkeypatch, isolated_runtime
):
    folder = checkpoint(tmp_path / "small")
    argv = vllm.argv
    monkeypatch.setattr(
        vllm, "argv", lambda spec, paths: [*argv(spec, paths)[:2], "/proc", *argv(spec, paths)[3:]]
    )
    with pytest.raises(StartError, match="vLLM could not load the model") as told:
        llmlab.start(str(folder), **place)
    assert "cannot load /proc" in " ".join(told.value.log_tail)
    assert inventory(isolated_runtime) == []


def test_its_processes_are_as_many_as_it_needs_unless_a_number_was_asked_for(place):
    for pids, limit in ((None, 2048), (300, 300)):
        with llmlab.start("tiny", pids=pids, **place) as server:
            entry = docker_api.connect().container(server.record.container_id or "") or {}
            assert entry["HostConfig"]["PidsLimit"] == limit
            controls = {control.name: control for control in server.inspect().isolation}
            assert controls["processes"].verdict == "as asked"


@pytest.mark.parametrize("more", [{}, {"image": vllm.IMAGE.name}, {"image": "vllm/vllm-openai:v0.9.9"}])
def test_without_a_gpu_it_says_what_to_do(more, isolated_runtime):
    with pytest.raises(UsageError, match="computes on a GPU, and is given none") as caught:
        llmlab.start("tiny", engine="vllm", backend="container", **more)
    assert "--profile gpu" in caught.value.hint
    assert vllm.CPU_IMAGE in caught.value.hint
    assert inventory(isolated_runtime) == []


def test_what_vllm_cannot_do_is_refused(place, isolated_runtime):
    with pytest.raises(UsageError, match="no KV cache of type q8_0"):
        llmlab.start("tiny", kv_type="q8_0", **place)
    with pytest.raises(UsageError, match="as a whole"):
        llmlab.start("tiny", gpu_layers="2", **place)
    with pytest.raises(UsageError, match="container only"):
        llmlab.start("tiny", engine="vllm", backend="native")
    two = (resolve("tiny").path,) * 2
    with pytest.raises(UsageError, match="one file, and tiny has 2"):
        list(vllm.model_files(spec(model=replace(resolve("tiny"), files=two))))
    assert inventory(isolated_runtime) == []


def test_the_command_line_names_the_cache_and_the_share():
    words = vllm.argv(spec(gpu_share=0.25), PATHS)
    assert words[:3] == ["vllm", "serve", "/models/tiny.gguf"]
    pairs = dict(zip(words[3::2], words[4::2], strict=True))
    assert pairs["--uds"] == "/run/llmlab/llm.sock"
    assert (pairs["--max-model-len"], pairs["--max-num-seqs"]) == ("512", "3")
    assert pairs["--served-model-name"] == "tiny"
    assert pairs["--gpu-memory-utilization"] == "0.250"
    assert int(pairs["--kv-cache-memory-bytes"]) == 64 * 1024 * 1024
    larger = vllm.argv(spec(context=1_000_000), PATHS)
    assert int(larger[larger.index("--kv-cache-memory-bytes") + 1]) > 1024**3
    on_tcp = vllm.argv(spec(), replace(PATHS, socket=None, host="127.0.0.1", port=8080))
    assert "--uds" not in on_tcp
    assert "--gpu-memory-utilization" not in on_tcp
    assert on_tcp[on_tcp.index("--port") + 1] == "8080"


def test_the_share_of_a_gpu_comes_from_the_prediction(monkeypatch):
    cards = tuple(Gpu(name="a card", total_mib=total, free_mib=total) for total in (16384, 8192))
    monkeypatch.setattr("llmlab.machine.gpus", lambda: cards)
    engine = engines.engine("vllm")
    assert engine_gpus.share(engine, gpus="device=0", vram_mib=1024) == 0.25
    assert engine_gpus.share(engine, gpus="device=1", vram_mib=1024) == 0.5
    # Which one it gets is not known: the smaller one's share is enough on either.
    assert engine_gpus.share(engine, gpus="1", vram_mib=1024) == 0.5
    assert engine_gpus.share(engine, gpus="device=1", vram_mib=1_000_000) == 0.95
    assert engine_gpus.share(engine, gpus="amd", vram_mib=1024) is None
    assert engine_gpus.share(engine, gpus=None, vram_mib=1024) is None
    assert engine_gpus.share(engines.engine("llama-server"), gpus="device=0", vram_mib=1024) is None
    monkeypatch.setattr("llmlab.machine.gpus", lambda: None)
    assert engine_gpus.share(engine, gpus="device=0", vram_mib=1024) is None


def test_the_share_of_a_slice_or_of_a_gpu_by_its_uuid_is_that_of_its_own_memory(monkeypatch):
    slices = tuple(
        Slice(index=index, uuid=f"MIG-{name}", total_mib=total, free_mib=total)
        for index, (name, total) in enumerate((("aaaaaaaa", 8192), ("bbbbbbbb", 16384)))
    )
    cards = (
        Gpu(name="cut", total_mib=81920, free_mib=81920, uuid="GPU-cut", mig=True, slices=slices),
        Gpu(name="whole", total_mib=40960, free_mib=40960, uuid="GPU-cccccccc"),
        Gpu(name="old", total_mib=20480, free_mib=20480, uuid="GPU-old"),
    )
    monkeypatch.setattr("llmlab.machine.gpus", lambda: cards)
    engine = engines.engine("vllm")
    for words, share in (
        ("device=MIG-bbbbbbbb", 4096 / 16384),
        ("device=0:1", 4096 / 16384),
        ("device=MIG-aaaaaaaa", 4096 / 8192),
        ("device=MIG-aaaaaaaa,MIG-bbbbbbbb", 4096 / 8192),
        ("device=GPU-cccccccc", 4096 / 40960),
        ("device=GPU-cccc", 4096 / 40960),
        ("device=1", 4096 / 40960),
        # Nobody says which, and a slice is not given unasked.
        ("1", 4096 / 20480),
    ):
        assert engine_gpus.share(engine, gpus=words, vram_mib=1024) == share


def test_requests_of_an_exact_length_are_refused(place):
    with llmlab.start("tiny", name="a", **place) as server:
        client = registry.client(server.record)
        with pytest.raises(RequestError, match="exactly so many tokens"):
            client.tokens_of("Once", engine="vllm")


@not_real
def test_a_stand_in_is_marked_wherever_it_is_shown(place):
    with llmlab.start("tiny", name="a", **place) as server:
        assert MARK in server.inspect().facts["note"]
        (row,) = llmlab.ps()
        assert row.engine == "vllm (stand-in)"


@not_real
def test_an_option_that_it_does_not_know_ends_the_start(place, monkeypatch, isolated_runtime):
    argv = vllm.argv
    monkeypatch.setattr(vllm, "argv", lambda spec, paths: [*argv(spec, paths), "--no-such-option"])
    with pytest.raises(StartError, match="does not know one of llmlab's options"):
        llmlab.start("tiny", **place)
    assert inventory(isolated_runtime) == []
