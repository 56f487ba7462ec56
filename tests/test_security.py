"""What `SECURITY.md` promises of llmlab itself and no other file shows: files, keys, source, and doors.

The isolation of servers is in test_isolation.py and test_audit.py, the gate byte by byte in
test_relay.py, what a model writes in test_safe_output.py.
"""

from __future__ import annotations

import ast
import http.client
import json
import os
import re
import stat
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import create_connection

import nbformat
import psutil
import pytest
from nbclient import NotebookClient

import llmlab
from llmlab import runtime
from llmlab.backends import docker_api, labels
from tests.conftest import REPOSITORY, run_cli

SOURCE = REPOSITORY / "src" / "llmlab"
SECRET = "hf_of-the-test-0123456789"  # noqa: S105 - a made-up one


@contextmanager
def open_umask():
    """As on a machine where new files are for everybody."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    """Directories that others may enter: what lies in the others, nobody else gets to."""
    found = []
    for path in [folder, *sorted(folder.rglob("*"))]:
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode) and mode & 0o077:
            found.append(f"{path} {mode & 0o777:o}")
    return found


# Files


def test_nobody_else_gets_to_what_is_kept_of_servers_whatever_the_umask(require_engine, isolated_runtime):
    with open_umask(), llmlab.start("tiny", backend="native") as server:
        server.ask("hi", max_tokens=40, seed=1)
        assert open_to_others(isolated_runtime) == []
        record = isolated_runtime / server.name / runtime.RECORD
        assert record.stat().st_mode & 0o777 == 0o600


def test_nobody_else_gets_to_what_a_learner_has_predicted_whatever_the_umask(monkeypatch, tmp_path):
    from llmlab.weights import rates  # noqa: PLC0415 - only here
    from llmlab.workshop import keeping  # noqa: PLC0415 - only here

    monkeypatch.setenv("LLMLAB_STATE_DIR", str(tmp_path / "share" / "llmlab"))
    with open_umask():
        keeping.change("02", "ready", predicted=3)
        rates.save(rates.Rates(threads=1, engine="e", cpu="c", measured="2026-01-01"))
    assert (tmp_path / "share/llmlab/workshop/02.json").exists()
    assert open_to_others(tmp_path / "share" / "llmlab") == []


# Keys

CELLS = """%load_ext llmlab
server = llmlab.start("tiny", name="k", backend="container", expose=0)
server.inspect()
server.ask("What is a container?", max_tokens=3)
%llm ps
%llm inspect k --json
%llm logs k
server
server.openai_kwargs()
server.api_key
%xmode Verbose
def outer(key, kwargs):
    server.ask("hi", max_tokens=-5, timeout_s=-1)
outer(server.api_key, server.openai_kwargs())
server.record
"""


def cells() -> list[str]:
    lines = CELLS.splitlines()
    ask = lines.index("def outer(key, kwargs):")
    return ["import llmlab", *lines[:ask], "\n".join(lines[ask : ask + 3]), *lines[ask + 3 :]]


@pytest.mark.usefixtures("require_engine", "require_docker")
def test_a_key_stands_in_no_notebook_json_label_argument_or_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells()])
    client = NotebookClient(notebook, timeout=200, kernel_name="python3", allow_errors=True)
    monkeypatch.setenv("JPY_PARENT_PID", str(os.getpid()))
    with client.setup_kernel():
        for number, cell in enumerate(notebook.cells):
            client.execute_cell(cell, number)
        record = json.loads((runtime.runtime_dir() / "k" / runtime.RECORD).read_text())
        key = Path(record["endpoint"]["key_file"]).read_text().strip()
        api = docker_api.connect()
        containers = [
            json.dumps(api.container(e["Id"])) for e in api.containers(f"{labels.USER}={runtime.scope()}")
        ]
        processes = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
        told = {
            "the notebook": nbformat.writes(notebook),
            "inspect --json": run_cli("inspect", "k", "--json", check=False).stdout,
            "ps --json": run_cli("ps", "--json").stdout,
            "a dry run": run_cli("start", "tiny", "--container", "--dry-run").stdout,
            "logs": run_cli("logs", "k").stdout,
            "containers": "".join(containers),
            "arguments": "\n".join(" ".join(line) for line in processes),
            "the record": json.dumps(record),
        }
        run_cli("stop", "k")
    assert len(key) > 30
    assert [where for where, text in told.items() if not text] == []
    assert len(containers) == 2, "the server and its gate"
    errors = [out for cell in notebook.cells for out in cell.get("outputs", ()) if out.output_type == "error"]
    assert [error.ename for error in errors] == ["UsageError"], [error.evalue for error in errors]
    assert [where for where, text in told.items() if key in text or SECRET in text] == []


def test_a_native_engine_gets_nothing_of_the_environment_but_what_it_needs(require_engine, monkeypatch):
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, SECRET)
    with llmlab.start("tiny", backend="native") as server:
        assert server.record.process
        process = psutil.Process(server.record.process.pid)
        assert SECRET not in " ".join(process.cmdline())
        assert SECRET not in json.dumps(process.environ())


# The endpoint for other tools, with the engine behind it


def headers_of(port: int | None, method: str, **headers: str) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port or 0, timeout=30)
    try:
        connection.request(method, "/v1/models", headers=headers)
        with connection.getresponse() as response:
            response.read()
            return response.status, {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()


@pytest.mark.usefixtures("require_engine", "require_docker")
def test_no_web_page_is_let_in_by_the_engine_behind_the_gate():
    with llmlab.start("tiny", backend="container", expose=0) as server:
        port = server.record.endpoint.exposed_port
        key = {"Authorization": f"Bearer {server.api_key!s}"}
        evil = {"Origin": "https://evil.example"}
        asks = {
            **evil,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        seen = {
            "with the key": headers_of(port, "GET", **key),
            "a page of this machine": headers_of(port, "GET", **key, Origin="http://localhost:8888"),
            "without": headers_of(port, "GET"),
            "a wrong key": headers_of(port, "GET", Authorization="Bearer " + "x" * 43),
            "another origin": headers_of(port, "GET", **key, **evil),
            "a sandboxed page": headers_of(port, "GET", **key, Origin="null"),
            "a preflight": headers_of(port, "OPTIONS", **asks),
            "a preflight with the key": headers_of(port, "OPTIONS", **key, **asks),
            "another name": headers_of(port, "GET", **key, Host="evil.example"),
            "a name that leads here": headers_of(port, "GET", **key, Host=f"127.0.0.1.evil.example:{port}"),
        }
        codes = {what: status for what, (status, _) in seen.items()}
        assert codes == {
            "with the key": 200, "a page of this machine": 200, "without": 401, "a wrong key": 401,
            "another origin": 403, "a sandboxed page": 403, "a preflight": 405,
            "a preflight with the key": 405, "another name": 403, "a name that leads here": 403,
        }  # fmt: skip
        allowed = {what: headers.get("access-control-allow-origin") for what, (_, headers) in seen.items()}
        assert not [what for what, origin in allowed.items() if origin], allowed


@pytest.mark.usefixtures("require_engine", "require_docker")
def test_half_requests_do_not_keep_a_whole_one_from_its_answer():
    with llmlab.start("tiny", backend="container", expose=0) as server, ExitStack() as stack:
        port = server.record.endpoint.exposed_port
        for number in range(200):
            opened = stack.enter_context(create_connection(("127.0.0.1", port), timeout=10))
            opened.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: loc"[: number % 40])
        codes: list[int] = []
        key = {"Authorization": f"Bearer {server.api_key!s}"}
        threads = [
            threading.Thread(target=lambda: codes.append(headers_of(port, "GET", **key)[0])) for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert codes == [200] * 5
        # The way of the notebook itself does not go through that door.
        assert server.ask("hi", max_tokens=2).text


# The source

MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
    "xmlrpc",
    "telnetlib",
}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "tempfile.mktemp", "torch.load",
         "numpy.load", "np.load", "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all",
         "yaml.unsafe_load", "yaml.unsafe_load_all", "subprocess.getoutput", "subprocess.getstatusoutput"}  # fmt: skip


def dangers(source: str) -> list[str]:
    """What in a Python file could run data, or words as a shell's."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            # Of yaml it is the calls that tell: to write it runs nothing.
            found += [a.name for a in node.names if a.name.split(".")[0] in MODULES - {"yaml"}]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            shell = [word for word in node.keywords if word.arg == "shell"]
            safe = all(isinstance(word.value, ast.Constant) and word.value.value is False for word in shell)
            found += [name] if name in CALLS or not safe else []
            trusting = name.endswith(".extractall") and not any(
                word.arg == "filter" for word in node.keywords
            )
            found += [name] if trusting else []
    return found


def test_no_file_of_llmlab_runs_data_or_a_shell():
    files = sorted(SOURCE.rglob("*.py"))
    found = {str(path): dangers(path.read_text(encoding="utf-8")) for path in files}
    assert len(files) > 200
    assert {name: each for name, each in found.items() if each} == {}


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from yaml import load", "eval(x)", "exec('x')", "import os\nos.system('ls')",
     "import subprocess\nsubprocess.run('ls', shell=True)", "subprocess.run(a, shell=wanted)",
     "tar.extractall(folder)", "import numpy as np\nnp.load(path)",
     "import yaml\nyaml.load(text, Loader=yaml.Loader)"],
    ids=range(10),
)  # fmt: skip
def test_what_would_be_found(source):
    assert dangers(source)


def test_each_test_that_security_md_names_is_there():
    text = (REPOSITORY / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", text)
    assert len(named) > 10
    for file, name in named:
        source = (REPOSITORY / "tests" / file).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in source, f"{file} has no {name}"
