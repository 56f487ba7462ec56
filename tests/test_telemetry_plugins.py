"""Sources that other packages bring, found as any installed package's entry points are."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmlab.lab import sources
from llmlab.telemetry.metrics import HOST
from llmlab.telemetry.plugins import GROUP, plugin_sources
from llmlab.telemetry.sampler import Sampler
from tests.conftest import eventually, run_cli

PAGE = Path(__file__).parent.parent / "docs" / "telemetry-plugins.md"

# A source as short as can be.
HEAD = """
from llmlab.telemetry.metrics import Metric
def metric(key="power", **other):
    return Metric(**{"key": key, "title": key, "unit": "W", "method": "a meter"} | other)
class Meter:
    closed = []
    def __init__(self, subject="power meter", *keys, told=42.0):
        self.subject, self.told = subject, told
        self.metrics = tuple(metric(key) for key in keys or ("power",))
    def read(self, now):
        return {metric.key: self.told for metric in self.metrics}
    def close(self):
        self.closed.append(self.subject)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Puts a distribution with a plug-in where Python looks for packages."""
    before = set(sys.modules)
    folder = tmp_path / "packages"
    folder.mkdir()

    def installed(code: str, name: str = "meter", value: str = "") -> Path:
        (folder / f"{name}_module.py").write_text(HEAD + code)
        about = folder / f"{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {value or f'{name}_module:sources'}\n")
        monkeypatch.syspath_prepend(str(folder))
        return folder

    yield installed
    for module in set(sys.modules) - before:
        if module.endswith("_module") or module in {"llmlab_amd", "amdsmi"}:
            del sys.modules[module]


def module(name: str = "meter") -> Any:
    return sys.modules[f"{name}_module"]


def test_without_plug_ins_there_is_nothing_to_say():
    assert plugin_sources() == ([], [])


def test_a_plug_in_is_found_read_and_closed(install):
    install("def sources(): return [Meter(), Meter('amd gpu 0', 'power', 'energy', told=7)]")
    found, notes = plugin_sources()
    assert notes == []
    assert [source.subject for source in found] == ["power meter", "amd gpu 0"]
    assert [metric.key for metric in found[1].metrics] == ["power", "energy"]
    assert [dict(source.read(1.0)) for source in found] == [{"power": 42.0}, {"power": 7.0, "energy": 7.0}]
    for source in found:
        source.close()
    assert module().Meter.closed == ["power meter", "amd gpu 0"]


def test_what_a_plug_in_tells_is_sampled_beside_the_rest(install):
    install("def sources(): yield Meter()")
    found = sources.of([])
    with Sampler(found, hz=20) as sampler:
        eventually(lambda: {("power meter", "power"), (HOST, "memory")} <= set(sampler.latest()))
        assert sampler.latest()["power meter", "power"] == 42.0
    assert module().Meter.closed == ["power meter"]


def test_the_command_line_shows_it(install):
    folder = install("def sources(): yield Meter()")
    done = run_cli("monitor", "--for", "0.5", env={**os.environ, "PYTHONPATH": str(folder)})
    assert "power meter" in done.stdout


@pytest.mark.parametrize(
    ("code", "note"),
    [
        ("raise ImportError('no library here')", "plug-in meter failed: ImportError: no library here"),
        ("import sys; sys.exit(3)", "plug-in meter failed: SystemExit: 3"),
        ("def other(): pass", "plug-in meter failed: AttributeError"),
        ("sources = 7", "plug-in meter failed: TypeError"),
        ("def sources(needed): pass", "plug-in meter failed: TypeError"),
        ("def sources(): pass", "plug-in meter failed: TypeError"),
        ("def sources(): raise OSError('no driver')", "plug-in meter failed: OSError: no driver"),
        ("def sources(): raise OSError('one\\ntwo')", "plug-in meter failed: OSError: one two"),
        ("class Bad(Exception):\n def __str__(self): raise OSError\nraise Bad", "plug-in meter failed: Bad"),
        ("def sources(): return [object()]", "it is no source: AttributeError"),
        ("def sources(): return [Meter(subject=7)]", "it is no source"),
        ("def sources():\n m = Meter()\n m.metrics = 7\n return [m]", "it is no source"),
        ("def sources():\n m = Meter()\n m.metrics = ['power']\n return [m]", "it is no source"),
        ("def sources():\n m = Meter()\n m.metrics = [metric(7)]\n return [m]", "it is no source"),
        ("def sources():\n m = Meter()\n m.metrics = [metric(most='x')]\n return [m]", "it is no source"),
        ("def sources():\n m = Meter()\n m.metrics = [metric(error=(1,))]\n return [m]", "it is no source"),
        ("def sources():\n m = Meter()\n m.metrics = [metric(error=7)]\n return [m]", "it is no source"),
        ("def sources():\n m = Meter()\n m.read = None\n return [m]", "it is no source"),
        ("def sources(): return [Meter('tiny')]", "'tiny' could be a server's name: a subject needs a space"),
        ("def sources(): return [Meter(' tiny')]", "could be a server's name"),
        ("def sources(): return [Meter('a \\x1b[2J')]", "could be a server's name"),
        ("def sources(): return [Meter('the machine')]", "'the machine' is what llmlab itself looks at"),
        ("def sources(): return [Meter('gpu 0')]", "'gpu 0' is what llmlab itself looks at"),
        (
            "def sources(): return [Meter('a meter', 'power', 'power')]",
            "something of 'a meter' is told twice",
        ),
    ],
)
def test_what_cannot_be_used_is_told_in_a_sentence_and_left_out(code, note, install):
    install(code)
    found, [said] = plugin_sources()
    assert found == []
    assert note in said
    assert "\n" not in said


def test_one_that_fails_does_not_take_the_others_with_it(install):
    install("def sources():\n yield Meter()\n yield Meter('tiny')\n raise OSError('no more')", "first")
    install("raise OSError('broken')", "second")
    install("def sources(): return [Meter(), Meter('other meter')]", "third")
    found, notes = plugin_sources()
    assert [source.subject for source in found] == ["power meter", "other meter"]
    assert len(notes) == 4
    assert ["first" in note for note in notes] == [True, True, False, False]
    assert "'power meter' is told twice" in notes[3]
    # What is left out is closed.
    assert module("first").Meter.closed == ["tiny"]
    assert module("third").Meter.closed == ["power meter"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise OSError('unplugged')", None),
        ("raise SystemExit", None),
        ("return None", None),
        ("return 7", None),
        ("return {}", None),
        ("return {'power': 'N/A'}", None),
        ("return {'power': True}", None),
        ("return {'power': float('nan')}", None),
        ("return {'power': float('inf')}", None),
        ("return {'power': 10 ** 400}", None),
        ("return {'power': [1]}", None),
        ("return {'power': 3, 'other': 9, 7: 8}", 3.0),
        ("from fractions import Fraction; return {'power': Fraction(7, 2)}", 3.5),
    ],
)
def test_rubbish_is_unknown_and_harms_nobody(body, told, install):
    install(f"""
class Broken(Meter):
    def read(self, now):
        {body}
    def close(self):
        raise OSError("unplugged")
def sources(): return [Broken(), Meter("other meter")]
""")
    found, _ = plugin_sources()
    with Sampler(found, hz=20) as sampler:
        eventually(lambda: sampler.latest().get(("other meter", "power")) == 42.0)
        seen = sampler.latest()
    assert {subject for subject, _ in seen} <= {"power meter", "other meter"}
    assert seen.get(("power meter", "power")) == told
    assert {key for _, key in seen} == {"power"}


def test_what_was_made_is_closed_when_ctrl_c_comes(install):
    install("def sources(): return [Meter()]", "first")
    install("def sources(): raise KeyboardInterrupt", "second")
    with pytest.raises(KeyboardInterrupt):
        plugin_sources()
    assert module("first").Meter.closed == ["power meter"]


def test_notes_reach_whoever_asks_for_the_sources(install):
    install("raise OSError('broken')")
    found, notes = sources.beside()
    for source in found:
        source.close()
    assert HOST in {source.subject for source in found}
    assert [note for note in notes if "broken" in note]


# The example of the documentation

AMDSMI = """
class AmdSmiException(Exception): pass
def amdsmi_init(): pass
def amdsmi_shut_down(): pass
def amdsmi_get_processor_handles(): return [1, 2]
def amdsmi_get_gpu_activity(handle): return {"gfx_activity": 93, "umc_activity": 20, "mm_activity": "N/A"}
def amdsmi_get_gpu_vram_usage(handle): return {"vram_total": 65520, "vram_used": 1024}
def amdsmi_get_power_info(handle): return {"socket_power": 310, "average_socket_power": "N/A"}
def amdsmi_get_energy_count(handle):
    if handle == 2: raise AmdSmiException("not supported")
    return {"energy_accumulator": 1_000_000, "counter_resolution": 15.3, "timestamp": 1}
"""


def block(language: str) -> str:
    [found] = re.findall(
        rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    return str(found)


def test_the_example_for_amd_reads_what_amdsmi_tells(install):
    """On a stand-in: the keys are those in the code of amdsmi 7.0.2."""
    entry = re.search(rf'entry-points\."{re.escape(GROUP)}"\]\namd = "(.*)"', block("toml"))
    assert entry
    folder = install("", "amd", value=entry[1])
    (folder / f"{entry[1].partition(':')[0]}.py").write_text(block("python"))
    (folder / "amdsmi.py").write_text(AMDSMI)
    found, notes = plugin_sources()
    assert notes == []
    told: dict[str, Any] = {source.subject: dict(source.read(0.0)) for source in found}
    assert told["amd gpu 0"] == {
        "utilisation": 93,
        "memory": 1024,
        "power": 310,
        "energy": pytest.approx(15.3),
    }
    assert told["amd gpu 1"]["energy"] is None
    assert told["amd gpu 1"]["power"] == 310
    for source in found:
        source.close()
