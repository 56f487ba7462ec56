"""What a click in the panel begins, without a page: jobs that go on by themselves, and can be ended."""

from __future__ import annotations

import threading

import pytest

import llmlab
from llmlab.notebook.panel_desk import Desk
from llmlab.notebook.panel_jobs import Job
from llmlab.notebook.panel_reading import Reading
from llmlab.paneling import Form, running
from llmlab.verbs import VERBS, Call
from tests.conftest import eventually, run_cli

# Takes a while to load.
SLOW = "synthetic:llama-3.2-1b:Q4_0"


def job(verb: str, **arguments: object) -> Job:
    return Job(Call(VERBS[verb], arguments), "", lambda: None).launch()


def names() -> list[str]:
    return [server.name for server in running()]


def desk() -> Desk:
    return Desk(lambda: None)


def test_a_start_shows_its_stages_and_ends_with_a_server(require_engine):
    made = job("start", model="tiny", backend="native")
    made.join(60)
    view = made.view()
    assert (view["state"], view["error"], view["magic"]) == ("done", None, "%llm start tiny --native")
    assert "load" in view["progress"]
    assert names() == ["tiny"]


@pytest.mark.parametrize("place", ["native", "container"])
def test_a_start_that_is_cancelled_while_it_loads_leaves_nothing(
    place, require_engine, require_docker, isolated_runtime
):
    made = job("start", model=SLOW, backend=place)
    eventually(lambda: made._at == "load", within_s=120)
    made.cancel()
    made.join(60)
    assert made.view()["state"] == "cancelled"
    assert names() == []
    assert [path.name for path in isolated_runtime.iterdir() if path.name != ".lock"] == []


def test_a_start_that_is_cancelled_at_once_leaves_nothing(require_engine):
    made = Job(Call(VERBS["start"], {"model": "tiny", "backend": "native"}), "", lambda: None)
    made.launch().cancel()
    made.join(60)
    # Whichever came first: it says what is so.
    assert names() == (["tiny"] if made.view()["state"] == "done" else [])
    assert made.view()["state"] in {"done", "cancelled"}


def test_an_error_is_told_in_plain_words_with_what_would_mend_it(require_engine, require_docker):
    made = job("start", model="tiny", backend="container", memory="30m")
    made.join(60)
    error = made.view()["error"]
    assert made.view()["state"] == "failed"
    assert "needs" in error["message"]
    assert error["remedy"]
    assert "Traceback" not in str(made.view())


def test_what_a_log_says_is_escaped(require_engine):
    llmlab.start("tiny", name="a", backend="native")
    made = job("logs", name="a")
    made.join(60)
    assert "<pre" in made.view()["html"]
    assert "<script" not in made.view()["html"]


def test_two_starts_at_once_are_one(require_engine):
    here = desk()
    for _ in range(2):
        here.start(Form({"model": "tiny", "backend": "native"}))
    eventually(lambda: here.shown()["starting"]["state"] == "done")
    assert names() == ["tiny"]


def test_a_form_that_cannot_be_read_is_a_remark():
    here = desk()
    here.start(Form({"model": "tiny", "context": "x"}))
    assert "context" in here.shown()["remarks"][0]
    here.dismiss(here.shown()["remarks"][0])
    assert here.shown()["remarks"] == []


def test_a_server_stopped_from_here_is_not_remarked_and_one_stopped_elsewhere_is(require_engine):
    here, reading = desk(), Reading()
    for name in ("mine", "theirs"):
        llmlab.start("tiny", name=name, backend="native")
    reading.read_servers()
    here.run("stop", next(each for each in reading.servers if each["name"] == "mine"))
    eventually(lambda: not here.shown()["stopping"])
    run_cli("stop", "theirs")
    gone, changed = reading.read_servers()
    assert changed
    for server in gone:
        here.gone(server)
    assert here.shown()["remarks"] == ["theirs was stopped elsewhere: in another cell, panel or terminal."]


def test_the_same_result_asked_again_takes_the_place_of_the_first(require_engine):
    here, reading = desk(), Reading()
    llmlab.start("tiny", name="a", backend="native")
    reading.read_servers()
    for _ in range(2):
        here.run("logs", reading.servers[0])
        eventually(lambda: here.shown()["results"][0]["state"] == "done")
    (result,) = here.shown()["results"]
    here.close(result["id"])
    assert here.shown()["results"] == []
    assert names() == ["a"]


def test_a_server_of_the_same_name_that_came_later_is_another(require_engine):
    reading = Reading()
    llmlab.start("tiny", name="a", backend="native")
    reading.read_servers()
    llmlab.stop("a")
    llmlab.start("tiny", name="a", backend="native")
    gone, changed = reading.read_servers()
    assert [each["name"] for each in gone] == ["a"]
    assert changed
    assert reading.servers[0]["created"] > gone[0]["created"]


def test_figures_are_read_and_the_last_minute_kept_until_it_is_closed(require_engine):
    reading = Reading()
    llmlab.start("tiny", name="a", backend="native")
    reading.read_servers()
    first = eventually(reading.figures)
    later = eventually(lambda: (found := reading.figures()) and found["rows"]["a"][0] is not None and found)
    assert later["at"] > first["at"]
    assert later["rows"]["a"][1] > 5
    assert len(reading.history()["rows"]["a"]) >= 2
    reading.close()
    assert reading.history()["rows"] == {}
    assert not [thread for thread in threading.enumerate() if thread.name == "llmlab sampler"]


def test_without_servers_nothing_is_sampled():
    reading = Reading()
    reading.read_servers()
    assert reading.figures() is None
    assert not [thread for thread in threading.enumerate() if "sampler" in thread.name]


def test_a_container_engine_that_is_gone_is_said_and_the_rest_still_shown(
    require_engine, monkeypatch, tmp_path
):
    reading = Reading()
    llmlab.start("tiny", name="a", backend="native")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    reading.read_servers()
    reading.read_machine()
    assert [each["name"] for each in reading.servers] == ["a"]
    assert reading.known["conditions"][0]["word"] == "no engine"
