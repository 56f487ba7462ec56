"""TLS, the learner's side, the teacher's board, and servers that the room starts itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import openai
import pytest

import llmlab
from llmlab.classrooms import opening, places, tls
from llmlab.classrooms.joined import Room
from llmlab.errors import LabError, RequestError, ServerStoppedError, UsageError
from llmlab.workshop import keeping
from llmlab.workshop.lessons import load
from llmlab.workshop.progressing import to_hand_in
from tests.classrooms import QUESTION, opened
from tests.classrooms import room as verb
from tests.conftest import eventually, inventory, missing, run_cli

pytestmark = pytest.mark.usefixtures("require_engine")


@pytest.fixture
def server() -> Iterator[llmlab.Server]:
    with llmlab.start("tiny", backend="native") as started:
        yield started


@pytest.fixture
def openssl() -> None:
    if not shutil.which("openssl"):
        missing("openssl", "not on PATH")


@pytest.mark.usefixtures("openssl", "server")
def test_a_room_with_a_certificate_of_its_own_is_pinned_by_its_address():
    with opened("ada", self_signed=True) as room:
        there = opening.opened()
        assert there is not None
        assert room.url.startswith("https://")
        joined = Room(there.url, room.keys["ada"])
        assert joined.ask("What is a container?", max_tokens=3).completion_tokens == 3
        with openai.OpenAI(**joined.openai_kwargs()) as client:
            assert client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=2).choices
        # Without the fingerprint it is no certificate that this machine trusts, and nothing is sent.
        with pytest.raises(ServerStoppedError, match=r"certificate.*(\n.*)*whole address"):
            Room(room.url, room.keys["ada"]).usage()
        wrong = f"{room.url}/#sha256={'0' * 64}"
        with pytest.raises(LabError, match="its certificate is another one"):
            Room(wrong, room.keys["ada"]).ask("What is a container?")
        with pytest.raises(httpx.ConnectError), room.bare("ada") as strict:
            strict.get("/health")
        plain = room.url.replace("https", "http")
        with pytest.raises(httpx.HTTPError), httpx.Client(trust_env=False) as careless:
            careless.get(f"{plain}/health")
        kept = {path.suffix: path.stat().st_mode & 0o777 for path in places.folder().glob("tls-*")}
        assert kept[".key"] == 0o600
    # The next day the address is the same.
    with opened(self_signed=True):
        again = opening.opened()
        assert again is not None
        assert again.url.partition("#")[2] == there.url.partition("#")[2]


@pytest.mark.usefixtures("openssl", "server")
def test_a_certificate_of_the_schools_is_used_as_it_is(tmp_path):
    certificate, key = tls.self_signed(tmp_path, ("127.0.0.1",))
    with opened("ada", tls_cert=str(certificate), tls_key=str(key)) as room:
        context = ssl.create_default_context(cafile=certificate)
        with room.bare("ada", verify=context) as client:
            assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
    key.write_text("not a key")
    with pytest.raises(UsageError, match="no TLS certificate and its key"):
        verb("open", tls_cert=str(certificate), tls_key=str(key))


def test_what_is_no_address_or_no_key_is_said_at_once():
    for url, message in (
        ("room", "not a room's address"),
        ("ftp://a", "not a room's address"),
        ("http://ada:secret@a", "not a room's address"),
        ("http://a:99999", "not a room's address"),
        ("https://a/#sha256=12", "no fingerprint"),
    ):
        with pytest.raises(UsageError, match=message):
            Room(url, "llm-x")
    with pytest.raises(UsageError, match="no key"):
        Room("http://a", "two words")
    with pytest.raises(ServerStoppedError, match=r"does not answer(.*\n)*.*is it open"):
        Room("http://127.0.0.1:9", "llm-x").usage()


def test_what_is_no_room_is_told_from_one():
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        serving = threading.Thread(target=other.handle_request)
        serving.start()
        with pytest.raises(RequestError, match="is no classroom of llmlab"):
            Room(f"http://127.0.0.1:{other.server_port}", "llm-x").usage()
        serving.join()


@pytest.mark.usefixtures("server")
def test_the_board_shows_who_needs_help_first_and_only_what_learners_send():
    with opened("ada", "grace", "alan") as room:
        room.ask("grace", max_tokens=3)
        joined = {name: Room(room.url, room.keys[name]) for name in room.keys}
        lesson = load("01")
        keeping.change("01", lesson.tasks[0].id, tries=3, text="the server is not sealed")
        board = verb("board")
        assert [row[1] for row in board.rows()] == ["at work", "quiet", "quiet"], "progress was sent unasked"
        joined["ada"].share_progress()
        board = verb("board")
        assert [row[0] for row in board.rows()] == ["ada", "grace", "alan"]
        assert board.summary() == "3 learners, 1 stuck, 1 at work, 1 quiet"
        assert f"01 {lesson.tasks[0].id}, 3 tries: the server is not sealed" in str(board)
        assert "Where help is wanted" in board.to_html()
        # A learner's own words are nobody's markup, and another name changes nothing.
        claimed = {**to_hand_in(name="grace")}
        claimed["lessons"]["01"]["tasks"][lesson.tasks[0].id]["text"] = "<script>alert(1)</script>"
        with room.bare("alan") as client:
            assert client.post("/room/progress", json=claimed).status_code == 200
            assert client.post("/room/progress", json={"format": "x"}).status_code == 400
        html = verb("board").to_html()
        assert "<script>" not in html
        assert [row[1] for row in verb("board").rows()] == ["stuck", "stuck", "at work"]
        shown = json.loads(run_cli("classroom", "--json").stdout)
        assert {each["name"]: each["state"] for each in shown["learners"]}["ada"] == "stuck"
        assert shown["servers"][0]["slots"] == 4


@pytest.mark.usefixtures("require_docker")
def test_a_room_in_front_of_a_sealed_container():
    with llmlab.start("tiny", backend="container") as sealed, opened("ada") as room:
        assert sealed.inspect().isolation
        assert "".join(event.choices[0].delta.content or "" for event in room.stream("ada", max_tokens=5))
        # A halted container does not answer, and is not asked any more.
        subprocess.run(["docker", "pause", str(sealed.record.container_id)], check=True, capture_output=True)
        eventually(lambda: opening.board()["servers"][0]["state"] == "down", 60)
        with pytest.raises(openai.InternalServerError, match="no server with 'tiny' answers now"):
            room.ask("ada")
        subprocess.run(
            ["docker", "unpause", str(sealed.record.container_id)], check=True, capture_output=True
        )
        eventually(lambda: opening.board()["servers"][0]["state"] == "ready", 60)
        assert room.ask("ada").choices


@pytest.mark.usefixtures("require_docker")
def test_the_room_starts_approved_models_sealed_one_for_each_and_ends_them(isolated_runtime):
    with opened("ada", "grace", approve="tiny") as room:
        ada, grace = (Room(room.url, room.keys[name]) for name in ("ada", "grace"))
        with pytest.raises(RequestError, match="'big' is not approved to be started; approved: tiny"):
            ada.start("big")
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(lambda each: each.start("tiny"), (ada, grace))) == ["tiny", "tiny"]
        with pytest.raises(RequestError, match="you have a server of your own already"):
            ada.start("tiny")
        record = llmlab.attach("room-ada").record
        assert record.profile is not None
        assert (record.backend, record.profile.label) == ("container", "sealed")
        owner = opening.opened()
        assert owner is not None
        assert record.owner == owner.process
        assert ada.usage().own_server == "room-ada"
        assert ada.ask("What is a container?", max_tokens=3).text
        assert [charge.server for charge in room.charges("ada")] == ["room-ada"], "somebody else's was used"
        assert ada.stop()
        assert not ada.stop()
        assert (ada.models(), grace.models()) == ((), ("tiny",)), "somebody else's is offered"
        with pytest.raises(UsageError, match="no server 'room-ada'"):
            llmlab.attach("room-ada")
        # However it ends, the room takes its servers with it.
        os.kill(room.pid, signal.SIGTERM)
        left = [str(places.running())]
        eventually(lambda: inventory(isolated_runtime) == left, 60)
    assert inventory(isolated_runtime) == []


def test_without_the_libraries_the_line_that_installs_them_is_told(monkeypatch):
    monkeypatch.setattr("llmlab.classrooms._NEEDED", ("starlette", "no_such_library"))
    with pytest.raises(UsageError, match=r"needs no_such_library.*pip install no_such_library"):
        verb("open")


@pytest.mark.usefixtures("server")
def test_a_room_that_was_killed_is_no_room_and_the_next_one_opens():
    with opened("ada") as room:
        runtime_folder = places.running()
        process = opening.opened()
        assert process is not None
        os.kill(process.process.pid, 9)
        eventually(lambda: opening.opened() is None)
        assert runtime_folder.exists()
        with opened() as again:
            assert again.url
        assert room.charges("ada") == []
