"""llama.cpp on this machine: found or compiled, and verified before it is trusted."""

from __future__ import annotations

from llmlab.builds.locate import find_build
from llmlab.builds.values import EngineBuild, EngineFile
from llmlab.builds.verb import BuildResult, build

__all__ = ["BuildResult", "EngineBuild", "EngineFile", "build", "find_build"]
