"""The three ways to an engine: who has the key is let in, and nobody else."""

from __future__ import annotations

import os
import ssl
import subprocess
from http.client import HTTPException, HTTPSConnection
from pathlib import Path

import pytest
from tools.engines_apart import letting_in
from tools.three_engines import NODES, ThreeEngines

import llmlab
from llmlab.backends import docker_api
from tests.cluster.conftest import UNCLOSED

pytestmark = [pytest.mark.cluster, UNCLOSED]


def test_llmlab_reaches_all_three(three: ThreeEngines):
    found = {node.name: node for node in llmlab.nodes()}
    assert [found[name].state for name in NODES] == ["ready"] * 3
    assert {name: found[name].address for name in NODES} == three.hosts()
    assert found["n1"].current


def test_the_docker_command_reaches_all_three(three: ThreeEngines):
    for name in NODES:
        command = ["docker", "--context", name, "info", "--format", "{{.Name}}"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == name


def asked(three: ThreeEngines, context: ssl.SSLContext) -> int:
    # TLS 1.3 tells a client only with the first answer that it is not let in.
    connection = HTTPSConnection(three.address("n2"), 2376, timeout=10, context=context)
    try:
        connection.request("GET", "/version")
        return connection.getresponse().status
    finally:
        connection.close()


def test_tls_needs_a_certificate_of_the_right_authority(three: ThreeEngines, tmp_path: Path):
    own = three.folder / "tls-n2"
    trusting = ssl.create_default_context(cafile=str(own / "ca.pem"))
    with pytest.raises((OSError, HTTPException)):
        asked(three, trusting)
    letting_in.make_certificates(tmp_path / "others", three.address("n2"))
    trusting.load_cert_chain(tmp_path / "others" / "client.pem", tmp_path / "others" / "client.key")
    with pytest.raises((OSError, HTTPException)):
        asked(three, trusting)
    trusting.load_cert_chain(own / "client.pem", own / "client.key")
    assert asked(three, trusting) == 200


def test_the_engine_shows_who_it_is(three: ThreeEngines, tmp_path: Path):
    letting_in.make_certificates(tmp_path / "others", three.address("n2"))
    own = three.folder / "tls-n2"
    mistaken = ssl.create_default_context(cafile=str(tmp_path / "others" / "ca.pem"))
    mistaken.load_cert_chain(own / "client.pem", own / "client.key")
    with pytest.raises(ssl.SSLCertVerificationError):
        asked(three, mistaken)


def test_ssh_needs_the_right_key(three: ThreeEngines, tmp_path: Path):
    letting_in.make_keys(tmp_path / "others", three.address("n3"), three.engine("n3").socket)
    own = three.folder / "ssh"
    command = ["ssh", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]
    command += ["-o", f"UserKnownHostsFile={own}/known_hosts"]
    environment = {key: value for key, value in os.environ.items() if key != "SSH_AUTH_SOCK"}

    def logged_in(key: Path) -> subprocess.CompletedProcess[str]:
        words = [*command, "-i", str(key), f"root@{three.address('n3')}", "hostname"]
        return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)

    refused = logged_in(tmp_path / "others" / "key")
    assert refused.returncode != 0
    assert "Permission denied" in refused.stderr
    assert logged_in(own / "key").stdout.strip() == "n3"


def test_another_context_that_is_chosen_in_a_terminal_is_noticed(three: ThreeEngines):
    def choose(name: str) -> None:
        subprocess.run(["docker", "context", "use", name], capture_output=True, check=True)

    assert docker_api.connect().info["Name"] == "n1"
    choose("n3")
    try:
        assert docker_api.connect().info["Name"] == "n3"
        assert [node.name for node in llmlab.nodes() if node.current] == ["n3"]
    finally:
        choose("n1")
    assert docker_api.connect().info["Name"] == "n1"
