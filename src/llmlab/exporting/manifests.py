"""The manifests of a sealed server, as plain data.

Fields and their meaning are those of the Kubernetes API reference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from llmlab.exporting.pods import LOADER, Cluster, pod_spec
from llmlab.exporting.subjects import Subject
from llmlab.isolation.profile import PORT

GATEWAY_LABEL = {"app.kubernetes.io/component": "llmlab-gateway"}
_GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One object of Kubernetes.

    Attributes:
        name: The name of its file, without its ending.
        why: What it is for, and what must be known to use it.
        body: The object.
    """

    name: str
    why: tuple[str, ...]
    body: dict[str, Any]


def manifests(subject: Subject, cluster: Cluster) -> tuple[Manifest, ...]:
    """All objects, in the order in which they are made."""
    return (
        _namespace(cluster),
        _deny(cluster),
        _allow(subject, cluster),
        _account(subject, cluster),
        _volume(subject, cluster),
        _deployment(subject, cluster),
        _service(subject, cluster),
    )


def _namespace(cluster: Cluster) -> Manifest:
    levels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    return Manifest(
        name="namespace",
        why=("Pod Security Admission refuses every pod in here that is not restricted.",),
        body={
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": cluster.namespace, "labels": levels},
        },
    )


def _deny(cluster: Cluster) -> Manifest:
    return Manifest(
        name="network-deny",
        why=(
            "Nothing goes in or out of any pod in this namespace, DNS included.",
            "This needs a network plug-in that enforces NetworkPolicies; some do not, and say nothing: try it.",
        ),
        body={
            **_head("networking.k8s.io/v1", "NetworkPolicy", "llmlab-deny-all", cluster),
            "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
        },
    )


def _allow(subject: Subject, cluster: Cluster) -> Manifest:
    # Both selectors in one entry: that namespace and those pods.
    gateway = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": cluster.gateway}},
        "podSelector": {"matchLabels": dict(GATEWAY_LABEL)},
    }
    return Manifest(
        name="network-gateway",
        why=(
            f"The one way in: from pods of namespace {cluster.gateway} that have the label",
            f"{'='.join(*GATEWAY_LABEL.items())}.",
        ),
        body={
            **_head("networking.k8s.io/v1", "NetworkPolicy", f"{subject.name}-from-gateway", cluster),
            "spec": {
                "podSelector": {"matchLabels": _labels(subject)},
                "policyTypes": ["Ingress"],
                "ingress": [{"from": [gateway], "ports": [{"protocol": "TCP", "port": PORT}]}],
            },
        },
    )


def _account(subject: Subject, cluster: Cluster) -> Manifest:
    return Manifest(
        name="service-account",
        why=("An account without rights, and without a token in the pod.",),
        body={
            **_head("v1", "ServiceAccount", subject.name, cluster),
            "automountServiceAccountToken": False,
        },
    )


def _volume(subject: Subject, cluster: Cluster) -> Manifest:
    size = sum(file.file_bytes for file in subject.files)
    return Manifest(
        name="model-volume",
        why=(
            "The model's files. The pod has no way out to fetch them: they are brought once, see the steps.",
            "Set storageClassName where the cluster has no default.",
        ),
        body={
            **_head("v1", "PersistentVolumeClaim", f"{subject.name}-model", cluster),
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": f"{math.ceil(size * 1.1 / _GIB)}Gi"}},
            },
        },
    )


def _service(subject: Subject, cluster: Cluster) -> Manifest:
    return Manifest(
        name="service",
        why=("An address within the cluster. Do not make it a NodePort or a LoadBalancer.",),
        body={
            **_head("v1", "Service", subject.name, cluster),
            "spec": {
                "type": "ClusterIP",
                "selector": _labels(subject),
                "ports": [{"name": "http", "protocol": "TCP", "port": PORT, "targetPort": "http"}],
            },
        },
    )


def _deployment(subject: Subject, cluster: Cluster) -> Manifest:
    pod = {"metadata": {"labels": _labels(subject)}, "spec": pod_spec(subject, cluster)}
    gpu = (
        (
            "With GPUs the pod keeps the host's user ids (no hostUsers: false): not all drivers go with others.",
        )
        if subject.gpus
        else (
            "hostUsers: false maps its user ids to others on the node. Kubernetes before 1.33 ignores it. The",
            "volume's file system must allow it: NFS does not; take the line out there.",
        )
    )
    return Manifest(
        name="deployment",
        why=(
            f"The server. Its container {LOADER!r} waits until the model is there and right, at every start.",
            *gpu,
        ),
        body={
            **_head("apps/v1", "Deployment", subject.name, cluster),
            "spec": {
                "replicas": 1,
                # The old pod ends before the new one starts: they share a volume, and perhaps a GPU.
                "strategy": {"type": "Recreate"},
                "selector": {"matchLabels": _labels(subject)},
                "template": pod,
            },
        },
    )


def _head(version: str, kind: str, name: str, cluster: Cluster) -> dict[str, Any]:
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": cluster.namespace,
            "labels": {"app.kubernetes.io/part-of": "llmlab"},
        },
    }


def _labels(subject: Subject) -> dict[str, str]:
    return {"app.kubernetes.io/name": "llmlab-server", "app.kubernetes.io/instance": subject.name}
