"""Whether a rate of generation shows that a GPU computes: the third sign of the verdict.

A token of one request reads every active weight once. So a server that runs on the CPU generates at
most `CPU's bandwidth / bytes per token` tokens per second, whatever its code: that is the roofline.
What is clearly above that was not made by the CPU. What is not, although even a slow run on the GPU
would have been, was not made by the GPU. The rest cannot be told, above all of small models, which
a CPU keeps in its caches and which take as long to be launched as to be computed.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmlab import machine, nvml
from llmlab.client import ChatRequest, Client
from llmlab.errors import LabError
from llmlab.specs import ServeSpec, Sign
from llmlab.weights import anatomy, rates

# A CPU's bandwidth is measured with `memchr`, beside whatever else runs: it may have more.
_CPU_MARGIN = 1.5
# A slow run on a GPU: a share of its memory's bandwidth, and a time for each layer's launches. On an H100 the
# parts were 1 and 80 µs (bench/results/gpu/rates.json); slower drivers and cards have a wide margin here.
_GPU_SHARE, _LAYER_S = 0.4, 200e-6
# Where the kernel does not tell: larger than the last-level caches of nearly all machines.
_CACHE_BYTES = 512 << 20
_LOOK_S, _LOOK_TOKENS, _MOST_TOKENS = 0.25, 3, 64
_TIMEOUT_S = 20.0
_MEMORY_CLOCK = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofs:
    """What the two could do at most.

    Attributes:
        read_bytes: Weights that are read for a token.
        n_layers: Layers of the model.
        offloaded: The share of its layers that is said to be on the GPU.
        cpu_bytes_per_s: How fast the server's CPU threads read memory; None if not known.
        cache_bytes: The CPU's last-level caches together.
        gpu_bytes_per_s: The bandwidth of the GPU's memory; None if not known.
    """

    read_bytes: int
    n_layers: int
    offloaded: float
    cpu_bytes_per_s: float | None
    cache_bytes: int
    gpu_bytes_per_s: float | None

    @property
    def cpu_tokens_per_s(self) -> float | None:
        """More than the CPU can generate."""
        return None if self.cpu_bytes_per_s is None else _CPU_MARGIN * self.cpu_bytes_per_s / self.read_bytes

    @property
    def gpu_tokens_per_s(self) -> float | None:
        """Less than the GPU generates, with the CPU computing the layers that are not on it."""
        if self.gpu_bytes_per_s is None or self.cpu_bytes_per_s is None:
            return None
        on_gpu = self.offloaded * self.read_bytes / (_GPU_SHARE * self.gpu_bytes_per_s)
        # The CPU comes to half of its bandwidth where unpacking the weights takes longer than reading them.
        beside = (1 - self.offloaded) * self.read_bytes / (self.cpu_bytes_per_s / 2)
        return 1 / (on_gpu + beside + self.n_layers * _LAYER_S)


def judge(tokens_per_s: float | None, roofs: Roofs | None) -> Sign:
    """What a rate shows.

    Args:
        tokens_per_s: The rate of one request with a short context; None if it was not measured.
        roofs: What CPU and GPU could do; None if that is not known.
    """
    if tokens_per_s is None or roofs is None:
        return Sign(shown=None, text="its rate is not known")
    told, most, least = f"{_rate(tokens_per_s)} tokens/s", roofs.cpu_tokens_per_s, roofs.gpu_tokens_per_s
    if most is None:
        return Sign(shown=None, text=f"{told} decide nothing: how fast the CPU reads its memory is not known")
    if roofs.read_bytes < roofs.cache_bytes:
        return Sign(shown=None, text=f"{told} decide nothing: so small a model fits into the CPU's caches")
    if tokens_per_s > most:
        return Sign(shown=True, text=f"{told} are more than the {_rate(most)} that the CPU could give")
    if least is not None and least > most:
        return Sign(
            shown=False, text=f"{told} are what a CPU gives; the GPU would give {_rate(least)} or more"
        )
    unknown = (
        "the bandwidth of the GPU's memory is not known" if least is None else "a CPU may be as fast here"
    )
    return Sign(shown=None, text=f"{told} decide nothing: {unknown}")


def measured(client: Client) -> float | None:
    """Its rate in tokens per second, from a quarter of a second of generation, or from three tokens if these take longer."""
    with suppress(LabError):
        rate = _generated(client, _LOOK_TOKENS)
        tokens = min(int(_LOOK_S * rate), _MOST_TOKENS) if rate else 0
        return (_generated(client, tokens) or rate) if tokens > _LOOK_TOKENS else rate
    return None


def roofs(spec: ServeSpec, layers: tuple[int, int] | None, gpus: list[int]) -> Roofs | None:
    """What this machine's CPU and these GPUs could do with a model; None if its file cannot be read.

    Args:
        spec: What is served.
        layers: Layers that the engine says are on the GPU, and how many there are; None if it does not say.
        gpus: Numbers of the GPUs where its process was seen.
    """
    with suppress(LabError, OSError):
        model = anatomy.of_file(spec.model.path)
        known = rates.load(spec.threads)
        cpu = (known and known.bandwidth_gb_per_s) or machine.read_bandwidth_gb_per_s(spec.threads)
        share = layers[0] / max(layers[1], 1) if layers else min(spec.gpu_layers / (model.n_layers + 1), 1.0)
        if read := sum(model.read_by_type.values()):
            return Roofs(
                read_bytes=read,
                n_layers=model.n_layers,
                offloaded=share,
                cpu_bytes_per_s=cpu * 1e9 if cpu else None,
                cache_bytes=cache_bytes(),
                gpu_bytes_per_s=min(filter(None, map(bandwidth, gpus)), default=None),
            )
    return None


def bandwidth(index: int) -> float | None:
    """What a GPU's memory can deliver, in bytes per second; None where NVML does not tell.

    Two transfers per clock, as NVIDIA reckons it: 2619 MHz and 5120 bits are an H100's 3.35 TB/s.

    Args:
        index: NVML's number of the GPU.
    """
    if not nvml.hold():
        return None
    try:
        handle = nvml.query("nvmlDeviceGetHandleByIndex", index)
        clock = nvml.query("nvmlDeviceGetMaxClockInfo", handle, _MEMORY_CLOCK) if handle else None
        width = nvml.query("nvmlDeviceGetMemoryBusWidth", handle) if handle else None
        return 2 * clock * 1e6 * width / 8 if clock and width else None
    except nvml.GpuGoneError:
        return None
    finally:
        nvml.release()


def cache_bytes(root: Path = Path("/sys/devices/system/cpu")) -> int:
    """The last-level caches of the machine's CPUs together.

    Args:
        root: The kernel's directory of CPUs.
    """
    found: dict[str, int] = {}
    for cache in root.glob("cpu[0-9]*/cache/index3"):
        with suppress(OSError, ValueError):
            size = (cache / "size").read_text(encoding="ascii").strip()
            found[(cache / "shared_cpu_list").read_text(encoding="ascii")] = int(size.removesuffix("K")) << 10
    return sum(found.values()) or _CACHE_BYTES


def _generated(client: Client, tokens: int) -> float | None:
    request = ChatRequest(
        prompt="Hello", max_tokens=tokens, temperature=0.0, ignore_eos=True, timeout_s=_TIMEOUT_S
    )
    answer = client.chat(request, lambda _: None)
    return answer.tokens_per_s or answer.client_tokens_per_s


def _rate(tokens_per_s: float) -> str:
    return f"{tokens_per_s:.0f}" if tokens_per_s >= 10 else f"{tokens_per_s:.1f}"  # noqa: PLR2004
