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
from shared.access import MAX_BODY_BYTES, BearerKey, Bounds, OwnPages
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


@pytest.fixture(scope="module")
def unnamed() -> Iterator[httpx.Client]:
    """Where only pages of its own may ask, and only by a name that nobody can register."""
    app = _app()
    app.add_middleware(OwnPages, origins=["https://my.page"], rebinding=False)
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


def test_a_browser_that_opens_the_first_page_is_asked_for_the_key() -> None:
    app = _app()
    app.get("/")(lambda: "inside")
    app.add_middleware(BearerKey, key=KEY, door="<p>the key?")
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    with serving(app) as url, httpx.Client(base_url=url) as client:
        asked = client.get("/", headers=browser)
        program, elsewhere = client.get("/"), client.get("/healthy", headers=browser)
        inside = client.get("/", headers=browser | {"Authorization": f"Bearer {KEY}"})
    assert (asked.status_code, asked.text) == (401, "<p>the key?")
    assert asked.headers["WWW-Authenticate"] == "Bearer"
    assert "frame-ancestors 'none'" in asked.headers["Content-Security-Policy"]
    for refused in (program, elsewhere):
        assert (refused.status_code, refused.headers["Content-Type"]) == (401, problems.MEDIA_TYPE)
    assert inside.json() == "inside"


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "",
        "http://127.0.0.1",
        "https://my.page.evil.example",
        "http://[",
        "\xe9",
    ],
)
def test_a_page_of_another_site_may_neither_ask_nor_talk(unnamed: httpx.Client, origin: str) -> None:
    answer = unnamed.post("/raw", headers=[(b"Origin", origin.encode("latin-1"))])
    assert answer.status_code == 403
    assert answer.json()["type"] == "urn:parley:problem:foreign-origin"
    with pytest.raises(InvalidStatus) as refusal, connect(_socket(unnamed), origin=origin):  # type: ignore[arg-type]
        pytest.fail("it was let in")
    assert refusal.value.response.status_code == 403


def test_its_own_pages_those_that_are_named_and_programs_may(unnamed: httpx.Client) -> None:
    own = str(unnamed.base_url).rstrip("/")
    for headers in ({"Origin": own}, {"Origin": "https://my.page"}, {}):
        assert unnamed.post("/raw", headers=headers).status_code == 200
        with connect(_socket(unnamed), additional_headers=headers) as socket:
            socket.send("hello")
            assert socket.recv(timeout=5) == "hello"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("192.168.1.7", 200),
        ("localhost:8000", 200),
        ("dialogue:8000", 200),
        ("parley.localhost", 200),
        ("my-machine.local:8000", 200),
        ("parley.chat.svc.cluster.local", 200),
        ("evil.example", 403),
        ("evil.example.", 403),
        ("EVIL.EXAMPLE:8000", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("[::1", 403),
    ],
)
def test_without_a_key_only_names_that_nobody_can_register_are_answered_to(
    unnamed: httpx.Client, host: str, status: int
) -> None:
    answer = unnamed.get("/healthy", headers={"Host": host})
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["type"] == "urn:parley:problem:foreign-host"
    assert unnamed.get("/health/live", headers={"Host": host}).status_code == 200


def _socket(client: httpx.Client) -> str:
    return f"ws{str(client.base_url).removeprefix('http')}/echo"
