"""No body beyond the limit gets in, and with a key nobody gets in without it."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, WebSocket
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from shared import problems
from shared.access import MAX_BODY_BYTES, BearerKey, Bounds
from tests.servers import serving

KEY = "correct-horse"


def _app() -> FastAPI:
    app = FastAPI()
    problems.install(app)

    @app.post("/json")
    async def parsed(body: list[int]) -> int:
        return len(body)

    @app.post("/raw")
    async def raw(request: Request) -> int:
        return len(await request.body())

    @app.get("/health/live")
    async def live() -> str:
        return "live"

    @app.get("/healthy")
    async def healthy() -> str:
        return "healthy"

    @app.websocket("/echo")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())

    return app


@pytest.fixture(scope="module")
def limited() -> Iterator[httpx.Client]:
    app = _app()
    app.add_middleware(Bounds)
    with serving(app) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture(scope="module")
def keyed() -> Iterator[httpx.Client]:
    app = _app()
    app.add_middleware(BearerKey, key=KEY)
    with serving(app) as url, httpx.Client(base_url=url) as client:
        yield client


def _json_of(size: int) -> bytes:
    return b"[" + b"1," * ((size - 3) // 2) + b"1" + b" " * ((size - 3) % 2) + b"]"


def _chunks(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), 10_000):
        yield body[start : start + 10_000]


@pytest.mark.parametrize("path", ["/json", "/raw"])
@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
def test_a_body_of_exactly_the_limit_passes_and_one_byte_more_does_not(
    limited: httpx.Client, path: str, chunked: bool
) -> None:
    for size, status in ((MAX_BODY_BYTES, 200), (MAX_BODY_BYTES + 1, 413)):
        body = _json_of(size)
        assert len(body) == size
        answer = limited.post(
            path, content=_chunks(body) if chunked else body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == status, answer.text
    assert answer.json()["type"] == "urn:parley:problem:content-too-large"
    assert answer.headers["content-type"] == problems.MEDIA_TYPE


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
def test_a_megabyte_is_refused(limited: httpx.Client, chunked: bool) -> None:
    body = b"x" * 1_000_000
    try:
        answer = limited.post("/raw", content=_chunks(body) if chunked else body)
    except (httpx.WriteError, httpx.ReadError):
        return  # the server hung up on it
    assert answer.status_code == 413


@pytest.mark.parametrize("declared", [b"", b"many", b"-1", b"1.5", b"\xb2", b"0x10"])
def test_a_content_length_that_is_no_number_reaches_nobody(declared: bytes) -> None:
    async def reached(*_: Any) -> None:
        raise AssertionError("the app was called")

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", declared)]}
    asyncio.run(Bounds(reached)(scope, receive, send))
    assert sent[0]["status"] == 413


@pytest.mark.parametrize(
    "given",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer wrong",
        KEY.encode(),
        b"Basic " + KEY.encode(),
        b"Bearer " + KEY.encode() + b"x",
        b"Bearer " + KEY[:-1].encode(),
        b"Bearer \xff\xfe\xe9",
        b"Bearers " + KEY.encode(),
        b"Bearer" + KEY.encode(),
    ],
)
def test_without_the_right_key_nobody_passes(keyed: httpx.Client, given: bytes | None) -> None:
    answer = keyed.get("/healthy", headers=[] if given is None else [(b"Authorization", given)])
    assert answer.status_code == 401
    assert answer.json()["type"] == "urn:parley:problem:unauthorized"
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_route_that_does_not_exist_is_not_told_apart_without_a_key(keyed: httpx.Client) -> None:
    assert keyed.get("/nothing").status_code == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_with_the_right_key_everything_is_open(keyed: httpx.Client, scheme: str) -> None:
    assert keyed.get("/healthy", headers={"Authorization": f"{scheme} {KEY}"}).json() == "healthy"


def test_a_websocket_needs_the_key_too(keyed: httpx.Client) -> None:
    url = f"ws{str(keyed.base_url).removeprefix('http')}/echo"
    with pytest.raises(InvalidStatus) as refusal, connect(url):
        pytest.fail("it was let in")
    answer = refusal.value.response
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert json.loads(answer.body)["type"] == "urn:parley:problem:unauthorized"
    with connect(url, additional_headers={"Authorization": f"Bearer {KEY}"}) as socket:
        socket.send("hello")
        assert socket.recv(timeout=5) == "hello"


def test_health_needs_no_key(keyed: httpx.Client) -> None:
    assert keyed.get("/health/live").json() == "live"
