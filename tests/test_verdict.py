"""Whether a server really computes on the GPU: three signs, the likely cause, and a GPU that goes away later.

What a GPU does is replayed: from what came back of one (bench/results/gpu), and by NVIDIA's own
Python package on a library that tells what a test wants.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmlab.engines import engine, gpu_trouble
from llmlab.lab import gpu_causes, gpu_rate, verdict
from llmlab.lab.gpu_rate import Roofs
from llmlab.specs import GpuVerdict, Sign, record_from_dict, to_dict
from tests import examples, nvml_mock
from tests.nvml_mock import Control, in_child

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "gpu"
GIB = 1 << 30
H100 = 3.35e12  # what NVML's clock and width make of it, bytes per second
YES, NO, UNKNOWN = (Sign(shown=shown, text=str(shown)) for shown in (True, False, None))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nvml_mock.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path / "control")


@pytest.fixture
def run(library: Path, control: Control, tmp_path: Path) -> Callable[[str], Any]:
    return lambda code: in_child(library, tmp_path / "control", code)


def roofs(**changes: Any) -> Roofs:
    """An 8 B model in 4 bits, all of it on an H100, beside a CPU that reads 80 GB/s."""
    values: dict[str, Any] = {
        "read_bytes": 4_370_000_000,
        "n_layers": 32,
        "offloaded": 1.0,
        "cpu_bytes_per_s": 80e9,
        "cache_bytes": 64 << 20,
        "gpu_bytes_per_s": H100,
    }
    return Roofs(**(values | changes))


# --- the rate -----------------------------------------------------------------


def measured_on_a_gpu() -> list[tuple[float, int, int]]:
    """Tokens per second, bytes read for a token, and layers, of what was measured on an H100."""
    found = json.loads((RESULTS / "rates.json").read_text(encoding="utf-8"))
    bandwidth = found["roofs"]["read_bytes_per_s"]
    cases = []
    for model in found["models"]:
        decode = model["decode at 16"]
        log = engine("llama-server").offloaded(model["log"])
        assert log
        cases.append((decode["tokens_per_s"], int(bandwidth / decode["roof_tokens_per_s"]), log[1] - 1))
    return cases


@pytest.mark.parametrize("cpu_gb_per_s", [25, 50, 100, 150])
def test_what_an_h100_generated_is_more_than_its_cpu_could(cpu_gb_per_s):
    for rate, read, layers in measured_on_a_gpu():
        there = roofs(read_bytes=read, n_layers=layers, cpu_bytes_per_s=cpu_gb_per_s * 1e9)
        assert gpu_rate.judge(rate, there).shown is True


def test_what_the_same_machine_generated_on_its_cpu_is_not_taken_for_the_gpu():
    card = json.loads((RESULTS / "cpu.json").read_text(encoding="utf-8"))
    assert "36.1" in card["text"]  # tokens/s without the GPU, of the 1 B model
    _, read, layers = measured_on_a_gpu()[0]
    for gb_per_s in (30, 50, 100):
        sign = gpu_rate.judge(36.1, roofs(read_bytes=read, n_layers=layers, cpu_bytes_per_s=gb_per_s * 1e9))
        assert sign.shown is False
        assert "36 tokens/s are what a CPU gives" in sign.text


@pytest.mark.parametrize(
    ("rate", "changes", "shown", "told"),
    [
        (260.0, {}, True, "260 tokens/s are more than the 27 that the CPU could give"),
        (9.5, {}, False, "9.5 tokens/s are what a CPU gives; the GPU would give 104 or more"),
        (260.0, {"gpu_bytes_per_s": None}, True, "more than"),
        (9.5, {"gpu_bytes_per_s": None}, None, "bandwidth of the GPU's memory is not known"),
        (9.5, {"cpu_bytes_per_s": None}, None, "how fast the CPU reads its memory is not known"),
        (5000.0, {"read_bytes": 30 << 20}, None, "fits into the CPU's caches"),
        (900.0, {"read_bytes": 100 << 20, "cpu_bytes_per_s": 100e9}, None, "a CPU may be as fast here"),
        (9.5, {"offloaded": 0.2}, None, "a CPU may be as fast here"),
        (40.0, {"offloaded": 0.8}, True, "more than"),
        (9.5, {"gpu_bytes_per_s": 100e9}, None, "a CPU may be as fast here"),
    ],
    ids=[
        "gpu", "cpu", "unknown gpu, fast", "unknown gpu, slow", "unknown cpu", "in the caches", "small",
        "a fifth of it", "most of it", "a slow gpu",
    ],
)  # fmt: skip
def test_a_rate_decides_only_where_cpu_and_gpu_lie_apart(rate, changes, shown, told):
    sign = gpu_rate.judge(rate, roofs(**changes))
    assert sign.shown is shown
    assert told in sign.text


def test_a_cpu_that_reaches_all_of_its_bandwidth_is_never_taken_for_a_gpu():
    for read in (100 << 20, GIB, 40 * GIB):
        for gpu in (50e9, 300e9, H100):
            there = roofs(read_bytes=read, gpu_bytes_per_s=gpu)
            assert there.cpu_bytes_per_s
            assert gpu_rate.judge(there.cpu_bytes_per_s / read, there).shown is not True


def test_what_was_not_measured_decides_nothing():
    assert gpu_rate.judge(None, roofs()).shown is None
    assert gpu_rate.judge(100.0, None).shown is None


def test_caches_that_cpus_share_are_counted_once(tmp_path):
    for cpu, shared in enumerate(("0-1", "0-1", "2-3", "2-3")):
        cache = tmp_path / f"cpu{cpu}" / "cache" / "index3"
        cache.mkdir(parents=True)
        (cache / "size").write_text("32768K\n")
        (cache / "shared_cpu_list").write_text(f"{shared}\n")
    assert gpu_rate.cache_bytes(tmp_path) == 64 << 20
    assert gpu_rate.cache_bytes(tmp_path / "nothing") == 512 << 20


def test_bandwidth_is_reckoned_from_clock_and_width(control, run):
    control.gpu(0)
    control.gpu(1, clock_memory_most=9751, bus_width=384)
    control.set({"gpus": 3, "2.name": "one that does not tell"})
    code = "from llmlab.lab import gpu_rate\ntell([gpu_rate.bandwidth(n) for n in (0, 1, 2, 9)])"
    h100, rtx3090, silent, none = run(code)
    assert h100 == pytest.approx(3.352e12, rel=1e-3)
    assert rtx3090 == pytest.approx(936e9, rel=1e-3)
    assert silent is none is None


# --- what NVML shows ----------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="the library is made on Linux only")
def test_a_process_is_looked_for_on_every_gpu(control, run):
    control.gpu(0, processes_compute="4242:500,17:na")
    control.gpu(1, processes_compute="4242:1500")
    code = """
from llmlab.lab import holding
holding.counts_as_the_driver = lambda: True
tell([holding.held_mib(pid) for pid in (4242, 17, 5, None)])
"""
    assert run(code) == [{"0": 500.0, "1": 1500.0}, None, {}, None]


def test_a_process_that_the_driver_counts_otherwise_is_not_called_missing(control, run):
    control.gpu(0, processes_compute="17:500")
    code = """
from llmlab.lab import holding
holding.counts_as_the_driver = lambda: False
tell([holding.held_mib(5), holding.held_mib(17)])
"""
    assert run(code) == [None, {"0": 500.0}]


SERVED = """
from dataclasses import replace
import llmlab
from llmlab import engines
from llmlab.lab import holding, registry, verdict
holding.counts_as_the_driver = lambda: True
server = llmlab.start("tiny", name="seen", backend="native")
record = replace(server.record, spec=replace(server.record.spec, gpu_layers=5))
pid = holding.server_pid(record)
LOG = ["load_tensors: offloaded 5/5 layers to GPU"]
def details():
    return [row.detail for row in llmlab.ps().servers if row.name == "seen"]
def looked(log):
    return verdict.look(record, engines.engine("llama-server"), log, registry.client(record))
"""


def test_a_server_that_nvml_and_its_engine_show_is_on_the_gpu_and_ps_tells_when_it_is_lost(
    control, run, require_engine
):
    control.gpu(0)
    code = (
        SERVED
        + """
control.set({"0.processes.compute": f"{pid}:900"})
found = looked(LOG)
record = replace(record, verdict=found)
from llmlab import runtime
with runtime.hold("seen", wait_s=5) as claim:
    claim.write(record)
before = details()
shown = llmlab.inspect("seen")
control.set({"0.processes.compute": "1:900"})
after = details()
control.set({"error.nvmlDeviceGetComputeRunningProcesses_v3": 3, "error.nvmlDeviceGetComputeRunningProcesses": 3})
silent = details()
server.stop()
tell([found.on_gpu, str(found), found.rate.shown, before, after, silent, shown.facts["GPU"], shown.to_dict()["record"]["verdict"]])
"""
    )
    there, text, rate, before, after, silent, fact, data = run(code)
    assert there is True
    assert text.startswith(
        "on the GPU: the engine reports 5 of 5 layers there; NVML shows its process with 900 MiB"
    )
    assert rate is None
    assert "fits into the CPU's caches" in text
    assert before == [""]
    assert after[0].startswith("no longer on the GPU: NVML does not show its process there")
    assert silent == [""]
    assert fact == text
    assert data["memory"] == {"shown": True, "text": "NVML shows its process with 900 MiB there"}


def test_a_server_that_nvml_does_not_show_is_warned_of_with_what_is_missing(control, run, require_engine):
    control.gpu(0, processes_compute="1:900")
    code = (
        SERVED
        + """
found, none, blind = looked(LOG), looked([]), looked(["ggml_vulkan: No devices found."])
server.stop()
tell([found.on_gpu, str(found), none.on_gpu, str(none), blind.missing, blind.layers.text])
"""
    )
    there, text, without, words, missing, blind = run(code)
    assert missing == ["memory", "layers", "rate"]
    assert blind == "the engine says that it has found no GPU"
    assert there is without is False
    assert text.startswith(
        "not on the GPU, though that was asked for: the engine reports 5 of 5 layers there; NVML does"
    )
    # The engine here was compiled without any, which its record shows.
    assert "does not say whether it has put layers there" in words
    assert words.endswith(
        "The likely cause: the engine was compiled without GPU support. llmlab build --gpu cuda compiles it anew"
    )


def test_a_server_that_was_to_use_no_gpu_gets_no_verdict():
    client: Any = None
    assert verdict.look(examples.record(), engine("llama-server"), [], client) is None


# --- the three together -------------------------------------------------------


@pytest.mark.parametrize(
    ("memory", "layers", "rate", "there", "missing"),
    [
        (YES, YES, YES, True, ()),
        (YES, YES, UNKNOWN, True, ("rate",)),
        (YES, YES, NO, None, ("rate",)),
        (UNKNOWN, YES, YES, None, ("memory",)),
        (YES, UNKNOWN, YES, None, ("layers",)),
        (NO, YES, YES, False, ("memory",)),
        (YES, NO, UNKNOWN, False, ("layers", "rate")),
        (UNKNOWN, UNKNOWN, UNKNOWN, None, ("memory", "layers", "rate")),
    ],
    ids=[
        "all",
        "rate unknown",
        "slow",
        "no nvml",
        "engine silent",
        "not shown",
        "no layers",
        "nothing known",
    ],
)
def test_on_the_gpu_is_said_only_where_nvml_and_engine_agree_and_the_rate_does_not_contradict(
    memory, layers, rate, there, missing
):
    found = GpuVerdict(memory=memory, layers=layers, rate=rate)
    assert found.on_gpu is there
    assert found.missing == missing
    words = {
        True: "on the GPU: ",
        False: "not on the GPU, though",
        None: "not known to run on the GPU, though",
    }
    assert str(found).startswith(words[there])


def test_a_record_keeps_its_verdict():
    found = GpuVerdict(memory=YES, layers=NO, rate=UNKNOWN, cause="c", remedy="r")
    record = examples.record(verdict=found)
    assert record_from_dict(json.loads(json.dumps(to_dict(record)))) == record
    assert record_from_dict(to_dict(examples.record())).verdict is None


# --- causes -------------------------------------------------------------------

# Lines of these projects' logs, from their issues: llama.cpp 12346, 15946, 20142, 20431, 22013, 23943;
# Ollama 7666, 5573, 8674; vLLM 4604, 14200, 25837; nvidia-container-toolkit 48.
LINES = {
    "driver": (
        "ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA runtime version",
        "driver is older than the CUDA",
    ),
    "mismatch": (
        "ggml_cuda_init: failed to initialize CUDA: system has unsupported display driver / cuda driver combination",
        "not those of the driver in the kernel",
    ),
    "architecture": (
        "CUDA error: no kernel image is available for execution on the device",
        "without this GPU's architecture",
    ),
    "architecture, AMD": ("ROCm error: invalid device function", "without this GPU's architecture"),
    "taken away": ("Failed to initialize NVML: Unknown Error", "was taken away"),
    "memory": (
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 8192.00 MiB on device 0: cudaMalloc failed: out of memory",
        "not enough memory on the GPU",
    ),
    "memory, llama.cpp's end": (
        "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
        "not enough memory on the GPU",
    ),
    "memory, vLLM": (
        "ValueError: Free memory on device (3.22/4.0 GiB) on startup is less than desired GPU memory utilization",
        "not enough memory on the GPU",
    ),
    "blind": ("warning: no usable GPU found, --gpu-layers option will be ignored", "sees no GPU"),
    "blind, AMD": (
        "ggml_cuda_init: failed to initialize ROCm: no ROCm-capable device is detected",
        "sees no GPU",
    ),
    "blind, Vulkan": ("ggml_vulkan: No devices found.", "sees no GPU"),
    "blind, Ollama": (
        'time=2025-01-29T10:00:00.000Z level=INFO source=gpu.go:377 msg="no compatible GPUs were discovered"',
        "sees no GPU",
    ),
    "blind, vLLM": ("RuntimeError: Failed to infer device type", "sees no GPU"),
}


@pytest.mark.parametrize("name", list(LINES))
def test_a_log_tells_the_cause(name):
    line, cause = LINES[name]
    found = gpu_trouble.told(["before", line, "after"])
    assert found is not None
    assert cause in found.cause
    assert found.blind is name.startswith("blind")


@pytest.mark.parametrize(
    "log",
    [
        json.loads((RESULTS / "rates.json").read_text(encoding="utf-8"))["models"][1]["log"],
        ["ggml_cuda_init: found 1 CUDA devices:", "  Device 0: NVIDIA GeForce RTX 4090, compute capability 8.9, VMM: yes"],
        [],
    ],
    ids=["H100", "found", "empty"],
)  # fmt: skip
def test_a_log_of_a_server_on_its_gpu_tells_of_no_trouble(log):
    assert gpu_trouble.told(log) is None


def test_an_engine_for_newer_gpus_only_is_told_by_its_own_lists():
    system = (
        "system_info: n_threads = 10 / 16 | CUDA : ARCHS = {} | USE_GRAPHS = 1 | CPU : SSE3 = 1 | AVX = 1 |"
    )
    card = "  Device 0: NVIDIA GeForce GTX 1080 Ti, compute capability 6.1, VMM: yes"
    found = gpu_trouble.told([card, system.format("750,800,860,890,1200,1210")])
    assert found is not None
    assert "capability 7.5 and newer, and the newest here has 6.1" in found.cause
    assert gpu_trouble.told([card, system.format("500,610,750")]) is None
    assert gpu_trouble.told([card]) is None


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ("debian12-docker-20.10", True),
        ("debian-docker-28.5", True),
        ("ubuntu-nvidia-no-toolkit", True),
        ("ubuntu-nvidia-toolkit-cdi", False),
        ("wsl2-docker-desktop", False),
        ("wsl2-docker-inside", False),  # 28.2 does not list what its files have
    ],
)
def test_an_engine_without_a_way_to_hand_out_gpus_is_told_by_what_it_says(facts, expected):
    assert gpu_causes.has_no_way(info(facts)) is expected


def test_podman_and_an_engine_that_does_not_answer_say_nothing_of_it():
    # The doctor leaves out by what llmlab knows Podman.
    assert not gpu_causes.has_no_way({**info("debian-podman-5.8"), "BuildahVersion": "1.42.0"})
    assert not gpu_causes.has_no_way({})


def test_a_blind_engine_in_a_container_is_explained_by_its_container_engine(monkeypatch):
    record = examples.record(
        backend="container", spec=examples.spec(gpu_layers=9), build={"libggml-cuda.so": "00"}
    )
    log = [LINES["blind"][0]]
    monkeypatch.setattr(gpu_causes, "info_of", lambda _: info("ubuntu-nvidia-no-toolkit"))
    found = verdict.conclude(record, log, memory=NO, layers=UNKNOWN, rate=UNKNOWN)
    assert "neither NVIDIA's runtime nor a file of the Container Device Interface" in found.cause
    monkeypatch.setattr(gpu_causes, "info_of", lambda _: info("ubuntu-nvidia-toolkit-cdi"))
    assert (
        verdict.conclude(record, log, memory=NO, layers=UNKNOWN, rate=UNKNOWN).cause
        == "the engine sees no GPU"
    )
    cpu = replace(record, build={"libggml-cpu.so": "00"})
    assert (
        "compiled without GPU support"
        in verdict.conclude(cpu, log, memory=NO, layers=UNKNOWN, rate=UNKNOWN).cause
    )


def test_no_cause_is_named_where_nothing_tells_one(monkeypatch):
    monkeypatch.setattr(gpu_causes, "info_of", lambda _: {})
    record = examples.record(spec=examples.spec(gpu_layers=9), build={"libggml-cuda.so": "00"})
    found = verdict.conclude(record, ["all is well"], memory=NO, layers=YES, rate=UNKNOWN)
    assert (found.cause, found.remedy) == ("", "")


def test_a_gpu_that_a_container_loses_is_put_down_to_systemd_only_where_that_keeps_the_groups():
    cause, remedy = gpu_causes.taken_away(info("ubuntu-nvidia-toolkit-cdi"))
    assert "systemctl daemon-reload" in cause
    assert "native.cgroupdriver=cgroupfs" in remedy
    assert gpu_causes.taken_away(info("debian-docker-28.5")) == ("", "")


def info(name: str) -> dict[str, Any]:
    """What a container engine says of itself, of the doctor's recorded machines."""
    facts = json.loads((ROOT / "tests" / "data" / "doctor" / f"{name}.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = facts.get("facts", facts)["engine"]["info"]
    return found
