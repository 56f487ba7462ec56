"""Python, the notebook, and the widgets' versions that must match."""

from __future__ import annotations

import re

from llmlab.checkup import versions
from llmlab.checkup.checks.base import Check, Finding, absent, assessed, fail, ok, unknown, warning
from llmlab.checkup.facts import Facts

_LEAST_PYTHON = (3, 10)
_NEEDED = ("docker", "psutil", "huggingface-hub", "nvidia-ml-py")
# The generation of ipywidgets → that of its part in JupyterLab.
_WIDGETS = {"8": "3", "7": "1"}


def _python(facts: Facts) -> Finding:
    version = str(facts.python.get("version", ""))
    if not version:
        return unknown("its version is not known")
    seen = f"{version}, {facts.python.get('executable', '')}"
    found = versions.key(version)
    if found and found[0][:2] < _LEAST_PYTHON:
        return fail(f"{seen}: llmlab needs 3.10 or newer", "python3.12 -m venv .venv")
    return ok(seen)


def _packages(facts: Facts) -> Finding:
    if not facts.packages:
        return unknown("no package says which version it is", "pip install llmlab")
    missing = [name for name in _NEEDED if name not in facts.packages]
    there = ", ".join(f"{name} {facts.packages[name]}" for name in _NEEDED if name in facts.packages)
    if missing:
        return fail(f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return ok(there)


def _place(facts: Facts) -> Finding:
    names = facts.variables
    if facts.hosted:
        return ok(f"{facts.hosted}: no containers there, and all is lost when the session ends")
    hub = ", on a JupyterHub" if "JUPYTERHUB_USER" in names else ""
    if facts.python.get("kernel"):
        if "VSCODE_PID" in names or "VSCODE_CWD" in names:
            return ok(f"a notebook in VS Code{hub}")
        return ok(f"a notebook{hub}")
    return ok("a terminal" + (" of VS Code" if "VSCODE_PID" in names or "VSCODE_CWD" in names else ""))


def _lab(facts: Facts) -> Finding:
    server = _server_packages(facts)
    version = server.get("jupyterlab") or facts.packages.get("jupyterlab")
    if not version:
        if facts.hosted or facts.python.get("kernel"):
            return absent("not JupyterLab")
        return absent("not installed (pip install 'llmlab[lab]')")
    found = versions.key(version)
    if found and found[0] < (4, 4):
        return warning(
            f"{version}: llmlab is made for 4.4 and newer",
            "pip install --upgrade 'jupyterlab>=4.6.2'",
            why="",
        )
    return assessed("jupyterlab", version, "pip install --upgrade 'jupyterlab>=4.6.2'")


def _jupyter_server(facts: Facts) -> Finding:
    version = _server_packages(facts).get("jupyter-server") or facts.packages.get("jupyter-server")
    if not version:
        return absent("not installed")
    return assessed("jupyter-server", version, "pip install --upgrade 'jupyter-server>=2.20'")


def _notebook(facts: Facts) -> Finding:
    version = _server_packages(facts).get("notebook") or facts.packages.get("notebook")
    if not version:
        return absent("Jupyter Notebook is not installed")
    found = versions.key(version)
    if found and found[0] < (7,):
        return warning(
            f"{version}: it has none of JupyterLab's colours and widgets",
            "pip install --upgrade 'notebook>=7'",
        )
    return ok(version)


def _widgets(facts: Facts) -> Finding:
    ours = facts.packages.get("ipywidgets")
    if not ours:
        return absent("ipywidgets is not installed (pip install 'llmlab[lab]')")
    server = _server_packages(facts)
    theirs = (server or facts.packages).get("jupyterlab_widgets")
    where = " in the notebook server's environment" if server else ""
    if not theirs:
        return fail(
            f"ipywidgets {ours} here, and no jupyterlab_widgets{where}",
            f"{_pip(facts)} install jupyterlab_widgets",
        )
    seen = f"ipywidgets {ours}, jupyterlab_widgets {theirs}{where}"
    wanted = _WIDGETS.get(ours.split(".", 1)[0])
    if wanted and theirs.split(".", 1)[0] != wanted:
        return fail(
            f"{seen}: it must be {wanted}.x", f"{_pip(facts)} install 'jupyterlab_widgets=={wanted}.*'"
        )
    return ok(seen)


def _anywidget(facts: Facts) -> Finding:
    ours = facts.packages.get("anywidget")
    if not ours:
        return absent("not installed; llmlab needs none")
    server = _server_packages(facts)
    theirs = server.get("anywidget") if server else ours
    if not theirs:
        return fail(
            f"anywidget {ours} here, and none in the notebook server's environment",
            f"{_pip(facts)} install anywidget=={ours}",
        )
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        return fail(
            f"anywidget {ours} here, {theirs} in the notebook server's environment",
            f"{_pip(facts)} install anywidget=={ours}",
        )
    return ok(ours)


def _kernel(facts: Facts) -> Finding:
    if "JPY_PARENT_PID" not in facts.variables:
        return absent("no notebook server has started this Python")
    server = facts.python.get("server")
    if not server:
        return unknown("the notebook server's environment cannot be told from here")
    prefixes, ours = list(server.get("prefixes") or ()), str(facts.python.get("prefix"))
    if ours in prefixes:
        return ok(f"the notebook server and this kernel share {ours}")
    return warning(
        f"the notebook server runs in {prefixes[0]}, this kernel in {ours}",
        f"{_pip(facts)} install jupyterlab_widgets",
        why="widgets have a part in each: the server's environment needs jupyterlab_widgets, in a version that matches",
    )


def _binding(facts: Facts) -> Finding:
    version = facts.packages.get("llama-cpp-python")
    if not version:
        return absent("not installed")
    return assessed("llama-cpp-python", version, "pip install --upgrade llama-cpp-python")


def _server_packages(facts: Facts) -> dict[str, str]:
    """What is installed beside the notebook server, where that is another environment."""
    server = facts.python.get("server") or {}
    if str(facts.python.get("prefix")) in (server.get("prefixes") or ()):
        return {}
    return dict(server.get("packages") or {})


def _pip(facts: Facts) -> str:
    """The pip of the environment that the notebook server runs in."""
    server = facts.python.get("server") or {}
    prefixes = [path for path in server.get("prefixes") or () if path != facts.python.get("prefix")]
    return (
        f"{re.sub(r'/$', '', prefixes[0])}/bin/python -m pip"
        if prefixes and _server_packages(facts)
        else "pip"
    )


CHECKS = (
    Check("Python", "llmlab is a package of it", _python, ("python",)),
    Check("packages", "llmlab is made of them", _packages, ("packages",)),
    Check("where", "what is shown differs from one to the other", _place),
    Check("JupyterLab", "", _lab, ("packages", "python")),
    Check("Jupyter server", "", _jupyter_server, ("packages", "python")),
    Check("Notebook", "", _notebook, ("packages", "python")),
    Check(
        "widgets",
        "a widget whose two parts differ shows nothing, or an error",
        _widgets,
        ("packages", "python"),
    ),
    Check(
        "anywidget",
        "a widget whose two parts differ shows nothing, or an error",
        _anywidget,
        ("packages", "python"),
    ),
    Check("kernel and server", "", _kernel, ("python",)),
    Check("llama-cpp-python", "", _binding, ("packages",)),
)
