"""Manifests of Kubernetes: valid, restricted, and with every control of the receipt or a word on it."""

from __future__ import annotations

import copy
import json
import os
import shlex
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # it has no hints
import pytest
import yaml

import llmlab
from llmlab import verbs
from llmlab.backends import docker_api, image
from llmlab.errors import LabError, MemoryFitError, UnknownNameError, UsageError
from llmlab.exporting import subjects, writing
from llmlab.exporting.controls import handled
from llmlab.exporting.manifests import manifests
from llmlab.exporting.pods import Cluster
from llmlab.exporting.subjects import Options, Subject
from llmlab.exporting.views import KubernetesExport
from llmlab.isolation.profile import host_config
from llmlab.isolation.reasons import REASONS
from llmlab.profiles import PROFILES, Mount, Profile
from llmlab.specs import Limits
from llmlab.weights.store import TINY, builtin_path
from tests.conftest import eventually, run_cli

DIGEST = "sha256:" + "0123456789abcdef" * 4
IMAGE = f"registry.lab.internal:5000/llmlab/llama-server@{DIGEST}"
TOOLS = f"registry.lab.internal:5000/tools/busybox@{DIGEST}"
# With it no llama.cpp need be here.
PROGRAM = "/app/llama-server"
CLUSTER = Cluster(namespace="llmlab", gateway="doors", image=IMAGE, tools_image=TOOLS)
VERSIONS = ("1.29", "1.30", "1.31", "1.33", "1.35", "1.37")
BUILDS: dict[str, dict[str, Any]] = {
    "sealed": {},
    "GPU": {"profile": "gpu"},
    "GPUs of AMD": {"gpus": 2, "gpu_resource": "amd.com/gpu", "gpu_layers": "1"},
    "exposed": {"profile": "exposed", "memory": "2g", "cpus": 1.5, "slots": 2, "kv_type": "q8_0"},
}


def exported(source: str = TINY, **changes: Any) -> KubernetesExport:
    wanted = {"image": IMAGE, "tools_image": TOOLS, "program": PROGRAM, **changes}
    return llmlab.export("kubernetes", source, **wanted)


def objects(found: KubernetesExport) -> list[dict[str, Any]]:
    """What kubectl would read."""
    return [each for each in yaml.safe_load_all(found.yaml) if each]


def of_kind(listed: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(each for each in listed if each["kind"] == kind)


def pod_of(listed: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = of_kind(listed, "Deployment")["spec"]["template"]["spec"]
    return found


def subject(**changes: Any) -> Subject:
    return replace(subjects.find(TINY, None, PROGRAM, Options()), **changes)


# Valid


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("build", BUILDS)
def test_every_object_is_valid_without_unknown_fields(build, version):
    listed = objects(exported(**BUILDS[build]))
    assert len(listed) == 7
    for each in listed:
        assert kubernetes_validate.validate(each, version, strict=True) == version


def test_the_validation_would_find_an_unknown_field_and_a_wrong_type():
    listed = objects(exported())
    for change in ({"readOnlyRootFileSystem": True}, {"runAsUser": "me"}):
        broken = copy.deepcopy(of_kind(listed, "Deployment"))
        broken["spec"]["template"]["spec"]["containers"][0]["securityContext"] |= change
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


def test_names_labels_and_ports_lead_to_each_other():
    listed = objects(exported(name="chat-1", namespace="class-a"))
    pod = pod_of(listed)
    labels = of_kind(listed, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert of_kind(listed, "Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert of_kind(listed, "Service")["spec"]["selector"] == labels
    deny, allow = (each["spec"] for each in listed if each["kind"] == "NetworkPolicy")
    assert allow["podSelector"]["matchLabels"] == labels
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert pod["serviceAccountName"] == of_kind(listed, "ServiceAccount")["metadata"]["name"]
    claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
    assert claims == [of_kind(listed, "PersistentVolumeClaim")["metadata"]["name"]]
    port = pod["containers"][0]["ports"][0]
    assert of_kind(listed, "Service")["spec"]["ports"][0]["targetPort"] == port["name"]
    assert allow["ingress"][0]["ports"] == [{"protocol": "TCP", "port": port["containerPort"]}]
    args = pod["containers"][0]["args"]
    assert args[args.index("--port") + 1] == str(port["containerPort"])
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in (*pod["containers"], *pod["initContainers"]):
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    assert {each["metadata"].get("namespace", "class-a") for each in listed} == {"class-a"}


def test_the_one_way_in_is_from_labelled_pods_of_the_gateways_namespace():
    listed = objects(exported(gateway="doors"))
    rules = [each["spec"].get("ingress") for each in listed if each["kind"] == "NetworkPolicy"]
    # One entry with both selectors: two entries would let in either.
    (entry,) = next(filter(None, rules))[0]["from"]
    assert entry["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "doors"}
    assert entry["podSelector"]["matchLabels"]
    assert not any("egress" in each["spec"] for each in listed if each["kind"] == "NetworkPolicy")


# Restricted: the rules of the Pod Security Standards, as they are written there

_VOLUMES = {
    *(
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    )
}
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
# What is forbidden of the pod, and of each container: its own settings, with the pod's for what it leaves open.
_OF_A_POD: dict[str, Callable[[dict[str, Any]], bool]] = {
    "the host's namespaces": lambda pod: any(pod.get(f) for f in ("hostNetwork", "hostPID", "hostIPC")),
    "volumes": lambda pod: any(not set(volume) - {"name"} <= _VOLUMES for volume in pod["volumes"]),
    "sysctls": lambda pod: bool(pod["securityContext"].get("sysctls")),
}
_OF_A_CONTAINER: dict[str, Callable[[dict[str, Any], dict[str, Any]], bool]] = {
    "privileged": lambda own, _: bool(own.get("privileged")),
    "privilege escalation": lambda own, _: own.get("allowPrivilegeEscalation") is not False,
    "may be root": lambda own, _: own.get("runAsNonRoot") is not True,
    "root": lambda own, _: own.get("runAsUser") == 0,
    "capabilities kept": lambda own, _: "ALL" not in own.get("capabilities", {}).get("drop", ()),
    "capabilities added": lambda own, _: not set(own["capabilities"].get("add", ())) <= {"NET_BIND_SERVICE"},
    "system calls": lambda own, _: (
        own.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}
    ),
    "proc": lambda own, _: own.get("procMount", "Default") != "Default",
    "host ports": lambda _, box: any("hostPort" in port for port in box.get("ports", ())),
    "probes of other hosts": lambda _, box: any("host" in box.get(p, {}).get("httpGet", {}) for p in _PROBES),
}


def violations(pod: dict[str, Any]) -> list[str]:
    """What the level "restricted", and "baseline" below it, forbid of a pod."""
    found = [name for name, broken in _OF_A_POD.items() if broken(pod)]
    for container in (*pod["containers"], *pod["initContainers"]):
        own = {**pod["securityContext"], **container["securityContext"]}
        found += [name for name, broken in _OF_A_CONTAINER.items() if broken(own, container)]
    return found


@pytest.mark.parametrize("build", BUILDS)
def test_the_pod_is_restricted_and_its_namespace_takes_no_other(build):
    listed = objects(exported(**BUILDS[build]))
    assert violations(pod_of(listed)) == []
    assert {kind for each in listed for kind in [each["kind"]]} == {
        *("Namespace", "NetworkPolicy", "ServiceAccount", "PersistentVolumeClaim", "Deployment", "Service")
    }
    labels = of_kind(listed, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("", {"hostNetwork": True}),
        ("", {"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}),
        ("securityContext", {"runAsNonRoot": False}),
        ("securityContext", {"seccompProfile": {"type": "Unconfined"}}),
        ("server", {"privileged": True}),
        ("server", {"capabilities": {"drop": ["ALL"], "add": ["SYS_NICE"]}}),
        ("server", {"capabilities": {"drop": ["NET_RAW"]}}),
        ("server", {"allowPrivilegeEscalation": True}),
    ],
)
def test_the_rules_would_find_what_is_not_restricted(where, change):
    pod = copy.deepcopy(pod_of(objects(exported())))
    target = pod["containers"][0]["securityContext"] if where == "server" else pod[where] if where else pod
    target |= change
    assert violations(pod)


def test_it_can_do_nothing_with_the_cluster_and_writes_in_one_place_only():
    pod = pod_of(objects(exported()))
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["hostUsers"] is False
    server = pod["containers"][0]
    assert server["securityContext"]["readOnlyRootFilesystem"] is True
    writable = [mount["mountPath"] for mount in server["volumeMounts"] if not mount.get("readOnly")]
    assert writable == ["/tmp"]  # noqa: S108 - the container's
    scratch = next(volume for volume in pod["volumes"] if volume["name"] == "scratch")
    assert scratch["emptyDir"] == {"medium": "Memory", "sizeLimit": "64Mi"}


def test_requests_are_limits_so_that_it_is_guaranteed_and_does_not_swap():
    pod = pod_of(objects(exported(memory="2g", cpus=1.5)))
    for container in (*pod["containers"], *pod["initContainers"]):
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"]["limits"])
    assert pod["containers"][0]["resources"]["limits"]["memory"] == "2048Mi"
    assert pod["containers"][0]["resources"]["limits"]["cpu"] == "1500m"


def test_gpus_are_asked_for_by_the_clusters_name_and_none_otherwise():
    def limits(**changes: Any) -> dict[str, str]:
        found: dict[str, str] = pod_of(objects(exported(**changes)))["containers"][0]["resources"]["limits"]
        return found

    assert not any("gpu" in name for name in limits())
    assert limits(profile="gpu")["nvidia.com/gpu"] == "1"
    for resource in ("amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe", "nvidia.com/mig-1g.10gb"):
        assert limits(gpus=2, gpu_resource=resource)[resource] == "2"
    args = pod_of(objects(exported(gpus=1)))["containers"][0]["args"]
    assert int(args[args.index("--n-gpu-layers") + 1]) > 1


# Equivalent: every control of the receipt is in there, or is said to be different


def resolve(listed: list[dict[str, Any]], field: str) -> list[Any]:
    """What stands at a field, in each object of that kind."""
    kind, *path = field.split(".")
    found = []
    for each in listed:
        value: Any = each
        if each["kind"] == kind:
            for part in path:
                value = value[int(part)] if isinstance(value, list) else value[part]
            found.append(value)
    return found


def test_every_line_of_the_receipt_is_in_a_manifest_or_among_the_differences(require_docker, require_engine):
    server = llmlab.start(TINY, name="real")
    lines = {control.name for control in server.inspect().isolation}
    found = exported("real", program=None)
    known = {each.control: each for each in found.controls}
    assert lines, "the receipt has lines"
    assert lines - set(known) == set(), "what becomes of these in Kubernetes?"
    assert set(known) <= set(REASONS)
    listed = objects(found)
    for each in found.controls:
        for field in each.fields:
            assert resolve(listed, field), field
        # What every pod has without being asked is named here, one by one.
        assert each.fields or each.there or each.control == "security label", each.control
        assert bool(each.here) == bool(each.there), each.control


# A value that is not the sealed profile's, for each of its fields.
CHANGED: dict[str, Any] = {
    "name": "gpu",
    "network": "bridge",
    "publish": True,
    "expose": True,
    "read_only": False,
    "models_read_only": False,
    "drop_capabilities": (),
    "add_capabilities": ("SYS_NICE",),
    "no_new_privileges": False,
    "seccomp": "default",
    "user": "image",
    "memory": False,
    "cpus": False,
    "pids": 300,
    "open_files": 100,
    "scratch_mib": 128,
    "scratch_exec": True,
    "share": ("pid",),
    "privileged": True,
    "gpus": "device=0",
    "init": False,
    "log_mib": 7,
    "mounts": (Mount(source="/", target="/host"),),
}
# These alone change nothing: a name; programs in the scratch directory can be run there in any case,
# and there is no init there in any case, which the differences say; GPUs come in as a number.
UNSEEN = {"name", "scratch_exec", "init", "gpus"}


@pytest.mark.parametrize("field", [field.name for field in fields(Profile)])
def test_every_field_of_a_profile_changes_the_export_or_is_refused(field):
    profile = replace(PROFILES["sealed"], **{field: CHANGED[field]})
    if list(subjects._opened(profile)):
        return
    before = subject()
    after = replace(before, profile=profile, limits=replace(before.limits, pids=profile.pids))
    same = (manifests(before, CLUSTER), handled(before)) == (manifests(after, CLUSTER), handled(after))
    assert same == (field in UNSEEN), field


# Where the request to a container engine says it, and the control that it belongs to.
REQUEST = {
    "NetworkMode": "network",
    "ReadonlyRootfs": "root file system",
    "CapDrop": "capabilities",
    "SecurityOpt": "system calls",
    "Init": "init",
    "Memory": "memory",
    "MemorySwap": "swap",
    "NanoCpus": "CPU",
    "PidsLimit": "processes",
    "IpcMode": "namespaces",
    "CgroupnsMode": "namespaces",
    "Tmpfs": "scratch",
    "Ulimits": "open files",
    "Mounts": "models",
    "RestartPolicy": "restart",
    "LogConfig": "log",
}


def test_every_part_of_a_containers_request_belongs_to_a_control_that_is_handled():
    asked = set(host_config(PROFILES["sealed"], Limits(memory_mib=512, cpus=1.0), []))
    assert asked == set(REQUEST)
    assert set(REQUEST.values()) <= {each.control for each in handled(subject())}


def test_a_server_and_its_model_are_exported_alike(require_docker, require_engine):
    server = llmlab.start(TINY, name="real", user="4000:5000")
    found, planned = exported("real", program=None), exported(TINY, program=None, name="real")
    assert found.name == server.name
    mine, other = pod_of(objects(found)), pod_of(objects(planned))
    assert mine["securityContext"]["runAsUser"] == 4000
    assert mine["securityContext"]["runAsGroup"] == 5000
    for pod in (mine, other):
        for field in ("runAsUser", "runAsGroup", "fsGroup"):
            pod["securityContext"].pop(field)
    assert mine == other


# It works: the pod's server with the pod's rights, and the container that waits for the model


def docker_words(pod: dict[str, Any], *, image_id: str, key: Path) -> list[str]:
    """The pod's server as a command for Docker: the same rights, the same words."""
    server, rights = pod["containers"][0], pod["securityContext"]
    own = server["securityContext"]
    size = next(v["emptyDir"]["sizeLimit"] for v in pod["volumes"] if "emptyDir" in v)
    places = {mount["name"]: mount["mountPath"] for mount in server["volumeMounts"]}
    words = ["--user", f"{rights['runAsUser']}:{rights['runAsGroup']}"]
    words += [f"--cap-drop={name}" for name in own["capabilities"]["drop"]]
    words += ["--read-only"] if own["readOnlyRootFilesystem"] else []
    words += [] if own["allowPrivilegeEscalation"] else ["--security-opt", "no-new-privileges"]
    words += ["--tmpfs", f"{places['scratch']}:size={size.removesuffix('i').lower()}"]
    words += ["--memory", server["resources"]["limits"]["memory"].removesuffix("Mi") + "m"]
    words += ["--volume", f"{builtin_path()}:{places['model']}/tiny.gguf:ro"]
    words += ["--volume", f"{key}:{places['api-key']}/api-key:ro"]
    words += [word for each in server["env"] for word in ("--env", f"{each['name']}={each['value']}")]
    return [*words, "--entrypoint", server["command"][0], image_id, *server["args"]]


def docker(*words: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *words], check=False, capture_output=True, text=True)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout


def status_of(url: str, key: str | None = None, body: object = None) -> int | None:
    """The status of an answer; None while nobody answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 - loopback
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - loopback
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return None


def test_the_pods_server_answers_with_its_key_only_and_is_healthy_without(
    require_docker, require_engine, tmp_path
):
    pod = pod_of(objects(exported(program=None)))
    _, image_id = image.make(docker_api.connect(), require_engine)
    # As the step makes it, line end included.
    key = tmp_path / "key"
    subprocess.run(f"head -c 32 /dev/urandom | base64 > {shlex.quote(str(key))}", shell=True, check=True)
    key.chmod(0o444)
    name = f"llmlab-export-{uuid.uuid4().hex[:8]}"
    reached = ["--network", name, "--publish", "127.0.0.1::8080"]
    words = docker_words(pod, image_id=image_id, key=key)
    try:
        docker("network", "create", name)
        docker("run", "--detach", "--name", name, *reached, *words)
        url = f"http://{docker('port', name, '8080').split()[0]}"
        health = pod["containers"][0]["startupProbe"]["httpGet"]["path"]
        eventually(lambda: status_of(url + health) == 200, 60)
        chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
        for path in ("/v1/chat/completions", "/completion"):
            asked = chat if path.startswith("/v1") else {"prompt": "Hello", "n_predict": 2}
            assert status_of(url + path, None, asked) == 401, path
            assert status_of(url + path, "wrong", asked) == 401, path
            assert status_of(url + path, key.read_text().strip(), asked) == 200, path
        assert status_of(f"{url}/metrics") == 401
        assert status_of(f"{url}/slots") == 401
    finally:
        docker("rm", "--force", name, check=False)
        docker("network", "rm", name, check=False)


def loader(found: KubernetesExport, folder: Path) -> list[str]:
    """The waiting container's command, with the volume at a folder of this machine."""
    container = pod_of(objects(found))["initContainers"][0]
    # Kubernetes makes one dollar of two before a bracket.
    words = [word.replace("$$(", "$(") for word in (*container["command"], *container["args"])]
    return [word.replace("/models", str(folder)) if word.startswith("/models") else word for word in words]


@pytest.mark.parametrize("name", ["tiny.gguf", "it's $(HOME) `x`.gguf"])
def test_the_model_is_awaited_until_its_bytes_are_right(name, tmp_path, write):
    data = builtin_path().read_bytes()
    model = write(data, name)
    found = exported(str(model), name="odd")
    volume = tmp_path / "volume"
    volume.mkdir()
    waiting = subprocess.Popen(
        loader(found, volume), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        # Truncated, then of the right size and wrong: it goes on waiting.
        (volume / name).write_bytes(data[:-1])
        time.sleep(1)
        (volume / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(7)
        command = next(step.command for step in found.steps if " exec " in step.command)
        words = shlex.split(command.rpartition(" < ")[0])
        inner = words[words.index("--") + 1 :]
        assert shlex.split(command.rpartition(" < ")[2]) == [str(model)]
        with model.open("rb") as file:
            placed = [word.replace("/models", str(volume)) for word in inner]
            subprocess.run(placed, stdin=file, check=True)
        said, _ = waiting.communicate(timeout=60)
    finally:
        waiting.kill()
        waiting.wait()
    assert waiting.returncode == 0
    assert said.startswith("waiting for ")
    assert said.rstrip().endswith("is right")


def test_no_word_of_the_users_becomes_a_variable_of_kubernetes(write):
    model = write(builtin_path().read_bytes(), "$(LD_LIBRARY_PATH).gguf")
    pod = pod_of(objects(exported(str(model), name="odd")))
    words = [*pod["containers"][0]["args"], *pod["initContainers"][0]["args"]]
    assert "/models/$$(LD_LIBRARY_PATH).gguf" in words
    assert not [word for word in words if "$(" in word.replace("$$(", "")]


# What is written


@pytest.mark.parametrize(
    "word", ["1e3", "0o17", "on", "null", "~", "1_000", ".5", "-1", "12:30", "a: b # c", "é\u2028"]
)
def test_a_text_stays_a_text_in_yaml(word):
    (deployment,) = (m for m in manifests(subject(), CLUSTER) if m.name == "deployment")
    body = copy.deepcopy(deployment.body)
    body["spec"]["template"]["spec"]["containers"][0]["args"] = [word]
    text = writing.one(replace(deployment, body=body))
    assert pod_of([yaml.safe_load(text)])["containers"][0]["args"] == [word]
    if word[:1] in set("0123456789-."):
        # YAML 1.1 and 1.2 do not agree on what is a number.
        assert f"- '{word}'" in text


def test_comments_hold_the_differences_and_the_steps_and_no_object_is_in_them(write):
    model = write(builtin_path().read_bytes(), "a\nkind: Pod\u2028\x1b[1m.gguf")
    found = exported(str(model), name="odd")
    head = found.yaml.partition("---\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    for each in found.differences:
        assert f"# {each.control} " in head
    assert "kubectl -n llmlab create secret generic odd-api-key" in head
    assert [each["kind"] for each in objects(found)].count("Deployment") == 1
    assert len(objects(found)) == 7


def test_no_key_stands_in_a_manifest_or_on_a_command_line():
    found = exported()
    assert "Secret" not in {each["kind"] for each in objects(found)}
    args = pod_of(objects(found))["containers"][0]["args"]
    assert "--api-key" not in args
    assert args[args.index("--api-key-file") + 1] == "/run/llmlab/api-key"
    (step,) = (step.command for step in found.steps if "secret" in step.command)
    assert "--from-literal" not in step
    assert step.startswith("head -c 32 /dev/urandom | base64 | kubectl ")


def test_a_folder_for_kustomize_names_each_of_its_files_and_is_never_written_over(tmp_path):
    folder = tmp_path / "k8s"
    found = exported(into=folder)
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert {path.name for path in folder.iterdir()} == {"kustomization.yaml", *listed["resources"]}
    read = [yaml.safe_load((folder / name).read_text()) for name in listed["resources"]]
    assert read == objects(found)
    assert str(found).startswith(str(folder))
    assert f"kubectl apply -k {folder}" in str(found)
    (folder / "service.yaml").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        exported(into=folder)
    assert (folder / "service.yaml").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_an_error_with_a_hint(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="cannot be written"):
        exported(into=tmp_path / "file" / "k8s")


def test_on_the_command_line_it_is_yaml_that_can_be_piped():
    options = ["--image", IMAGE, "--tools-image", TOOLS, "--program", PROGRAM, "--memory", "2g"]
    done = run_cli("export", "kubernetes", TINY, *options)
    listed = [each for each in yaml.safe_load_all(done.stdout) if each]
    assert listed == objects(exported(memory="2g"))
    plain = json.loads(run_cli("export", "kubernetes", TINY, *options, "--json").stdout)
    assert plain["manifests"]["items"] == listed
    assert {each["control"] for each in plain["controls"]} >= {"network", "models"}
    call = verbs.parse(["export", "kubernetes", TINY, *options])
    assert objects(call.run()) == listed


def test_in_a_notebook_the_differences_are_a_table_and_names_are_escaped(write):
    model = write(builtin_path().read_bytes(), "<b>x.gguf")
    html = exported(str(model), name="odd").to_html()
    assert "<b>x" not in html
    assert "&lt;b&gt;x" in html
    assert "podPidsLimit" in html


# What does not fit


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": None}, "--image is missing.*docker push"),
        ({"tools_image": None}, "--tools-image is missing"),
        ({"image": "registry.lab.internal/llama:latest"}, "registry and digest"),
        ({"image": f"llama-server@{DIGEST}"}, "registry and digest"),
        ({"image": f"library/llama@{DIGEST}"}, "registry and digest"),
        ({"image": f"registry.example/llmlab/llama-server@{DIGEST}"}, "only an example"),
        ({"image": f"registry.lab.internal/x@sha256:{'0' * 64}"}, "only an example"),
        ({"image": "registry.lab.internal/x@sha256:…"}, "registry and digest"),
        ({"profile": "video"}, "profile video .* network 'bridge'.*sealed or gpu"),
        ({"profile": "none"}, "profile none .* network 'bridge'"),
        ({"profile": "seald"}, "no profile 'seald'.*sealed"),
        ({"name": "Qwen_2.5"}, "no name in Kubernetes.*--name qwen-2-5"),
        ({"name": "7b"}, "no name in Kubernetes.*--name b"),
        ({"name": "x" * 41}, "no name in Kubernetes"),
        ({"name": "a\n"}, "no name in Kubernetes"),
        ({"name": "-"}, "no name in Kubernetes.*--name llm"),
        ({"namespace": "a b"}, "--namespace a-b"),
        ({"gateway": "A"}, "--gateway a"),
        ({"gpus": 0}, "gpus is 0"),
        ({"gpus": 17}, "gpus is 17"),
        ({"gpu_layers": "all"}, "--gpu-layers needs a GPU"),
        ({"gpus": 1, "gpu_layers": "some"}, "no number of layers"),
        ({"gpu_resource": "intel.com/gpu"}, "no GPU resource"),
        ({"gpu_resource": "nvidia.com/mig-big"}, "no GPU resource"),
        ({"memory": "lots"}, "not a size"),
        ({"cpus": 0}, "cpus is 0"),
        ({"slots": 0}, "slots is 0"),
        ({"kv_type": "q9"}, "no type of the KV cache"),
        ({"program": "llama-server; rm"}, "no program's path"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_hint(changes, said):
    with pytest.raises(UsageError, match=f"(?s){said}") as caught:
        # Where it is llmlab's own image, the hint says how to push it.
        exported(**{"program": None if "image" in changes else PROGRAM, **changes})
    assert caught.value.hint


def test_an_unknown_name_is_told_with_the_nearest_server_or_model():
    with pytest.raises(UnknownNameError, match=r"no server or model 'tinny'.*tiny"):
        exported("tinny")
    with pytest.raises(UnknownNameError, match="no target"):
        llmlab.export("nomad", TINY)  # type: ignore[arg-type]  # on purpose


def test_too_little_memory_is_refused_before_the_cluster_kills_it():
    with pytest.raises(MemoryFitError, match="the limit is 8 MiB"):
        exported(memory="8m")


@pytest.mark.parametrize(
    ("resource", "needed"), [("nvidia.com/gpu", "cuda"), ("amd.com/gpu", "hip")], ids=["nvidia", "amd"]
)
def test_an_image_that_cannot_use_the_gpu_is_refused(require_engine, resource, needed):
    if needed in require_engine.accelerators:
        found = exported(program=None, gpus=1, gpu_resource=resource)
        assert pod_of(objects(found))["containers"][0]["resources"]["limits"][resource] == "1"
        return
    with pytest.raises(UsageError, match=f"not compiled for {needed}.*--program"):
        exported(program=None, gpus=1, gpu_resource=resource)


def test_a_native_server_has_no_isolation_to_export(require_engine):
    llmlab.start(TINY, name="bare", backend="native")
    with pytest.raises(UsageError, match=r"no isolation to export.*export kubernetes tiny --name bare"):
        exported("bare")


@pytest.mark.parametrize(
    ("started", "asked", "said"),
    [
        ({}, {"memory": "2g"}, "--memory cannot be changed"),
        ({}, {"gpus": 1}, "this server has no GPU"),
        ({"profile": "none", "network": "none"}, {}, "profile none of real has a root file system"),
        ({"root": "writable"}, {}, "root file system that can be written"),
        ({"user": "0:0"}, {}, "the user root"),
        ({"name": "Real_1"}, {}, "--name real-1"),
    ],
    ids=["memory", "gpus", "none", "writable", "root", "name"],
)
def test_what_a_server_is_cannot_be_changed_or_hidden(require_docker, require_engine, started, asked, said):
    server = llmlab.start(TINY, **{"name": "real", **started})
    with pytest.raises(UsageError, match=said):
        exported(server.name, program=None, **asked)


def test_a_server_whose_models_file_is_gone_is_told_so(require_docker, require_engine, write):
    path = write(builtin_path().read_bytes(), "mine.gguf")
    llmlab.start(str(path), name="real")
    os.unlink(path)  # noqa: PTH108 - the name only: the container has the file
    with pytest.raises(UsageError, match=r"mine\.gguf cannot be read"):
        exported("real")
