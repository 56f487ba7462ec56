"""Results as pandas data frames."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest

from llmlab.auditing.results import Attempt, Audit, AuditComparison, Finding
from llmlab.checkup.facts import Facts
from llmlab.checkup.rows import Diagnosis, Row
from llmlab.errors import UsageError
from llmlab.library.listing import Question, listed
from llmlab.render import frames
from llmlab.results import ServerList, ServerStatus, Usage
from llmlab.weights.fit import Setting
from tests import comparing_examples

STATUS = ServerStatus(
    name="a",
    model="tiny",
    engine="llama-server",
    backend="native",
    state="ready",
    detail="",
    uptime_s=1.5,
    endpoint="unix:/x",
    context=512,
    slots=4,
    isolation="none",
)
FINDING = Finding(
    id="N1",
    title="reach the internet",
    group="network",
    severity="high",
    cis="",
    meaning="it could call home",
    verdict="pass",
    attempted="connect",
    observed="refused",
    attempts=(Attempt(text="x", succeeded=False, observed="", control=True),),
)


@pytest.fixture
def pandas() -> Any:
    return pytest.importorskip("pandas")


def types(frame: Any) -> dict[str, str]:
    return {name: str(kind).lower() for name, kind in frame.dtypes.items()}


def test_servers_are_rows_and_what_is_not_known_is_no_number(pandas):
    usage = Usage(cpus=0.5, memory_mib=None, gpu_memory_mib=None, tokens_per_s=7)
    frame = ServerList((replace(STATUS, usage=usage), replace(STATUS, name="b"))).to_frame()
    assert list(frame["name"]) == ["a", "b"]
    assert types(frame)["name"].startswith("str")
    assert types(frame)["context"] == "int64"
    assert types(frame)["uptime_s"] == types(frame)["tokens_per_s"] == "float64"
    assert frame["cpus"].isna().tolist() == [False, True]
    assert frame["memory_mib"].isna().all()
    assert frame["tokens_per_s"].sum() == 7


def test_a_list_of_nothing_has_the_columns_with_their_types(pandas):
    empty, full = ServerList(()).to_frame(), ServerList((STATUS,)).to_frame()
    assert len(empty) == 0
    assert types(empty) == types(full)


def test_models_are_rows_with_what_they_need_here(pandas):
    asked = Question(setting=Setting(context=512, slots=1), default_context=False, limit_mib=None)
    # Not `models(fit=True)`, which measures this machine first.
    plain, fitted = listed(None, "nothing").to_frame(), listed(asked, "nothing").to_frame()
    assert types(plain) == types(fitted)
    assert plain["required_mib"].isna().all()
    tiny = fitted[fitted["name"] == "tiny"].iloc[0]
    assert tiny["state"] == "built-in"
    assert tiny["required_mib"] > 0
    assert tiny["fits"] == "fits"
    assert fitted["decode_tokens_per_s"].isna().all(), "this machine was not measured"
    assert types(fitted)["file_bytes"] == "int64"
    assert types(fitted)["synthetic"] == "boolean"


def test_each_measured_request_of_a_comparison_is_a_row(pandas):
    seen = comparing_examples.comparison()
    frame = seen.to_frame()
    card = seen.card
    assert len(frame) == sum(len(block.requests) for block in (*card.aa, *card.blocks))
    assert set(frame["phase"]) == {"a/a", "a/b"}
    request = card.blocks[0].requests[0]
    row = frame[frame["phase"] == "a/b"].iloc[0]
    assert (row["block"], row["arm"], row["tokens"]) == (card.blocks[0].number, request.arm, request.tokens)
    for key, value in request.values.items():
        assert row[key] == pytest.approx(value)
        assert types(frame)[key] == "float64"
    assert types(frame)["block"] == "int64"


def test_each_check_of_an_audit_is_a_row(pandas):
    audit = Audit(
        server="a", isolation="sealed", engine="x", findings=(FINDING, replace(FINDING, id="N2", ms=3))
    )
    frame = audit.to_frame()
    assert list(frame.columns[:2]) == ["server", "id"]
    assert frame["verdict"].tolist() == ["pass", "pass"]
    assert frame["ms"].isna().tolist() == [True, False]
    assert "attempts" not in frame
    both = AuditComparison((audit, replace(audit, server="b"))).to_frame()
    assert both["server"].tolist() == ["a", "a", "b", "b"]
    assert list(both.columns) == list(frame.columns)


def test_each_thing_that_the_doctor_looked_at_is_a_row(pandas):
    rows = (
        Row(group="system", name="disk", state="fail", seen="full", fix=("rm x", "df")),
        Row(group="system", name="kernel", state="ok", seen="6.1"),
    )
    frame = Diagnosis(rows=rows, facts=Facts()).to_frame()
    assert frame["state"].tolist() == ["fail", "ok"]
    assert frame["fix"].tolist() == ["rm x\ndf", ""]


def test_without_pandas_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="pip install pandas"):
        ServerList(()).to_frame()
    with pytest.raises(UsageError, match="pip install pandas"):
        frames.pandas()
