"""Each control of the isolation receipt, and what becomes of it in Kubernetes.

A control is in a manifest (`fields` say where), or Kubernetes gives it to every pod
(`fields` is empty, and so is `there`), or it is different there: then `here` and `there`
say how. Nothing is left out without a word.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmlab.exporting.subjects import Subject

POD = "Deployment.spec.template.spec"
SERVER = f"{POD}.containers.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handled:
    """What becomes of a control.

    Attributes:
        control: Its name, that of a line of the receipt where there is one.
        fields: Where it stands in the manifests: `Kind.path.to.field`.
        here: What llmlab does with a container, if Kubernetes does otherwise.
        there: What Kubernetes does in its place.
    """

    control: str
    fields: tuple[str, ...] = ()
    here: str = ""
    there: str = ""

    @property
    def differs(self) -> bool:
        """Whether Kubernetes does otherwise."""
        return bool(self.there)


def handled(subject: Subject) -> tuple[Handled, ...]:
    """What becomes of each control, in the receipt's order."""
    return (*_reaching(), *_files(), *_rights(subject), *_shares(subject), *_rest(subject), *_beside())


def _reaching() -> list[Handled]:
    return [
        Handled(
            control="network",
            fields=("NetworkPolicy.spec.policyTypes", f"{POD}.dnsPolicy"),
            here="there is none but loopback",
            there="a pod has one. NetworkPolicies forbid all of it but the gateway's way in, where the cluster's "
            "network plug-in enforces them: some do not, and say nothing. The pod's own node gets in always.",
        ),
        Handled(
            control="published ports",
            fields=("Service.spec.type",),
            here="none",
            there="a ClusterIP within the cluster, none outside; the NetworkPolicy says who may use it.",
        ),
    ]


def _files() -> list[Handled]:
    return [
        Handled(
            control="root file system",
            fields=(f"{SERVER}.securityContext.readOnlyRootFilesystem",),
        ),
        Handled(
            control="models",
            fields=(f"{SERVER}.volumeMounts.0.readOnly", f"{POD}.initContainers.0.command"),
            here="files of this machine, mounted read-only",
            there="a volume, read-only for the server. Before it starts, another container of the pod, which can "
            "write there, waits until size and sha256 are right.",
        ),
        Handled(
            control="other mounts",
            here="none",
            there="the kubelet mounts /dev/termination-log, a file on the node's disk that can be written, and "
            "/etc/hosts, /etc/hostname, /etc/resolv.conf.",
        ),
        Handled(
            control="scratch",
            fields=(f"{POD}.volumes.0.emptyDir.medium", f"{POD}.volumes.0.emptyDir.sizeLimit"),
            here="a tmpfs with a size, noexec, nosuid, nodev",
            there="a tmpfs with a size; an emptyDir has no noexec: programs in it can be run.",
        ),
    ]


def _rights(subject: Subject) -> list[Handled]:
    families = {"unix": "sockets of the unix family only", "loopback": "unix and internet sockets only"}
    asked = families.get(subject.profile.seccomp, "the engine's own")
    return [
        Handled(control="capabilities", fields=(f"{SERVER}.securityContext.capabilities.drop",)),
        Handled(control="no new privileges", fields=(f"{SERVER}.securityContext.allowPrivilegeEscalation",)),
        Handled(
            control="system calls",
            fields=(f"{POD}.securityContext.seccompProfile.type",),
            here=f"filtered: {asked}",
            there="the default filter of the node's container runtime: a server behind TCP must open sockets of "
            "other families, too.",
        ),
        Handled(
            control="user",
            fields=tuple(
                f"{POD}.securityContext.{field}" for field in ("runAsNonRoot", "runAsUser", "runAsGroup")
            ),
            here="whoever starts it, or nobody" if subject.profile.user == "caller" else subject.profile.user,
            there=f"uid {subject.user[0]}, gid {subject.user[1]}; the group owns the volumes as well (fsGroup).",
        ),
        Handled(
            control="namespaces",
            # Every pod has its own unless it asks for the host's, which Pod Security then refuses.
            fields=("Namespace.metadata.labels",),
        ),
    ]


def _shares(subject: Subject) -> list[Handled]:
    limits = f"{SERVER}.resources.limits"
    return [
        Handled(control="memory", fields=(f"{limits}.memory",)),
        # Requests that equal limits make the pod "Guaranteed": such pods do not swap.
        Handled(control="swap", fields=(f"{SERVER}.resources.requests.memory",)),
        Handled(control="CPU", fields=(f"{limits}.cpu",)),
        Handled(
            control="processes",
            here=f"at most {subject.limits.pids}",
            there="the kubelet's podPidsLimit, the same for all pods of a node; by default without a limit.",
        ),
        Handled(
            control="open files",
            here=f"at most {subject.profile.open_files}",
            there="the limit of the node's container runtime: a pod cannot set one.",
        ),
        Handled(
            control="core dumps",
            here="none: a crash writes no prompts to the disk",
            there="what the node's core_pattern says: a pod cannot forbid them.",
        ),
    ]


def _rest(subject: Subject) -> list[Handled]:
    gpus = subject.gpus
    log = subject.profile.log_mib
    return [
        Handled(
            control="devices",
            fields=(f"{SERVER}.resources.limits",),
            here=f"GPUs {subject.profile.gpus}" if gpus else "",
            there=f"{gpus} of whatever kind the device plug-in hands out; which one is the scheduler's choice."
            if gpus
            else "",
        ),
        # Unset means: the runtime's AppArmor profile or SELinux label, where the node has them.
        Handled(control="security label"),
        Handled(
            control="log",
            fields=(f"{SERVER}.resources.limits.ephemeral-storage",),
            here="the engine's way" if log is None else f"2 files of {log} MiB",
            there="rotated by the kubelet at containerLogMaxSize, 5 files of 10 MiB by default; a pod that takes "
            "more disk than its limit is evicted.",
        ),
        Handled(
            control="image",
            fields=(f"{SERVER}.image",),
            here="made from verified files of this machine",
            there="what the registry has under this digest. That it is the same image is not checked here.",
        ),
        Handled(
            control="transport",
            fields=(f"{SERVER}.ports.0.containerPort", f"{POD}.volumes.2.secret.secretName"),
            here="a unix socket whose peer is checked, no key"
            + (", and a gate with a key for other tools" if subject.profile.expose else ""),
            there="TCP in the clear within the cluster, and an API key from a Secret. /health and /v1/models "
            "answer without the key.",
        ),
    ]


def _beside() -> list[Handled]:
    """What is no line of the receipt."""
    return [
        Handled(
            control="init",
            here="a first process that collects ended ones",
            there="none: the engine is the first process itself, and makes no others.",
        ),
        Handled(
            control="restart",
            here="none, or as often as was asked for",
            there="always, with growing pauses: a Deployment knows nothing else.",
        ),
        Handled(
            control="health check",
            fields=tuple(f"{SERVER}.{probe}.httpGet.path" for probe in ("startupProbe", "livenessProbe")),
            here="llmlab asks, over the socket",
            there="the node asks every few seconds; a server that does not answer is started anew.",
        ),
    ]
