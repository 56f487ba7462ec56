"""The behaviour suite on llama-cpp-python's own server."""

from __future__ import annotations

import pytest

import llmlab
from llmlab import errors
from tests.behaviour import ServerBehaviour


class TestLlamaCppPython(ServerBehaviour):
    tells_slots = False
    # It ends the stream without an error.
    too_long = errors.RequestError

    @pytest.fixture
    def place(self, require_engine, require_llama_cpp):
        return {"backend": "native", "engine": "llama-cpp-python"}


def test_it_does_not_run_in_a_container(require_docker):
    with pytest.raises(errors.UsageError, match="cannot run in a container"):
        llmlab.start("tiny", backend="container", engine="llama-cpp-python")
