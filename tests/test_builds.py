"""Finding, compiling and verifying llama.cpp, with real programs throughout.

Compiling llama.cpp takes minutes, so the builder is shown on a small project
with the same three targets; its llama-server hands over to the real one.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from llmlab import runtime
from llmlab.builds import (
    EngineBuild,
    EngineFile,
    build,
    closure,
    compiling,
    find_build,
    locate,
    manifest,
    places,
    source,
    toolchain,
    verb,
)
from llmlab.builds.verify import TOKENS, verify, version_of
from llmlab.errors import BuildError, EngineMissingError, LabError
from llmlab.reporting import Reporter, reporting_to

MODEL = locate.model_to_verify_with()
LINUX = sys.platform == "linux"


class Recorder(Reporter):
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []
        self.ended: list[bool] = []

    def stage(self, stage: str, detail: str = "") -> None:
        self.stages.append(f"{stage}: {detail}")

    def note(self, message: str) -> None:
        self.notes.append(message)

    def end(self, *, failed: bool) -> None:
        self.ended.append(failed)


@pytest.fixture(scope="session")
def engine() -> EngineBuild:
    """The llama.cpp of this machine; without it nothing here means anything."""
    return find_build()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no llama-server of the user's."""
    monkeypatch.setenv("LLMLAB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv(locate.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", _path_without("llama-server"))
    return tmp_path / "cache"


def _path_without(program: str) -> str:
    directories = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(d for d in directories if not Path(d, program).exists())


def _script(path: Path, body: str) -> Path:
    """A program that knows its version and else does what `body` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    version = '[ "$1" = --version ] && { echo "version: 1 (test)"; exit 0; }\n'
    path.write_text("#!/bin/sh\n" + version + textwrap.dedent(body), encoding="utf-8")
    path.chmod(0o755)
    return path


def _answering(path: Path, answer: str) -> Path:
    """A server on a unix socket that is healthy and generates `answer`."""
    program = path.with_suffix(".py")
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(
        textwrap.dedent(
            f"""
            import http.server, socketserver, sys
            class Handler(http.server.BaseHTTPRequestHandler):
                def reply(self):
                    self.rfile.read(int(self.headers.get("Content-Length") or 0))
                    body = {answer!r}.encode() if self.command == "POST" else b"{{}}"
                    self.wfile.write(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + body)
                do_GET = do_POST = reply
                def log_message(self, *args): pass
                def address_string(self): return ""
            socketserver.UnixStreamServer(sys.argv[sys.argv.index("--host") + 1], Handler).serve_forever()
            """
        ),
        encoding="utf-8",
    )
    return _script(path, f'exec "{sys.executable}" "{program}" "$@"')


# --- what is found ------------------------------------------------------------


def test_files_are_what_their_hashes_say(engine):
    for file in engine.files:
        assert hashlib.sha256(file.source.read_bytes()).hexdigest() == file.sha256
        assert file.target.startswith("/")
    assert len({file.target for file in engine.files}) == len(engine.files)


def test_identity_follows_contents_and_places(engine):
    files = engine.files or (EngineFile(source=Path("a"), target="/a", sha256="0"),)
    known = replace(engine, files=files)
    assert replace(known, files=files[::-1]).identity == known.identity
    changed = replace(files[0], sha256="0" * 64)
    assert replace(known, files=(changed, *files[1:])).identity != known.identity
    moved = replace(files[0], target="/elsewhere")
    assert replace(known, files=(moved, *files[1:])).identity != known.identity


def test_own_build_brings_the_libraries_of_the_python_engine(engine):
    if engine.origin != "built":
        assert engine.library_dir is None
        return
    assert engine.library_dir is not None
    assert engine.server.parent == engine.library_dir
    # The names under which llama_cpp looks for them.
    for name in ("libllama", "libmtmd"):
        assert any((engine.library_dir / f"{name}.{end}").exists() for end in ("so", "dylib"))
    assert (engine.library_dir / "LICENSE").exists()
    assert source.VERSION in engine.version


def test_nothing_there(cache):
    with pytest.raises(EngineMissingError) as caught:
        find_build()
    assert "llmlab build" in caught.value.hint
    assert not cache.exists()


def test_variable_names_no_file(cache, monkeypatch):
    monkeypatch.setenv(locate.VARIABLE, str(cache / "none"))
    with pytest.raises(EngineMissingError, match="which is no file"):
        find_build()


def test_variable_names_no_program(cache, monkeypatch, tmp_path):
    (tmp_path / "text").write_text("hello", encoding="utf-8")
    monkeypatch.setenv(locate.VARIABLE, str(tmp_path / "text"))
    with pytest.raises(EngineMissingError, match="not executable"):
        find_build()


def test_variable_wins_and_a_broken_one_is_not_passed_over(cache, monkeypatch, tmp_path):
    monkeypatch.setenv(locate.VARIABLE, str(_script(tmp_path / "server", "exit 3")))
    with pytest.raises(BuildError, match="exit code 3") as caught:
        find_build()
    assert locate.VARIABLE in caught.value.hint
    with pytest.raises(BuildError):
        build()


def test_server_on_path_is_tried_once(engine, cache, monkeypatch, tmp_path):
    log = tmp_path / "starts"
    _script(tmp_path / "bin" / "llama-server", f'echo start >> "{log}"\nexec "{engine.server}" "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    found = find_build()
    assert (found.origin, found.library_dir, found.files) == ("path", None, ())
    assert find_build() == found
    assert log.read_text().split() == ["start"]


def test_a_changed_server_is_tried_again(engine, cache, monkeypatch, tmp_path):
    server = _script(tmp_path / "server", f'exec "{engine.server}" "$@"')
    monkeypatch.setenv(locate.VARIABLE, str(server))
    assert find_build().origin == "environment"
    _script(server, "exit 4")
    with pytest.raises(BuildError, match="exit code 4"):
        find_build()


@pytest.mark.skipif(not LINUX, reason="images are made of Linux programs")
def test_link_to_a_server_brings_its_libraries(engine, cache, monkeypatch, tmp_path):
    link = tmp_path / "bin" / "llama-server"
    link.parent.mkdir()
    link.symlink_to(engine.server)
    monkeypatch.setenv("PATH", f"{link.parent}:{os.environ['PATH']}")
    found = find_build()
    assert found.server == link
    assert {f.target for f in found.files} == {f.target for f in engine.files}


# --- our own build, moved and damaged -------------------------------------------


@pytest.fixture
def moved_build(engine, cache) -> Path:
    """A copy of our own build in another cache."""
    if engine.origin != "built":
        pytest.skip("llama-server is the user's own here")
    target = locate.own_dir()
    shutil.copytree(engine.server.parent, target, symlinks=True)
    return target


def test_build_may_be_moved(engine, moved_build):
    found = find_build()
    assert found.server == moved_build / "llama-server"
    assert found.library_dir == moved_build
    assert found.identity == engine.identity
    known = manifest.load(moved_build / manifest.NAME)
    assert known is not None
    assert known.fresh
    assert verify(found.server, MODEL).tokens == TOKENS


def test_damaged_build_is_no_build(moved_build):
    library = next(path for path in moved_build.glob("libllama.*") if not path.is_symlink())
    data = bytearray(library.read_bytes())
    data[len(data) // 2] ^= 1
    library.write_bytes(data)
    with pytest.raises(EngineMissingError):
        find_build()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 0}', '{"format": 1}', '{"format": 1, "server": 3}']
)
def test_unreadable_manifest_is_no_build(moved_build, text):
    (moved_build / manifest.NAME).write_text(text, encoding="utf-8")
    with pytest.raises(EngineMissingError):
        find_build()


# --- verifying ------------------------------------------------------------------


def test_working_server_generates(engine):
    proof = verify(engine.server, MODEL)
    assert proof.tokens == TOKENS
    assert proof.text.strip()


def test_settings_in_the_environment_do_not_reach_the_trial(engine, monkeypatch):
    monkeypatch.setenv("LLAMA_ARG_MODEL", "/nowhere.gguf")
    monkeypatch.setenv("LLAMA_ARG_API_KEY", "secret")
    assert verify(engine.server, MODEL).tokens == TOKENS


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("kill -ILL $$", "SIGILL"),
        ("sh -c 'kill -ILL $$'; exit 132", "SIGILL"),
        ("kill -SEGV $$", "SIGSEGV"),
        ("exit 127", "exit code 127"),
        ("exec sleep 600", "gave no answer in 1 s"),
    ],
)
def test_broken_server(tmp_path, body, cause):
    with pytest.raises(BuildError, match=cause) as caught:
        verify(_script(tmp_path / "server", body), MODEL, timeout_s=1 if "sleep" in body else 30)
    assert str(tmp_path / "server") in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ("garbage", "no completion"),
        ("{}", "no completion"),
        ("[1]", "no completion"),
        ('{"content": "", "tokens_predicted": 16, "completion_probabilities": []}', "the text ''"),
        ('{"content": "x", "tokens_predicted": 1, "completion_probabilities": []}', "generated 1 tokens"),
        (
            '{"content": "x", "tokens_predicted": 16, "completion_probabilities": [{"logprob": null}]}',
            "not numbers",
        ),
    ],
)
def test_server_that_answers_nonsense(tmp_path, answer, cause):
    with pytest.raises(BuildError, match=cause):
        verify(_answering(tmp_path / "server", answer), MODEL, timeout_s=30)


def test_server_that_hangs_after_it_is_ready(tmp_path):
    server = _answering(tmp_path / "server", "{}")
    program = server.with_suffix(".py")
    program.write_text(
        program.read_text().replace(
            "def reply(self):",
            "def reply(self):\n        if self.command == 'POST': import time; time.sleep(600)",
        ),
        encoding="utf-8",
    )
    with pytest.raises(BuildError, match="gave no answer"):
        verify(server, MODEL, timeout_s=2)


def test_trial_leaves_no_process(tmp_path):
    body = f'echo $$ > "{tmp_path}/pids"; sleep 600 & echo $! >> "{tmp_path}/pids"; trap "" TERM; wait; wait'
    with pytest.raises(BuildError):
        verify(_script(tmp_path / "server", body), MODEL, timeout_s=1)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    assert not any(_runs(pid) for pid in pids)


def test_not_a_program(tmp_path):
    path = tmp_path / "server"
    path.write_bytes(b"\x7fELF nonsense")
    path.chmod(0o755)
    with pytest.raises(BuildError, match="cannot be started"):
        version_of(path)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- the closure ----------------------------------------------------------------


@pytest.fixture
def tree(engine: EngineBuild, tmp_path: Path) -> Path:
    """The engine's files as an image would hold them."""
    if not engine.files:
        pytest.skip("images are made of Linux programs")
    root = tmp_path / "root"
    for file in engine.files:
        path = root / file.target.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file.source, path)
    return root


def test_closure_holds_the_libraries_the_c_library_and_the_loader(engine):
    if not engine.files:
        pytest.skip("images are made of Linux programs")
    names = [Path(file.target).name for file in engine.files]
    for start in ("llama-server", "libllama.so", "libggml", "libc.", "ld-"):
        assert any(name.startswith(start) for name in names), start
    assert not any("vdso" in name for name in names)
    assert not any(file.source.is_symlink() for file in engine.files)


def test_closure_needs_nothing_else_from_this_machine(engine, tree):
    """The tree's own loader finds every library, and each in the tree."""
    loader = next(file.target for file in engine.files if Path(file.target).name.startswith("ld-"))
    libc = next(file.target for file in engine.files if Path(file.target).name.startswith("libc."))
    done = subprocess.run(
        [
            f"{tree}{loader}",
            "--inhibit-cache",
            "--library-path",
            f"{tree}{Path(libc).parent}",
            "--list",
            f"{tree}{closure.IMAGE_DIR}/llama-server",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    found = closure.parse_ldd(done.stdout)
    outside = [
        path for name, path in found.items() if not name.startswith("/") and not path.is_relative_to(tree)
    ]
    assert len(found) > 5
    assert outside == []


@pytest.mark.skipif(not hasattr(os, "chroot") or os.geteuid() != 0, reason="chroot is root's")
def test_closure_runs_with_nothing_else(tree):
    done = subprocess.run(
        ["chroot", str(tree), f"{closure.IMAGE_DIR}/llama-server", "--version"],
        check=True,
        capture_output=True,
        text=True,
        # Without /proc the loader cannot tell by itself where the program lies.
        env={**os.environ, "LD_ORIGIN_PATH": closure.IMAGE_DIR},
    )
    assert "version:" in done.stdout + done.stderr


def test_ldd_output():
    text = """
	linux-vdso.so.1 (0x00007ffd4a5f2000)
	libllama.so.0 => /opt/x/libllama.so.0 (0x00007f29ac400000)
	/lib64/ld-linux-x86-64.so.2 (0x00007f29ad6f4000)
	"""
    assert closure.parse_ldd(text) == {
        "libllama.so.0": Path("/opt/x/libllama.so.0"),
        "/lib64/ld-linux-x86-64.so.2": Path("/lib64/ld-linux-x86-64.so.2"),
    }


def test_ldd_output_of_musl():
    text = "\t/lib/ld-musl-x86_64.so.1 (0x7f1)\n\tlibc.musl-x86_64.so.1 => /lib/ld-musl-x86_64.so.1 (0x7f1)\n"
    assert set(closure.parse_ldd(text)) == {"/lib/ld-musl-x86_64.so.1", "libc.musl-x86_64.so.1"}


def test_missing_library_is_named():
    with pytest.raises(BuildError, match=r"libmissing\.so\.3"):
        closure.parse_ldd("\tlibmissing.so.3 => not found\n\tlibc.so.6 => /lib/libc.so.6 (0x1)\n")


def test_script_has_no_closure(tmp_path):
    assert closure.engine_files(_script(tmp_path / "server", "exit 0")) == ()


# --- compiling ------------------------------------------------------------------

PROJECT = """
cmake_minimum_required(VERSION 3.14)
project(small CXX)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
add_library(small SHARED small.cpp)
add_executable(llama-bench main.cpp)
add_executable(llama-quantize main.cpp)
target_link_libraries(llama-bench small)
target_link_libraries(llama-quantize small)
add_custom_target(llama-server
  COMMAND sh ${CMAKE_SOURCE_DIR}/before.sh
  COMMAND ${CMAKE_COMMAND} -E copy ${CMAKE_SOURCE_DIR}/server.sh ${CMAKE_BINARY_DIR}/bin/llama-server)
"""


def _project(root: Path, server: str, *, before: str = "", main: str = "") -> Path:
    """A small project; `before` is done before its llama-server is there."""
    root.mkdir(parents=True)
    files = {
        "CMakeLists.txt": PROJECT,
        "small.cpp": "int small() { return 0; }",
        "main.cpp": main or "int small(); int main() { return small(); }",
        "before.sh": before,
        "LICENSE": "none",
    }
    for name, text in files.items():
        (root / name).write_text(text + "\n", encoding="utf-8")
    _script(root / "server.sh", server)
    return root


def _work() -> Path:
    """Where the builder expects an unpacked source."""
    own = locate.own_dir()
    return own.with_name(f".{own.name}.work")


def _nothing_built(cache: Path) -> None:
    assert locate.own_build() is None
    assert not locate.own_dir().exists()
    with pytest.raises(EngineMissingError):
        find_build()


def test_build_compiles_verifies_and_installs(engine, cache):
    _project(_work() / "source", f'exec "{engine.server}" "$@"')
    recorder = Recorder()
    with reporting_to(recorder):
        result = build()
    assert recorder.ended == [False]
    assert any("100 %" in stage for stage in recorder.stages)
    assert any("verifying" in stage for stage in recorder.stages)
    assert result.compiled_s is not None
    assert find_build() == result.build
    assert {"llama-server", "llama-bench", "llama-quantize", manifest.NAME, "LICENSE"} <= {
        path.name for path in locate.own_dir().iterdir()
    }
    # Relocatable: the program finds its library after the work directory is gone.
    assert not _work().exists()
    assert subprocess.run([locate.own_dir() / "llama-bench"], check=False).returncode == 0
    again = build()
    assert again.compiled_s is None
    assert again.build == result.build


def test_force_replaces_a_build(engine, cache):
    for text in ("first", "second"):
        _project(_work() / "source", f'# {text}\nexec "{engine.server}" "$@"')
        assert build(force=True).compiled_s is not None
        assert text in (locate.own_dir() / "llama-server").read_text()
    assert sorted(
        path.name for path in places.engines_dir().iterdir() if not path.name.endswith(".lock")
    ) == [locate.own_dir().name]


def test_result_shows_itself(engine):
    result = build()
    assert str(engine.server) in str(result)
    assert engine.version in result.to_html()
    assert result.to_dict()["build"]["identity"] == engine.identity


def test_compiler_error_is_shown(engine, cache):
    _project(_work() / "source", "exit 0", main="int main() { return undeclared_thing; }")
    recorder = Recorder()
    with reporting_to(recorder), pytest.raises(BuildError) as caught:
        build()
    assert any("undeclared_thing" in line for line in caught.value.log_tail)
    assert "build.log" in caught.value.hint
    assert "undeclared_thing" in (_work() / "build.log").read_text()
    assert recorder.ended == [True]
    _nothing_built(cache)


def test_compiled_wrongly_is_not_installed(cache):
    _project(_work() / "source", "kill -ILL $$")
    with pytest.raises(BuildError, match="SIGILL"):
        build()
    _nothing_built(cache)


def test_cache_that_cannot_be_written(cache):
    cache.write_text("a file, not a directory", encoding="utf-8")
    with pytest.raises(BuildError, match="cannot be built") as caught:
        build()
    assert "LLMLAB_CACHE_DIR" in caught.value.hint


BUILDER = """
from llmlab.builds import build
from llmlab.reporting import Reporter, set_default_reporter
class Said(Reporter):
    def stage(self, stage, detail=""): print(detail, flush=True)
    def note(self, message): print(message, flush=True)
set_default_reporter(Said())
print("compiled" if build().compiled_s is not None else "taken over", flush=True)
"""


def _builder() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _wait_for(path: Path, builder: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert builder.poll() is None, builder.communicate()[0]
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_build_leaves_nothing_that_is_taken_for_one(engine, cache, tmp_path, number):
    started, go = tmp_path / "started", tmp_path / "go"
    wait = f"touch '{started}'; while [ ! -e '{go}' ]; do sleep 0.05; done"
    _project(_work() / "source", f'exec "{engine.server}" "$@"', before=wait)
    builder = _builder()
    _wait_for(started, builder)
    children = psutil.Process(builder.pid).children(recursive=True)
    builder.send_signal(number)
    builder.communicate(timeout=30)
    assert builder.returncode
    if number == signal.SIGINT:
        assert not any(_runs(child.pid) for child in children)
    _nothing_built(cache)
    # A compiler that outlived its builder keeps the next one out until it is done.
    go.touch()
    assert build().compiled_s is not None


def test_two_builders_compile_once(engine, cache, tmp_path):
    started, go = tmp_path / "started", tmp_path / "go"
    wait = f"touch '{started}'; while [ ! -e '{go}' ]; do sleep 0.05; done"
    _project(_work() / "source", f'exec "{engine.server}" "$@"', before=wait)
    first = _builder()
    _wait_for(started, first)
    second = _builder()
    assert second.stdout is not None
    said = second.stdout.readline()
    go.touch()
    assert first.communicate(timeout=60)[0].splitlines()[-1] == "compiled"
    rest = second.communicate(timeout=60)[0]
    assert "waiting for another process" in said
    assert rest.splitlines()[-1] == "taken over"


def test_missing_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(EngineMissingError, match=r"C\+\+ compiler") as caught:
        toolchain.find_tools()
    assert any(word in caught.value.hint for word in ("apt-get install", "dnf install", "xcode-select"))


def test_missing_cmake(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "c++")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with pytest.raises(EngineMissingError, match="cmake and ninja") as caught:
        toolchain.find_tools()
    assert "pip install cmake ninja" in caught.value.hint


def test_flags_leave_out_what_the_cpu_lacks():
    old = {"sse4_2", "avx"}
    assert toolchain.cpu_flags("x86_64", old) == (
        "-DGGML_AVX2=OFF",
        "-DGGML_BMI2=OFF",
        "-DGGML_FMA=OFF",
        "-DGGML_F16C=OFF",
    )
    assert toolchain.cpu_flags("x86_64", old | {"avx2", "bmi2", "fma", "f16c", "amx_int8"}) == ()
    assert toolchain.cpu_flags("aarch64", {"asimd"}) == ()
    assert toolchain.cpu_flags("aarch64", {"asimddp", "fphp", "asimdhp"}) == (
        "-DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16",
    )


def test_jobs_can_be_set(monkeypatch):
    monkeypatch.setenv("CMAKE_BUILD_PARALLEL_LEVEL", "3")
    assert toolchain.jobs() == 3
    monkeypatch.setenv("CMAKE_BUILD_PARALLEL_LEVEL", "many")
    assert toolchain.jobs() >= 1


def test_progress_line():
    assert compiling.progress(99, 220, 180.0) == "compiling llama.cpp 45 % (99 of 220, about 4 min left)"
    assert compiling.progress(2, 220, 1.0) == "compiling llama.cpp 0 % (2 of 220)"
    assert (
        compiling.progress(220, 220, 300.0) == "compiling llama.cpp 100 % (220 of 220, a minute left at most)"
    )


def test_error_lines_prefer_what_went_wrong():
    lines = ["[1/2] a", "x.cpp:1:2: error: no", *[f"note {i}" for i in range(50)], "ninja: build stopped."]
    assert compiling.error_lines(lines) == ["x.cpp:1:2: error: no"]
    assert compiling.error_lines(["one", "", "two"]) == ["one", "two"]
    cmake = ['  Target "ggml-cuda" links to:', "", "    CUDA::cublas", "", "  but the target was not found."]
    assert compiling.error_lines(cmake) == ["    CUDA::cublas", "  but the target was not found."]


# --- the source -----------------------------------------------------------------


def _archive(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 2
            tar.addfile(member, io.BytesIO(b"x\n"))
    return path


def test_only_llama_cpp_is_unpacked(tmp_path):
    top = f"llama_cpp_python-{source.VERSION}"
    names = [f"{top}/setup.py", f"{top}/vendor/llama.cpp/CMakeLists.txt", f"{top}/vendor/llama.cpp/docs/a.md"]
    source.unpack(_archive(tmp_path / "a.tar.gz", names), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["CMakeLists.txt"]


def test_archive_cannot_leave_its_directory(tmp_path):
    name = f"llama_cpp_python-{source.VERSION}/vendor/llama.cpp/../../../evil"
    with pytest.raises(BuildError, match="outside"):
        source.unpack(_archive(tmp_path / "a.tar.gz", [name]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("evil"))


def test_other_contents_are_refused_by_pip(cache, tmp_path, monkeypatch):
    """An index that offers another file under the pinned name."""
    index = tmp_path / "index"
    index.mkdir()
    _archive(index / source.ARCHIVE, [f"llama_cpp_python-{source.VERSION}/PKG-INFO"])
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    with pytest.raises(BuildError, match="pip could not get") as caught:
        source.tree(tmp_path)
    assert "hash" in str(caught.value).lower()
    assert not (tmp_path / "source").exists()


# --- where things are kept --------------------------------------------------------


def test_cache_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMLAB_CACHE_DIR", str(tmp_path / "own"))
    assert runtime.cache_dir() == tmp_path / "own"
    monkeypatch.delenv("LLMLAB_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert runtime.cache_dir() == tmp_path / "llmlab"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert runtime.cache_dir() == Path.home() / ".cache" / "llmlab"


def test_every_failure_is_one_of_ours(cache):
    """Somebody who catches LabError catches all of this."""
    with pytest.raises(LabError):
        find_build()


def test_verb_is_what_the_package_exports():
    import llmlab  # noqa: PLC0415 - the lazy attribute is what is tested

    assert llmlab.build is verb.build
