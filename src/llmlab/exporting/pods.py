"""The pod of a sealed server: a container that awaits the model, then the engine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from llmlab import engines
from llmlab.exporting.subjects import Subject
from llmlab.isolation.profile import MODEL_DIR, PORT, SCRATCH

KEY = "api-key"
LOADER = "model"
"""The container that waits for the model's files."""

_KEY_DIR = "/run/llmlab"
# More than the five files of 10 MiB that a kubelet keeps of a container's log by default: it is
# to rotate them, not to evict the pod.
_EPHEMERAL = "64Mi"
_START_S, _START_PERIOD_S = 600, 5
# No command substitution: Kubernetes takes $(…) for a variable of its own.
_AWAIT = """\
while [ "$#" -gt 0 ]; do
  until stat -c %s "$1" 2>/dev/null | grep -qx "$2" && sha256sum < "$1" | grep -q "^$3 "; do
    echo "waiting for $1: $2 bytes, sha256 $3"
    sleep 5
  done
  echo "$1 is right"
  shift 3
done
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What a cluster calls things.

    Attributes:
        namespace: Where the server goes.
        gateway: The namespace of the pods that may reach it.
        image: The engine's image, by digest.
        tools_image: An image with sh, stat, grep, sleep and sha256sum, by digest.
        gpu_resource: What its nodes call their GPUs.
    """

    namespace: str
    gateway: str
    image: str
    tools_image: str
    gpu_resource: str = "nvidia.com/gpu"


def key_name(subject: Subject) -> str:
    """The name of the Secret with the API key."""
    return f"{subject.name}-{KEY}"


def pod_spec(subject: Subject, cluster: Cluster) -> dict[str, Any]:
    """The pod's `spec`."""
    uid, gid = subject.user
    selector = {"kubernetes.io/os": "linux"}
    if subject.architecture:
        selector["kubernetes.io/arch"] = subject.architecture
    pod: dict[str, Any] = {
        "serviceAccountName": subject.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # No names are looked up in there, and it learns nothing of the cluster's DNS.
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["127.0.0.1"]},
        "nodeSelector": selector,
        "terminationGracePeriodSeconds": 10,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": uid,
            "runAsGroup": gid,
            "fsGroup": gid,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [_loader(subject, cluster)],
        "containers": [_server(subject, cluster)],
        "volumes": [
            {
                "name": "scratch",
                "emptyDir": {"medium": "Memory", "sizeLimit": f"{subject.profile.scratch_mib}Mi"},
            },
            {"name": "model", "persistentVolumeClaim": {"claimName": f"{subject.name}-model"}},
            {
                "name": KEY,
                "secret": {
                    "secretName": key_name(subject),
                    "defaultMode": 0o440,
                    "items": [{"key": KEY, "path": KEY}],
                },
            },
        ],
    }
    if subject.gpus:
        pod["tolerations"] = [{"key": cluster.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}]
    else:
        pod["hostUsers"] = False
    return pod


def _loader(subject: Subject, cluster: Cluster) -> dict[str, Any]:
    """Waits until each file has its size and its hash; whoever brings them does so through it."""
    wanted = [
        word
        for file in subject.files
        for word in (f"{MODEL_DIR}/{file.path.name}", str(file.file_bytes), file.sha256)
    ]
    share = {"cpu": "1", "memory": "64Mi", "ephemeral-storage": _EPHEMERAL}
    return {
        "name": LOADER,
        "image": cluster.tools_image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-euc", _AWAIT, "sh"],
        "args": [_as_is(word) for word in wanted],
        "securityContext": _confined(subject),
        "resources": {"requests": share, "limits": share},
        "volumeMounts": [{"name": "model", "mountPath": MODEL_DIR}],
    }


def _server(subject: Subject, cluster: Cluster) -> dict[str, Any]:
    engine = engines.engine(subject.spec.engine)
    paths = engines.Paths(
        program=subject.program,
        model=PurePosixPath(MODEL_DIR) / subject.spec.model.path.name,
        scratch=PurePosixPath(SCRATCH),
        # All addresses of the pod: who may use them is the NetworkPolicy's to say.
        host="0.0.0.0",  # noqa: S104 - the pod's own
        port=PORT,
        library_dir=subject.libraries,
    )
    program, *words = engine.argv(subject.spec, paths)
    words += ["--api-key-file", f"{_KEY_DIR}/{KEY}"]
    variables = engine.environment(subject.spec, paths)
    share = _share(subject, cluster)
    health = {"httpGet": {"path": engine.HEALTH_PATH, "port": "http"}, "timeoutSeconds": 10}
    return {
        "name": "server",
        "image": cluster.image,
        "imagePullPolicy": "IfNotPresent",
        "command": [_as_is(program)],
        "args": [_as_is(word) for word in words],
        "workingDir": "/",
        "env": [{"name": name, "value": _as_is(value)} for name, value in variables.items()],
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "securityContext": _confined(subject),
        "resources": {"requests": share, "limits": share},
        # Loading may take minutes; once it has answered, both of the others count.
        "startupProbe": {
            **health,
            "periodSeconds": _START_PERIOD_S,
            "failureThreshold": _START_S // _START_PERIOD_S,
        },
        "readinessProbe": {**health, "periodSeconds": 10, "failureThreshold": 3},
        "livenessProbe": {**health, "periodSeconds": 20, "failureThreshold": 6},
        "volumeMounts": [
            {"name": "model", "mountPath": MODEL_DIR, "readOnly": True},
            {"name": "scratch", "mountPath": SCRATCH},
            {"name": KEY, "mountPath": _KEY_DIR, "readOnly": True},
        ],
    }


def _confined(subject: Subject) -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": not subject.profile.no_new_privileges,
        "readOnlyRootFilesystem": subject.profile.read_only,
        "capabilities": {"drop": list(subject.profile.drop_capabilities)},
    }


def _share(subject: Subject, cluster: Cluster) -> dict[str, str]:
    """What it gets of a node: asked for and limit at once, so that the pod is "Guaranteed"."""
    share = {
        "cpu": f"{math.ceil((subject.limits.cpus or 0) * 1000)}m",
        "memory": f"{subject.limits.memory_mib}Mi",
        "ephemeral-storage": _EPHEMERAL,
    }
    if subject.gpus:
        share[cluster.gpu_resource] = str(subject.gpus)
    return share


def _as_is(word: str) -> str:
    """A word in which Kubernetes finds no variable to put in."""
    return word.replace("$(", "$$(")
