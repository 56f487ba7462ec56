"""A JupyterHub's users in place of keys; the hub is a real one, from `LLMLAB_JUPYTERHUB` or on PATH."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

import llmlab
from llmlab.classrooms import identity
from tests.classrooms import Opened, halted, opened, read_events, texts
from tests.classrooms import room as verb
from tests.conftest import eventually, missing

# No learner comes through the hub's own proxy here, which is a program for Node.js: routes go nowhere.
_CONFIG = """
from jupyterhub.proxy import Proxy

class Nowhere(Proxy):
    should_start = False
    async def add_route(self, routespec, target, data): pass
    async def delete_route(self, routespec): pass
    async def get_all_routes(self): return {{}}

c.JupyterHub.proxy_class = Nowhere
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "simple"
c.JupyterHub.db_url = "sqlite://"
c.JupyterHub.load_groups = {{"class-1": {{"users": ["ada"]}}}}
c.JupyterHub.services = [{{"name": "teacher", "api_token": "{token}"}}]
c.JupyterHub.load_roles = [
    {{"name": "teacher", "scopes": ["admin:users", "tokens", "admin:groups"], "services": ["teacher"]}},
]
"""


@dataclass
class Hub:
    """A running hub.

    Attributes:
        api: Its API.
        admin: A client with a service's token.
    """

    api: str
    admin: httpx.Client

    def token(self, name: str) -> tuple[str, str]:
        """A token of a user's, and its id."""
        self.admin.post(f"/users/{name}")
        made = self.admin.post(f"/users/{name}/tokens", json={"note": "room"}).json()
        return made["token"], made["id"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    program = os.environ.get("LLMLAB_JUPYTERHUB") or shutil.which("jupyterhub")
    if not program:
        missing("jupyterhub", "neither LLMLAB_JUPYTERHUB nor a jupyterhub on PATH")
    folder = tmp_path_factory.mktemp("hub")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    config = folder / "jupyterhub_config.py"
    config.write_text(_CONFIG.format(port=port, token=token), encoding="utf-8")
    api = f"http://127.0.0.1:{port}/hub/api"
    environment = {**os.environ, "PATH": f"{Path(program).parent}:{os.environ['PATH']}"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [program, "-f", config], cwd=folder, env=environment, stdout=log, stderr=log
        )
    try:
        with httpx.Client(base_url=api, headers={"Authorization": f"token {token}"}, timeout=20) as admin:
            eventually(lambda: process.poll() is not None or _answers(admin), 90)
            assert process.poll() is None, (folder / "log").read_text()
            yield Hub(api, admin)
    finally:
        process.terminate()
        process.wait(30)


def _answers(admin: httpx.Client) -> bool:
    try:
        return admin.get("/").is_success
    except httpx.HTTPError:
        return False


def test_users_of_a_hub_are_let_in_with_its_tokens_and_leave_with_them(hub, require_engine):
    with llmlab.start("tiny", backend="native", slots=1) as server, opened(hub=hub.api) as found:
        (ada, known_as), (grace, _) = hub.token("ada"), hub.token("grace")
        room = Opened(found.url, {"ada": ada, "grace": grace, "eve": "guessed", "odd": "gäste"})
        assert room.ask("ada").choices
        assert room.ask("grace").choices
        assert [charge.learner for charge in room.charges("ada")] == ["ada"]
        with pytest.raises(openai.AuthenticationError, match="JupyterHub does not know this token"):
            room.ask("eve")
        service = hub.admin.headers["Authorization"].partition(" ")[2]
        with pytest.raises(openai.PermissionDeniedError, match="for other users of the hub"):
            Opened(found.url, {"service": service}).ask("service")
        # A token that is taken back ends what goes on with it, once what the hub said is no longer trusted.
        body = {"messages": [{"role": "user", "content": "Go on"}], "max_tokens": 900, "stream": True}
        with (
            room.bare("ada") as client,
            client.stream("POST", "/v1/chat/completions", json={**body, "ignore_eos": True}) as response,
        ):
            events = read_events(response)
            next(event for event in events if texts(event))
            with halted(server):
                hub.admin.delete(f"/users/ada/tokens/{known_as}")
                last = list(events)[-1]
        assert last["error"]["code"] == "invalid_api_key"
        eventually(lambda: verb("board").found["servers"][0]["state"] == "ready")
        assert room.ask("grace").choices
        assert verb("board").rows()[0][0] in {"ada", "grace"}


def test_a_room_for_a_group_of_the_hub(hub, require_engine):
    with llmlab.start("tiny", backend="native"), opened(hub=hub.api, hub_groups="class-1") as found:
        room = Opened(found.url, {name: hub.token(name)[0] for name in ("ada", "grace")})
        assert room.ask("ada").choices
        with pytest.raises(openai.PermissionDeniedError, match="for other users of the hub"):
            room.ask("grace")


def test_a_hub_that_is_not_there_is_no_answer_about_anybody(require_engine):
    with llmlab.start("tiny", backend="native"), opened(hub="http://127.0.0.1:9/hub/api") as found:
        room = Opened(found.url, {"ada": "shown-by-ada"})
        said = pytest.raises(openai.InternalServerError, match="JupyterHub does not say who you are")
        with said:
            room.ask("ada")
    assert "shown" not in repr(identity.Who(name="ada", token=room.keys["ada"]))
