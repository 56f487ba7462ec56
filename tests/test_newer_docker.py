"""Newer Docker Engines beside the machine's own: `tools/other_engines.py` runs them."""

from __future__ import annotations

from typing import Any

import pytest

import llmlab
from llmlab.auditing import AuditComparison
from llmlab.backends import docker_api
from tests.conftest import missing, other_engines
from tests.test_audit import FAILURES, ids, told


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, require_engine: Any) -> docker_api.DockerApi:
    """The newest of them that runs."""
    found = []
    for address in other_engines("docker"):
        monkeypatch.setenv("DOCKER_HOST", address)
        api = docker_api.connect()
        found.append((int(str(api.info["ServerVersion"]).split(".")[0]), address))
    if not found:
        missing("newer docker", "none of tools/other_engines.py runs")
    monkeypatch.setenv("DOCKER_HOST", max(found)[1])
    return docker_api.connect()


def test_every_profile_is_as_on_the_machines_own_engine(engine):
    for name in FAILURES:
        server = llmlab.start("tiny", name=name, profile=name)
        assert server.inspect().differences == ()
    compared = llmlab.audit("sealed", against="exposed,video,none")
    assert isinstance(compared, AuditComparison)
    assert {audit.server: set(audit.failed()) for audit in compared} == FAILURES
    for audit in compared:
        assert ids(audit.findings, "inconclusive") == set(), told(audit.findings)
        assert audit.engine.endswith(str(engine.info["ServerVersion"]))
