"""How engines are reached: certificates for TLS, keys for ssh, and Docker contexts that name them."""

from __future__ import annotations

import shlex
from pathlib import Path

from tools.engines_apart.commands import found, run, search_path, start

_DAYS = "30"
_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
_SSHD = """\
ListenAddress {address}
HostKey {folder}/host
AuthorizedKeysFile {folder}/key.pub
AllowUsers root
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
# The directory above may be /tmp, which everybody may write to.
StrictModes no
PidFile none
PrintLastLog no
MaxStartups 100
MaxSessions 100
# What `docker system dial-stdio` connects to on this node.
SetEnv DOCKER_HOST=unix://{socket} PATH={path}
"""
_SSH = """\
Host {address}
    User root
    IdentityFile {folder}/key
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
"""


def make_certificates(folder: Path, address: str) -> None:
    """An authority, and a certificate of its for a server at an address and for a client.

    In the directory are then ca.pem, server.pem, server.key, client.pem, client.key.
    """
    folder.mkdir()
    authority = ("-keyout", folder / "ca.key", "-out", folder / "ca.pem", "-days", _DAYS)
    usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    run("openssl", "req", "-x509", *_CURVE, *authority, "-subj", "/CN=llmlab engines", *usage)
    _sign(folder, "server", f"subjectAltName=IP:{address}\nextendedKeyUsage=serverAuth")
    _sign(folder, "client", "extendedKeyUsage=clientAuth")


def _sign(folder: Path, name: str, extensions: str) -> None:
    request, file = folder / f"{name}.csr", folder / f"{name}.extensions"
    common = "basicConstraints=CA:FALSE\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    file.write_text(common + extensions + "\n", encoding="ascii")
    key = ("-keyout", folder / f"{name}.key", "-out", request)
    run("openssl", "req", *_CURVE, *key, "-subj", f"/CN={name}")
    signer = ("-CA", folder / "ca.pem", "-CAkey", folder / "ca.key", "-CAcreateserial", "-days", _DAYS)
    out = ("-extfile", file, "-out", folder / f"{name}.pem")
    run("openssl", "x509", "-req", "-in", request, *signer, *out)


def make_keys(folder: Path, address: str, socket: Path) -> None:
    """Keys for ssh, and the configuration of both its ends.

    In the directory are then sshd_config, config (for `ssh -F`) and bin/ssh, which uses it.
    """
    folder.mkdir()
    for name in ("host", "key"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "llmlab", "-f", folder / name)
    public = (folder / "host.pub").read_text(encoding="ascii")
    (folder / "known_hosts").write_text(f"{address} {public}", encoding="ascii")
    values = {"folder": folder, "address": address, "socket": socket, "path": search_path()}
    (folder / "sshd_config").write_text(_SSHD.format(**values), encoding="utf-8")
    (folder / "config").write_text(_SSH.format(**values), encoding="utf-8")
    # The `docker` command runs whatever `ssh` it finds, and cannot be told of a configuration.
    wrapper = folder / "bin" / "ssh"
    wrapper.parent.mkdir()
    words = shlex.join([str(found("ssh")), "-F", str(folder / "config")])
    wrapper.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)


def start_sshd(folder: Path, inside: list[str]) -> None:
    """Start an ssh server on a node.

    Raises:
        EnginesError: If it refuses its configuration.
    """
    sshd, config = str(found("sshd")), folder / "sshd_config"
    run(*inside, sshd, "-t", "-f", config)
    start(folder / "log", *inside, sshd, "-D", "-e", "-f", config)


def make_contexts(folder: Path, hosts: dict[str, str], certificates: dict[str, Path], current: str) -> None:
    """Write a Docker configuration with a context for each engine.

    Args:
        folder: The directory for `DOCKER_CONFIG`.
        hosts: Name → address, as in `DOCKER_HOST`.
        certificates: Name → where the client's certificate for its TLS is.
        current: The context in use.
    """
    folder.mkdir()
    env = {"DOCKER_CONFIG": str(folder), "DOCKER_HOST": "", "DOCKER_CONTEXT": ""}
    for name, host in hosts.items():
        settings = f"host={host}"
        if files := certificates.get(name):
            settings += f",ca={files}/ca.pem,cert={files}/client.pem,key={files}/client.key"
        run("docker", "context", "create", name, "--docker", settings, env=env)
    run("docker", "context", "use", current, env=env)
