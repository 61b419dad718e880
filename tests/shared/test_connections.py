"""What strangers send over real sockets: too slow, too much, or not HTTP at all."""

import asyncio
import base64
import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from starlette.responses import StreamingResponse

from shared import access, connections, problems
from shared.access import MAX_BODY_BYTES, MAX_HEAD_BYTES, Bounds
from tests.servers import serving, wait_until

_S = 0.3
_HANDSHAKE = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"


class Site:
    """A service, and what its app has seen."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.left = 0
        self.port = 0

    def app(self) -> FastAPI:
        app = FastAPI()
        problems.install(app)
        app.add_middleware(Bounds)

        @app.post("/echo")
        async def echo(request: Request) -> int:
            self.bodies.append(await request.body())
            return len(self.bodies[-1])

        @app.post("/json")
        async def parsed(body: dict[str, int]) -> int:
            return len(body)

        @app.get("/endless")
        async def endless() -> StreamingResponse:
            return StreamingResponse(self._endless())

        @app.websocket("/socket")
        async def talk(socket: WebSocket) -> None:
            await socket.accept()
            try:
                async for message in socket.iter_text():
                    self.bodies.append(message.encode())
                    await socket.send_text("x" * 60_000)
            except WebSocketDisconnect:
                pass  # while something was being sent
            finally:
                self.left += 1

        return app

    async def _endless(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 60_000
                await asyncio.sleep(0)
        finally:
            self.left += 1

    def connect(self) -> socket.socket:
        caller = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        return caller

    def answer(self, sent: bytes) -> tuple[int, dict[str, Any]]:
        """Status and problem of the only answer to this; the connection must be closed after it."""
        with self.connect() as caller:
            caller.sendall(sent)
            return read(caller)


def read(caller: socket.socket) -> tuple[int, dict[str, Any]]:
    received = b""
    while piece := caller.recv(65536):
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    if status >= 400:
        assert b"application/problem+json" in head
    return status, json.loads(body)


@pytest.fixture(scope="module")
def _running() -> Iterator[Site]:
    site = Site()
    with serving(site.app()) as url:
        site.port = urlsplit(url).port or 0
        yield site


@pytest.fixture
def site(_running: Site) -> Iterator[Site]:
    """It has seen nothing yet, and after the test it still answers."""
    _running.bodies.clear()
    _running.left = 0
    yield _running
    assert httpx.post(f"http://127.0.0.1:{_running.port}/echo", content=b"still here").json() == 10


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every deadline is short."""
    monkeypatch.setattr(connections, "HEAD_S", _S)
    monkeypatch.setattr(connections, "BODY_S", _S)
    monkeypatch.setattr(connections, "_BODY_GRACE_S", _S)
    monkeypatch.setattr(connections, "STALLED_S", _S)
    monkeypatch.setattr(access, "BODY_S", _S)


def head(path: str, *lines: str, method: str = "POST") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *lines, "", "")).encode()


def dribble(caller: socket.socket, piece: bytes = b"a") -> None:
    """Send drop by drop until the server has had enough."""
    until = time.monotonic() + 20
    caller.settimeout(0.02)
    while time.monotonic() < until:
        try:
            caller.sendall(piece)
            if caller.recv(1, socket.MSG_PEEK) in (b"", b"H"):
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    else:
        pytest.fail("it went on listening")
    caller.settimeout(10)


@pytest.mark.parametrize("begun", [b"", b"POST /echo HT", b"POST /echo HTTP/1.1\r\nHost: x\r\nX-Slow: "])
@pytest.mark.usefixtures("hasty")
def test_a_head_that_does_not_come_is_not_waited_for(site: Site, begun: bytes) -> None:
    with site.connect() as caller:
        caller.sendall(begun)
        if begun:
            assert read(caller)[0] == 408
        else:
            assert caller.recv(1) == b""


@pytest.mark.usefixtures("hasty")
def test_a_head_that_comes_drop_by_drop_is_cut_off(site: Site) -> None:
    with site.connect() as caller:
        caller.sendall(b"POST /echo HTTP/1.1\r\nX: ")
        dribble(caller)
        assert read(caller)[0] == 408


@pytest.mark.usefixtures("hasty")
def test_a_second_request_on_a_connection_has_the_same_time(site: Site) -> None:
    with site.connect() as caller:
        caller.sendall(head("/echo", "Content-Length: 2").replace(b"Connection: close\r\n", b"") + b"hi")
        assert caller.recv(65536).startswith(b"HTTP/1.1 200")
        time.sleep(2 * _S)  # between two requests nothing is due
        caller.sendall(b"POST /echo HT")
        assert read(caller)[0] == 408


@pytest.mark.parametrize("framing", ["Content-Length: 5000", "Transfer-Encoding: chunked"])
@pytest.mark.usefixtures("hasty")
def test_a_body_that_comes_drop_by_drop_is_cut_off(site: Site, framing: str) -> None:
    with site.connect() as caller:
        caller.sendall(head("/echo", framing))
        dribble(caller, b"1\r\na\r\n" if "chunked" in framing else b"a")
        status, problem = read(caller)
    assert (status, problem["type"]) == (408, "urn:parley:problem:request-timeout")
    assert site.bodies == []


@pytest.mark.usefixtures("hasty")
def test_who_goes_on_with_a_body_after_the_answer_is_cut_off(site: Site) -> None:
    with site.connect() as caller:
        caller.sendall(head("/nothing", "Content-Length: 60000").replace(b"Connection: close\r\n", b""))
        assert b"404" in caller.recv(65536)
        dribble(caller)


@pytest.mark.usefixtures("hasty")
def test_a_slow_but_steady_body_may_take_its_time_within_the_bound(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "BODY_S", 20)
    monkeypatch.setattr(connections, "BODY_S", 20)
    with site.connect() as caller:
        caller.sendall(head("/echo", "Content-Length: 8"))
        for _ in range(8):
            time.sleep(_S / 4)
            caller.sendall(b"a")
        assert read(caller) == (200, 8)


@pytest.mark.usefixtures("hasty")
def test_a_caller_who_does_not_read_is_given_up(site: Site) -> None:
    with site.connect() as caller:
        caller.sendall(head("/endless", method="GET"))
        wait_until(lambda: site.left == 1)


@pytest.mark.parametrize(
    "sent",
    [
        bytes(range(256)) * 10,
        bytes.fromhex("16030100c8010000c40303") + bytes(200) + b"\r\n\r\n",  # the beginning of TLS
        b"GET /echo HTTP/1.1\r\n\r\n",  # no host
        head("/echo", "Content-Length: -1"),
        head("/echo", "Content-Length: +5"),
        head("/echo", "Content-Length: 1, 2"),
        head("/echo", "Content-Length: " + "9" * 30),
        head("/echo", "Content-Length: 5", "Content-Length: 6"),
        head("/echo", "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\nGET /health",
        head("/echo", "Transfer-Encoding: gzip"),
        head("/echo", "Transfer-Encoding: chunked, chunked"),
        head("/echo", "Transfer-Encoding: chunked") + b"xyz\r\n",
        head("/echo", "X : a"),
        head("/echo", "X: a\0b"),
        head("/echo", "\xff: a"),
        head("/socket", "Upgrade: websocket", "Connection: Upgrade", method="GET"),
        b"GET /socket HTTP/1.1\r\nHost: x\r\n" + _HANDSHAKE + b"Sec-WebSocket-Key: short\r\n\r\n",
        b"GET /socket HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n" + _HANDSHAKE + b"\r\nhello",
    ],
)
def test_what_is_not_http_or_can_be_read_in_two_ways_is_refused(site: Site, sent: bytes) -> None:
    status, problem = site.answer(sent)
    assert (status, problem["type"]) == (400, "urn:parley:problem:bad-request")
    assert site.bodies == []


@pytest.mark.parametrize(
    "sent",
    [
        head("/echo", "X: " + "a" * MAX_HEAD_BYTES),
        head("/echo", "X: " + "a" * 1_000_000),
        head("/echo", *(f"X-{number}: a" for number in range(4000))),
        head("/" + "a" * MAX_HEAD_BYTES, method="GET"),
        head("/echo?" + "a" * MAX_HEAD_BYTES, method="GET"),
        b"GET /socket HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000 + b"\r\n" + _HANDSHAKE + b"\r\n",
        b"GET /socket HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 200 + _HANDSHAKE + b"\r\n",
    ],
    ids=["header", "megabyte", "headers", "path", "query", "socket-header", "socket-headers"],
)
def test_a_head_that_is_too_large_is_refused(site: Site, sent: bytes) -> None:
    with site.connect() as caller:
        try:
            caller.sendall(sent)
            status, problem = read(caller)
        except ConnectionError:
            return  # it hung up before all was sent
    assert (status, problem["type"]) == (431, "urn:parley:problem:head-too-large")


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "compress, gzip"])
def test_a_compressed_body_is_refused(site: Site, encoding: str) -> None:
    sent = head("/json", "Content-Type: application/json", f"Content-Encoding: {encoding}")
    status, problem = site.answer(sent.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n{}"))
    assert (status, problem["type"]) == (415, "urn:parley:problem:unsupported-media")


def test_a_body_in_crumbs_is_refused_once_it_is_too_large(site: Site) -> None:
    with site.connect() as caller:
        caller.sendall(head("/echo", "Transfer-Encoding: chunked"))
        try:
            caller.sendall(b"1\r\na\r\n" * (MAX_BODY_BYTES + 1000) + b"0\r\n\r\n")
        except ConnectionError:
            return
        assert read(caller)[0] == 413
    assert site.bodies == []


def test_requests_in_a_row_are_answered_in_a_row(site: Site) -> None:
    request = head("/echo", "Content-Length: 2").replace(b"Connection: close\r\n", b"") + b"hi"
    with site.connect() as caller:
        caller.sendall(request * 50 + b"garbage\r\n\r\n")
        received = b""
        while piece := caller.recv(65536):
            received += piece
    assert received.count(b"HTTP/1.1 200") == 50
    assert received.count(b"HTTP/1.1 400") == 1


def frame(opcode: int, data: bytes = b"", *, last: bool = True, length: int | None = None) -> bytes:
    """A WebSocket frame from a client (RFC 6455, section 5.2); `length` may lie."""
    size = len(data) if length is None else length
    if size < 126:
        shown = bytes([0x80 | size])
    elif size < 2**16:
        shown = bytes([0x80 | 126]) + struct.pack("!H", size)
    else:
        shown = bytes([0x80 | 127]) + struct.pack("!Q", size)
    return bytes([(0x80 if last else 0) | opcode]) + shown + bytes(4) + data


_CONTINUED, _TEXT, _BINARY, _CLOSE, _PING = 0, 1, 2, 8, 9


@pytest.fixture
def opened(site: Site) -> Iterator[socket.socket]:
    key = b"Sec-WebSocket-Key: " + base64.b64encode(os.urandom(16)) + b"\r\n"
    with site.connect() as caller:
        caller.sendall(b"GET /socket HTTP/1.1\r\nHost: x\r\n" + _HANDSHAKE + key + b"\r\n")
        assert caller.recv(4096).startswith(b"HTTP/1.1 101")
        yield caller


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 1002),
        (b"\xff" * 1000, 1002),
        (frame(3), 1002),
        (frame(_PING, b"a" * 126), 1002),
        (frame(_PING, last=False), 1002),
        (frame(_CONTINUED), 1002),
        (frame(_TEXT, b"a", last=False) + frame(_TEXT, b"b"), 1002),
        (frame(_CLOSE, b"a"), 1002),
        (frame(_TEXT, b"\xff\xfe"), 1007),
        (frame(_TEXT, b"\xf0\x9f", last=False) + frame(_CONTINUED, b"\x00"), 1007),
        (frame(_TEXT, length=2**62), 1009),
        (frame(_TEXT, b"a" * (MAX_BODY_BYTES + 1)), 1009),
        (frame(_TEXT, b"a" * 40_000, last=False) + frame(_CONTINUED, b"a" * 40_000), 1009),
        (frame(_TEXT, b"a", last=False) + frame(_CONTINUED, last=False) * 5000, 1009),
    ],
)
def test_a_socket_is_closed_on_garbage(site: Site, opened: socket.socket, sent: bytes, code: int) -> None:
    opened.sendall(sent)
    closed = opened.recv(4096)
    assert (closed[0], struct.unpack("!H", closed[2:4])[0]) == (0x80 | _CLOSE, code)
    wait_until(lambda: site.left == 1)
    assert site.bodies == []


def test_garbage_on_a_socket_is_no_error_of_the_service(
    opened: socket.socket, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    opened.sendall(frame(_TEXT, b"\xff"))
    wait_until(lambda: site.left == 1)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("sent", [frame(_TEXT, b"hi"), frame(_PING, b"a" * 125)], ids=["messages", "pings"])
@pytest.mark.usefixtures("hasty")
def test_a_client_who_only_talks_is_given_up(site: Site, opened: socket.socket, sent: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        while site.left == 0:
            opened.sendall(sent * 100)
    wait_until(lambda: site.left == 1)
