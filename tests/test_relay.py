"""The relay's program itself, run on this machine: its gate, and those who try to get past it."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from llmlab.builds import static
from llmlab.errors import LabError
from tests.conftest import eventually, missing

KEY = "k" * 43
PLAIN = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        return static.program("relay")
    except LabError as error:
        missing("compiler", str(error))


class Engine:
    """Takes one request for each connection, keeps it, and answers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: list[bytes] = []
        self.closed = 0
        self.hold = threading.Event()
        self.hold.set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(100)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(peer,), daemon=True).start()

    def _answer(self, peer: socket.socket) -> None:
        with peer:
            data = b""
            while b"\r\n\r\n" not in data:
                piece = peer.recv(65536)
                if not piece:
                    self.closed += 1
                    return
                data += piece
            head, _, body = data.partition(b"\r\n\r\n")
            size = re.search(rb"content-length: *(\d+)", head.lower())
            while size and len(body) < int(size[1]):
                body += peer.recv(65536)
            self.seen.append(head + b"\r\n\r\n" + body)
            try:
                peer.sendall(PLAIN.encode()[:-2])
                if not self.hold.is_set():
                    # As while generating: whether the client has gone shows here.
                    self.closed += peer.recv(1) == b""
                    return
                peer.sendall(b"ok")
            except OSError:
                self.closed += 1

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def engine() -> Iterator[Engine]:
    with (
        tempfile.TemporaryDirectory(prefix="llm-") as folder,
        closing(Engine(Path(folder) / "e.sock")) as made,
    ):
        yield made


@contextmanager
def running(program: Path, *words: str) -> Iterator[int]:
    """The relay in a mode that listens; yields its port."""
    command = [str(program), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            said = process.stdout.readline()
            found = re.search(r"listening at \S+, port (\d+)", said)
            assert found, said
            yield int(found[1])
        finally:
            process.terminate()
            assert process.wait() == 0


@pytest.fixture
def gate(program: Path, engine: Engine, tmp_path: Path) -> Iterator[int]:
    key = tmp_path / "key"
    key.write_text(KEY + "\n")
    with running(program, "gate", "127.0.0.1:0", str(engine.path), str(key), "1000") as port:
        yield port


def send(port: int, data: bytes, *, wait_s: float = 10) -> bytes:
    """Send bytes, and read to the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait_s) as opened:
        opened.sendall(data)
        answer = b""
        while piece := opened.recv(65536):
            answer += piece
        return answer


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


GOOD = ("Host: localhost:8080", f"Authorization: Bearer {KEY}")


def request(*headers: str, line: str = "GET /health HTTP/1.1", body: str = "") -> bytes:
    return ("\r\n".join((line, *headers)) + "\r\n\r\n" + body).encode("latin-1")


def test_a_request_with_the_key_is_passed_on_without_it(gate, engine):
    answer = send(gate, request(*GOOD, "Origin: http://localhost:3000", "Cookie: a=b", "X-Other: yes"))
    assert answer == PLAIN.encode()
    (seen,) = engine.seen
    assert KEY.encode() not in seen
    assert b"Origin" not in seen
    assert b"Cookie" not in seen
    assert b"X-Other: yes\r\n" in seen
    assert b"\r\nHost: localhost\r\nConnection: close\r\n\r\n" in seen


def test_a_body_is_passed_on_to_its_end_and_no_further(gate, engine):
    body = json.dumps({"prompt": "x" * 300_000})
    second = request("Host: evil", line="GET /secret HTTP/1.1").decode()
    line = "POST /v1/chat/completions HTTP/1.1"
    answer = send(gate, request(*GOOD, f"Content-Length: {len(body)}", line=line, body=body + second))
    assert status(answer) == 200
    (seen,) = engine.seen
    assert seen.endswith(body.encode())
    assert b"secret" not in seen


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:65535", "[::1]:80"])
def test_names_of_this_machines_loopback(gate, host):
    assert status(send(gate, request(f"Host: {host}", GOOD[1]))) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "localhost:80:80",
        "localhost:",
        "",
        "192.168.0.1",
        "127.0.0.2",
        "localhost@evil",
        "localhost:123456",
        "xlocalhost",
        "[::1]evil",
    ],
)
def test_another_name_is_refused(gate, engine, host):
    assert status(send(gate, request(f"Host: {host}", GOOD[1]))) == 403
    assert engine.seen == []


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "",
        "http://localhost.evil.example",
        "http://localhost@evil.example",
        "file://",
        "http://127.0.0.1.evil.example:80",
        "http://",
        "chrome-extension://localhost",
    ],
)
def test_a_page_of_another_origin_is_refused_even_with_the_key(gate, engine, origin):
    answer = send(gate, request(*GOOD, f"Origin: {origin}"))
    assert status(answer) == 403
    assert b"Access-Control" not in answer
    assert engine.seen == []


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("Authorization: Bearer ",),
        ("Authorization: Bearer wrong",),
        (f"Authorization: Bearer {KEY[:-1]}",),
        (f"Authorization: Bearer {KEY}x",),
        (f"Authorization: Basic {KEY}",),
        (f"Authorization: {KEY}",),
        (f"X-Api-Key: {KEY}",),
        (f"Proxy-Authorization: Bearer {KEY}",),
    ],
)
def test_without_the_key_nothing_is_passed_on(gate, engine, headers):
    answer = send(gate, request(GOOD[0], *headers))
    assert status(answer) == 401
    assert b"WWW-Authenticate: Bearer" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == 401
    assert engine.seen == []


SMUGGLED = {
    "two hosts": request(*GOOD, "Host: localhost"),
    "two keys": request(*GOOD, GOOD[1]),
    "two lengths": request(*GOOD, "Content-Length: 0", "Content-Length: 0"),
    "two origins": request(*GOOD, "Origin: http://localhost", "Origin: http://localhost"),
    "a list of lengths": request(*GOOD, "Content-Length: 0, 5"),
    "a signed length": request(*GOOD, "Content-Length: +5"),
    "a negative length": request(*GOOD, "Content-Length: -1"),
    "a hexadecimal length": request(*GOOD, "Content-Length: 0x5"),
    "an endless length": request(*GOOD, "Content-Length: " + "9" * 40),
    "no length": request(*GOOD, "Content-Length: "),
    "chunks": request(*GOOD, "Transfer-Encoding: chunked", body="0\r\n\r\n"),
    "chunks and a length": request(
        *GOOD, "Content-Length: 5", "Transfer-Encoding: chunked", body="0\r\n\r\n"
    ),
    "a space before the colon": request(*GOOD, "Content-Length : 5"),
    "a folded line": request(*GOOD, "X-A: b", " Transfer-Encoding: chunked"),
    "a bare line feed": request(*GOOD, "X-A: b\nTransfer-Encoding: chunked"),
    "a bare carriage return": request(*GOOD, "X-A: b\rTransfer-Encoding: chunked"),
    "line feeds only": request(*GOOD).replace(b"\r\n", b"\n"),
    "a zero byte": request(*GOOD, "X-A: b\0c"),
    "a control character": request(*GOOD, "X-A: b\x0bc"),
    "a header without a name": request(*GOOD, ": b"),
    "a header without a colon": request(*GOOD, "X-A"),
    "another target's host": request(*GOOD, line="GET http://evil.example/ HTTP/1.1"),
    "a tunnel": request(*GOOD, line="CONNECT localhost:80 HTTP/1.1"),
    "another method": request(*GOOD, line="OPTIONS / HTTP/1.1"),
    "a target in two words": request(*GOOD, line="GET /a b HTTP/1.1"),
    "a tab": request(*GOOD, line="GET\t/ HTTP/1.1"),
    "another version": request(*GOOD, line="GET / HTTP/2.0"),
    "no version": request(*GOOD, line="GET /"),
    "an empty line first": b"\r\n" + request(*GOOD),
    "an empty request": b"\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200,
}


@pytest.mark.parametrize("what", SMUGGLED)
def test_what_two_readers_may_read_in_two_ways_is_refused(gate, engine, what):
    assert status(send(gate, SMUGGLED[what])) in {400, 405, 411}
    assert engine.seen == []


def test_a_head_without_an_end_is_cut_off(gate, engine):
    with socket.create_connection(("127.0.0.1", gate), timeout=10) as opened:
        opened.sendall(b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 16_500)
        assert status(opened.recv(1000)) == 431
    too_large = request(*GOOD, "Content-Length: 99999999999999")
    assert status(send(gate, too_large)) == 413
    assert engine.seen == []


def test_those_who_send_slowly_lock_nobody_out(gate, engine):
    with ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", gate), timeout=10)) for _ in range(300)
        ]
        for opened in slow[-50:]:
            opened.sendall(b"GET / HT")
        assert status(send(gate, request(*GOOD))) == 200
        # They are cut off after the second that this gate gives them.
        assert slow[-1].recv(10) == b""
    assert len(engine.seen) == 1


def test_two_hundred_at_once(gate, engine):
    answers: list[int] = []

    def ask() -> None:
        answers.append(status(send(gate, request(*GOOD), wait_s=60)))

    threads = [threading.Thread(target=ask) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 200


def test_a_client_that_goes_away_stops_the_engine(gate, engine):
    engine.hold.clear()
    with socket.create_connection(("127.0.0.1", gate), timeout=10) as opened:
        opened.sendall(request(*GOOD))
        # What has been generated comes at once, not at the end.
        assert opened.recv(1000).startswith(b"HTTP/1.1 200")
        assert engine.closed == 0
    eventually(lambda: engine.closed == 1)


def test_a_body_may_be_announced(gate, engine):
    head = request(*GOOD, "Content-Length: 2", "Expect: 100-continue", line="POST /v1/x HTTP/1.1")
    with socket.create_connection(("127.0.0.1", gate), timeout=10) as opened:
        opened.sendall(head)
        assert opened.recv(1000).startswith(b"HTTP/1.1 100 Continue")
        opened.sendall(b"hi")
        assert status(opened.recv(1000)) == 200
    assert engine.seen[0].endswith(b"hi")


def test_an_ordinary_client(gate):
    connection = http.client.HTTPConnection("127.0.0.1", gate, timeout=10)
    for _ in range(2):
        connection.request("POST", "/v1/x", body=b"{}", headers={"Authorization": f"Bearer {KEY}"})
        with connection.getresponse() as response:
            assert response.read() == b"ok"
    connection.close()


def test_an_engine_that_is_gone(gate, engine):
    engine.close()
    assert status(send(gate, request(*GOOD))) == 502
    engine.path.unlink()
    assert status(send(gate, request(*GOOD))) == 502


def test_a_link_in_place_of_the_engines_socket_is_not_followed(gate, engine, program):
    real = engine.path.with_name("real")
    engine.path.rename(real)
    engine.path.symlink_to(real)
    assert status(send(gate, request(*GOOD))) == 502
    done = subprocess.run(
        [program, "stdio", engine.path], input=b"secret", capture_output=True, check=False, timeout=10
    )
    assert done.returncode == 1
    assert engine.seen == []


def test_keys_that_are_none(program, engine, tmp_path):
    for content in ("", "short", "x" * 300):
        (tmp_path / "key").write_text(content)
        words = [program, "gate", "127.0.0.1:0", engine.path, tmp_path / "key"]
        assert subprocess.run(words, capture_output=True, check=False, timeout=10).returncode == 1


def test_standard_input_and_output_connect_at_the_first_byte(program, engine):
    command = [program, "stdio", str(engine.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        time.sleep(0.2)
        assert engine.closed == 0
        process.stdin.write(request(line="GET / HTTP/1.1"))
        process.stdin.flush()
        assert process.stdout.read() == PLAIN.encode()
        assert process.wait() == 0
    assert len(engine.seen) == 1


def test_the_end_of_standard_input_stops_the_engine(program, engine):
    engine.hold.clear()
    command = [program, "stdio", str(engine.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(request(line="GET / HTTP/1.1"))
        process.stdin.flush()
        assert process.stdout.read(4) == b"HTTP"
        process.stdin.close()
        assert process.wait() == 0
    eventually(lambda: engine.closed == 1)


def test_forwarding_makes_a_socket_for_its_own_user(program, engine):
    place = engine.path.with_name("f.sock")
    big = "z" * 1_000_000
    with running(program, "forward", str(place), str(engine.path)), socket.socket(socket.AF_UNIX) as opened:
        assert place.stat().st_mode & 0o777 == 0o700
        opened.settimeout(10)
        opened.connect(str(place))
        opened.sendall(request(f"Content-Length: {len(big)}", line="POST / HTTP/1.1", body=big))
        answer = b""
        while piece := opened.recv(65536):
            answer += piece
    assert answer == PLAIN.encode()
    assert engine.seen[0].endswith(big.encode())


WRONG: list[Callable[[str], tuple[str, ...]]] = [
    lambda _: (),
    lambda _: ("stdio",),
    lambda _: ("other", "a", "b"),
    lambda path: ("stdio", path, "more"),
]


@pytest.mark.parametrize("words", WRONG)
def test_wrong_words(program, words, engine):
    done = subprocess.run([program, *words(str(engine.path))], capture_output=True, check=False, timeout=10)
    assert done.returncode == 2
    assert b"usage" in done.stderr
