"""A server for elsewhere: manifests of Kubernetes with the same isolation."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated, Literal, get_args

from llmlab.arguments import Arg
from llmlab.errors import UnknownNameError, UsageError
from llmlab.exporting import writing
from llmlab.exporting.controls import Handled, handled
from llmlab.exporting.manifests import Manifest, manifests
from llmlab.exporting.pods import KEY, LOADER, Cluster, key_name
from llmlab.exporting.subjects import Options, Subject, find, label
from llmlab.exporting.views import KubernetesExport, Step
from llmlab.isolation.profile import MODEL_DIR
from llmlab.profiles import GpuMaker, GpuRequest, ProfileName, parse_gpus
from llmlab.specs import KvType

__all__ = ["Handled", "KubernetesExport", "Manifest", "Step", "Target", "export"]

Target = Literal["kubernetes"]
# What device plug-ins call GPUs → what llama.cpp must be compiled for; a MIG slice has its size in its name.
_ACCELERATORS = {
    "nvidia.com/gpu": "cuda",
    "amd.com/gpu": "hip",
    "gpu.intel.com/i915": "vulkan",
    "gpu.intel.com/xe": "vulkan",
}
_SLICE = re.compile(r"nvidia\.com/mig-\d{1,2}(c\.\d{1,2})?g\.\d{1,4}gb(\.me)?")
_RESOURCES: dict[GpuMaker, str] = {
    "nvidia": "nvidia.com/gpu",
    "amd": "amd.com/gpu",
    "intel": "gpu.intel.com/i915",
}

_IMAGE = re.compile(
    r"(?P<host>[a-z0-9-]+(\.[a-z0-9-]+)*(:\d{1,5})?)(/[a-z0-9]+([._-]+[a-z0-9]+)*)+"
    r"(:\w[\w.-]{0,127})?@sha256:(?P<digest>[0-9a-f]{64})",
    re.ASCII,
)
# Names that are reserved for examples: nobody can have a registry there.
_EXAMPLE = re.compile(r"(.*\.)?(example(\.(com|net|org))?|invalid)")


def export(  # noqa: PLR0913 - each is an option of the command line
    target: Annotated[Target, Arg(metavar="kubernetes")],
    source: Annotated[str, Arg(metavar="SERVER|MODEL", completes="server")],
    *,
    image: Annotated[str | None, Arg(metavar="IMAGE@DIGEST")] = None,
    tools_image: Annotated[str | None, Arg(metavar="IMAGE@DIGEST")] = None,
    program: Annotated[str | None, Arg(metavar="PATH")] = None,
    name: str | None = None,
    namespace: str = "llmlab",
    gateway: Annotated[str, Arg(metavar="NAMESPACE")] = "llmlab-gateway",
    into: Annotated[str | Path | None, Arg(metavar="DIR", completes="path")] = None,
    gpus: int | None = None,
    gpu_resource: Annotated[str | None, Arg(metavar="RESOURCE")] = None,
    profile: ProfileName | None = None,
    context: int | None = None,
    slots: int | None = None,
    threads: int | None = None,
    kv_type: KvType | None = None,
    memory: Annotated[str | int | None, Arg(metavar="SIZE")] = None,
    cpus: float | None = None,
    gpu_layers: Annotated[str | None, Arg(metavar="all|N")] = None,
) -> KubernetesExport:
    """Write a server as manifests of Kubernetes, with the same isolation.

    Nothing is sent to a cluster. What Kubernetes does otherwise than llmlab stands above
    the manifests, with what to do: push the image, make the key, bring the model.

    Args:
        target: What it is written for.
        source: One of your servers in a container, or a model that is on this machine.
        image: The engine's image as the cluster pulls it, by digest. Push llmlab's own to your
            registry, or use one of the llama.cpp project, with --program.
        tools_image: An image with sh, stat, grep, sleep and sha256sum, such as busybox, by
            digest: it checks the model's files before the server starts.
        program: Where the image has llama-server. Unset: where llmlab's own image has it;
            /app/llama-server in those of the llama.cpp project.
        name: What to call it there. Unset: the server's or the model's name.
        namespace: The namespace that it goes into; it is made, and restricted.
        gateway: The namespace of the pods that may reach it.
        into: Write a folder for kustomize. Unset: one file, to the output.
        gpus: Number of GPUs. Unset: as many as the server has; of a model none, or one with
            the profile gpu.
        gpu_resource: What the cluster's nodes call them: nvidia.com/gpu, nvidia.com/mig-1g.10gb
            and other slices, amd.com/gpu, gpu.intel.com/i915 or gpu.intel.com/xe. Unset: that of
            the server's GPUs, or nvidia.com/gpu.
        profile: sealed (unset means this), gpu or exposed; what is not isolated is refused.
        context: Of a model: tokens of context for each request.
        slots: Of a model: requests answered at the same time. Unset: 4.
        threads: Of a model: compute threads. Unset: as a start here would choose.
        kv_type: Of a model: type of the numbers in the KV cache. Unset: f16.
        memory: Of a model: memory limit, such as 2g. Unset: what it needs, with room to spare.
        cpus: Of a model: CPU limit. Unset: one more than threads.
        gpu_layers: Of a model: layers that go onto the GPU. Unset: all.

    Raises:
        UsageError: An option does not fit, or the isolation cannot be exported.
        MemoryFitError: The model does not fit into so much memory.
        ModelError: The model cannot be used.
        EngineMissingError: llama.cpp is not here, and no program is named.
    """
    if target not in get_args(Target):
        raise UnknownNameError("target", target, get_args(Target))
    if gpu_resource and gpu_resource not in _ACCELERATORS and not _SLICE.fullmatch(gpu_resource):
        raise UnknownNameError("GPU resource", gpu_resource, (*_ACCELERATORS, "nvidia.com/mig-1g.10gb"))
    if program is not None and not re.fullmatch(r"/[\w./+-]+", program):
        raise UsageError(f"{program!r} is no program's path", hint="such as --program /app/llama-server")
    options = Options(
        context=context,
        slots=slots,
        threads=threads,
        kv_type=kv_type,
        memory=memory,
        cpus=cpus,
        profile=profile,
        gpus=gpus,
        gpu_layers=None if gpu_layers is None else str(gpu_layers),
        accelerator=_ACCELERATORS.get(gpu_resource or "", "cuda"),
    )
    subject = find(source, name, program, options)
    cluster = Cluster(
        namespace=label(namespace, "--namespace"),
        gateway=label(gateway, "--gateway"),
        image=_image(image, "--image", _how_to_push(subject)),
        tools_image=_image(
            tools_image,
            "--tools-image",
            "one with sh and sha256sum, such as busybox, by the digest in your registry",
        ),
        gpu_resource=gpu_resource or _resource(subject),
    )
    place = None if into is None else Path(into).expanduser().absolute()
    found = KubernetesExport(
        name=subject.name,
        namespace=cluster.namespace,
        manifests=manifests(subject, cluster),
        controls=handled(subject),
        steps=tuple(_steps(subject, cluster, place)),
        notes=subject.notes,
        folder=place,
    )
    if place is not None:
        writing.folder(place, found.manifests, found.comments())
    return found


def _resource(subject: Subject) -> str:
    """What device plug-ins call a server's GPUs.

    Raises:
        UsageError: If they are slices, whose size is not known here.
    """
    request = parse_gpus(subject.profile.gpus) if subject.gpus and subject.profile.gpus else GpuRequest()
    if any(":" in name or name.startswith("MIG-") for name in request.names):
        raise UsageError(
            f"{subject.name} has a MIG slice, and clusters call these by their size",
            hint="say which: --gpu-resource nvidia.com/mig-1g.10gb",
        )
    return _RESOURCES[request.maker]


def _image(given: str | None, option: str, how: str) -> str:
    """An image that a cluster can pull, and always the same one.

    Raises:
        UsageError: If it is not named by registry and digest.
    """
    if given is None:
        raise UsageError(f"a cluster cannot have images of this machine: {option} is missing", hint=how)
    match = _IMAGE.fullmatch(given)
    host = match["host"].partition(":")[0] if match else ""
    if not match or not ("." in match["host"] or ":" in match["host"] or host == "localhost"):
        raise UsageError(f"{given!r} names no image by registry and digest", hint=f"{option}: {how}")
    if _EXAMPLE.fullmatch(host) or len(set(match["digest"])) == 1:
        raise UsageError(f"{given!r} is only an example", hint=f"{option}: {how}")
    return given


def _how_to_push(subject: Subject) -> str:
    local = subject.local_image
    if local is None:
        return "name the image in your registry as REGISTRY/NAME@sha256:DIGEST"
    there = f"REGISTRY/{local}"
    return (
        f"docker tag {local} {there} && docker push {there} prints the digest; "
        f"then --image {there.partition(':')[0]}@sha256:DIGEST"
    )


def _steps(subject: Subject, cluster: Cluster, folder: Path | None) -> list[Step]:
    kubectl = f"kubectl -n {cluster.namespace}"
    applied = f"kubectl apply -k {shlex.quote(str(folder))}" if folder else "kubectl apply -f FILE"
    steps = [
        Step(
            what="Make the objects; FILE is where these manifests are."
            if not folder
            else "Make the objects.",
            command=applied,
        ),
        Step(
            what="Make the API key. It goes from the generator into the Secret, through no command line; the pod "
            "waits for it.",
            command=f"head -c 32 /dev/urandom | base64 | {kubectl} create secret generic {key_name(subject)} "
            f"--from-file={KEY}=/dev/stdin",
        ),
    ]
    for file in subject.files:
        target = shlex.quote(f"{MODEL_DIR}/{file.path.name}")
        steps.append(
            Step(
                what="Bring the model when `kubectl get pods` shows Init:0/1. The pod goes on when size and sha256 are "
                "right.",
                command=f"{kubectl} exec -i deploy/{subject.name} -c {LOADER} -- "
                f"""sh -c 'cat > "$1.part" && mv "$1.part" "$1"' sh {target} < {shlex.quote(str(file.path))}""",
            )
        )
    return [
        *steps,
        Step(what="Wait until it answers.", command=f"{kubectl} rollout status deployment/{subject.name}"),
    ]
