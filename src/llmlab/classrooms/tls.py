"""TLS for a room: a certificate of the school's, or one that the room signs itself."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
from ipaddress import ip_address
from pathlib import Path

from llmlab.errors import LabError, UsageError

_DAYS = 30
_OPENSSL_S = 60.0


def check(certificate: Path, key: Path) -> None:
    """Refuse a certificate and key that do not go together.

    Raises:
        UsageError: If they do not, or cannot be read.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError as error:  # ssl.SSLError is one
        raise UsageError(
            f"{certificate} and {key} are no TLS certificate and its key: {error.strerror or error}",
            hint="both in PEM format, the key without a password",
        ) from error


def self_signed(folder: Path, names: tuple[str, ...]) -> tuple[Path, Path]:
    """A certificate that is its own authority, and its key; made by `openssl`, kept while it fits.

    Args:
        folder: Where they are kept.
        names: Names and addresses that it is for.

    Raises:
        LabError: If there is no openssl, or it fails.
    """
    wanted = sorted({*names, "localhost", "127.0.0.1", socket.gethostname()})
    label = hashlib.sha256("\0".join(wanted).encode()).hexdigest()[:12]
    certificate, key = folder / f"tls-{label}.pem", folder / f"tls-{label}.key"
    program = shutil.which("openssl")
    if program is None:
        raise LabError(
            "there is no openssl on this machine, so no certificate can be made",
            hint="install openssl, or give --tls-cert and --tls-key",
        )
    still = [program, "x509", "-checkend", str(24 * 3600), "-noout", "-in", str(certificate)]
    if key.exists() and certificate.exists() and not _run(still).returncode:
        return certificate, key
    with tempfile.TemporaryDirectory(dir=folder) as draft:
        made = [Path(draft) / name for name in ("certificate", "key")]
        os.close(os.open(made[1], os.O_CREAT | os.O_WRONLY, 0o600))
        done = _run(
            [
                *(program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
                *("-nodes", "-days", str(_DAYS), "-subj", "/CN=llmlab classroom"),
                *("-addext", f"subjectAltName={','.join(map(_alternative, wanted))}"),
                *("-keyout", str(made[1]), "-out", str(made[0])),
            ]
        )
        if done.returncode:
            raise LabError(
                "openssl did not make a certificate",
                hint="it must be OpenSSL 1.1.1 or later; or give --tls-cert and --tls-key",
                log_tail=done.stderr.splitlines()[-5:],
            )
        made[1].replace(key)
        made[0].replace(certificate)
    return certificate, key


def fingerprint(pem: str) -> str:
    """SHA-256 of a certificate, in hexadecimal."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def _alternative(name: str) -> str:
    try:
        return f"IP:{ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=_OPENSSL_S, check=False)
