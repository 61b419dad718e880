"""A request leaves one line and one count behind, with its id and without its text."""

import io
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from prometheus_client import REGISTRY
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from shared import problems, telemetry
from tests.servers import serving

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What would stand in the log, read back as JSON."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(telemetry.JsonFormatter())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for chatty in ("httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    root.removeHandler(handler)
    root.setLevel(level)


def _app(service: str) -> FastAPI:
    app = FastAPI()
    problems.install(app)
    router = APIRouter(prefix="/items")

    @router.get("/{name}")
    async def item(name: str) -> str:
        logging.getLogger("handler").info("in the handler")
        return name

    @router.get("/{name}/bug")
    async def bug(name: str) -> None:
        raise RuntimeError("a bug")

    @router.get("/{name}/broken")
    async def broken(name: str) -> StreamingResponse:
        async def half() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError("a bug")

        return StreamingResponse(half())

    @router.websocket("/{name}/talk")
    async def talk(socket: WebSocket, name: str) -> None:
        if name == "unwanted":
            raise problems.Unauthorized
        if name == "early-bug":
            raise RuntimeError("a bug")
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        if name == "bug":
            raise RuntimeError("a bug")

    @app.get("/health/live")
    async def live() -> str:
        return "live"

    app.include_router(router)
    app.add_middleware(telemetry.RequestTelemetry, service=service)
    return app


def _requests(lines: Lines) -> list[dict[str, Any]]:
    return [line for line in lines() if line["message"] == "request"]


def _series(service: str) -> dict[tuple[str, str, str], float]:
    return {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"]): sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "http_requests_total" and sample.labels["service"] == service
    }


def test_a_good_request_id_is_kept_returned_and_logged_in_every_line(lines: Lines) -> None:
    with serving(_app("ids")) as url:
        answer = httpx.get(f"{url}/items/x", headers={"X-Request-ID": "trace:1.2_3-4"})
    assert answer.headers["X-Request-ID"] == "trace:1.2_3-4"
    assert {line["message"] for line in lines() if line.get("request_id") == "trace:1.2_3-4"} == {
        "in the handler",
        "request",
    }


@pytest.mark.parametrize(
    "given", [b"", b"x" * 1000, b"x" * 129, "é".encode(), b"\xff", b'a"b', b"a b", b"a\tb"]
)
def test_a_hostile_request_id_is_replaced(lines: Lines, given: bytes) -> None:
    with serving(_app("ids")) as url:
        answer = httpx.get(f"{url}/items/x", headers=[(b"X-Request-ID", given)])
    made = answer.headers["X-Request-ID"]
    assert len(made) == 32
    assert made.isalnum()
    assert [line["request_id"] for line in _requests(lines)] == [made]


def test_a_line_break_in_a_request_id_makes_no_second_line(lines: Lines) -> None:
    hostile = b'X-Request-ID: a\n {"message": "forged"}\r\n'
    with (
        serving(_app("ids")) as url,
        socket.create_connection(("127.0.0.1", urlsplit(url).port), timeout=5) as connection,
    ):
        connection.sendall(b"GET /items/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + hostile + b"\r\n")
        answer = connection.makefile("rb").read()
    assert b"forged" not in answer
    assert not any("forged" in json.dumps(line) for line in lines())


async def _nothing(*_: Any) -> Any:
    return None


@pytest.mark.anyio
async def test_a_request_id_that_ends_in_a_line_break_is_replaced() -> None:
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"x-request-id", b"good\n")]}
    seen = []

    async def app(*_: Any) -> None:
        seen.append(telemetry.request_id.get())

    await telemetry.RequestTelemetry(app, "ids")(scope, _nothing, _nothing)
    assert seen != ["good\n"]


def test_a_request_is_one_line_without_what_was_in_it(lines: Lines) -> None:
    with serving(_app("lines")) as url:
        httpx.get(f"{url}/items/very-secret?also=secret", headers={"User-Agent": "secret"})
        httpx.get(f"{url}/secret-path")
        httpx.get(f"{url}/health/live")
    logged = _requests(lines)
    assert [(line["method"], line["route"], line["status"]) for line in logged] == [
        ("GET", "/items/{name}", 200),
        ("GET", "none", 404),
    ]
    assert all(line["ms"] >= 0 and line["service"] == "lines" for line in logged)
    assert "secret" not in json.dumps(lines())


def test_a_bug_is_logged_with_its_traceback_and_the_request_id(lines: Lines) -> None:
    with serving(_app("bugs")) as url:
        answer = httpx.get(f"{url}/items/x/bug")
    (line,) = (line for line in lines() if line["level"] == "error")
    assert answer.status_code == 500
    assert line["request_id"] == answer.headers["X-Request-ID"]
    assert line["exception"].endswith("RuntimeError\n")
    assert 'raise RuntimeError("a bug")' in line["exception"]  # the code, which says it here


def test_an_answer_that_has_begun_is_broken_off_so_that_the_caller_sees_it(lines: Lines) -> None:
    with serving(_app("broken")) as url, pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{url}/items/x/broken")
    assert any(line.get("exception", "").endswith("RuntimeError\n") for line in lines())


def test_requests_are_counted_by_route_and_callers_cannot_make_series() -> None:
    with serving(_app("counts")) as url, httpx.Client(base_url=url) as client:
        for n in range(3):
            client.get(f"/items/{n}")
            client.get(f"/unknown/{n}")
            client.request(f"METHOD{n}", "/unknown")
            client.post(f"/items/{n}")
        client.get("/items/x/bug")
    series = _series("counts")
    assert series.pop(("GET", "/items/{name}", "200")) == 3
    assert series.pop(("GET", "/items/{name}/bug", "500")) == 1
    assert sum(series.values()) == 9
    assert len(series) <= 3


def test_the_time_of_each_route_is_measured() -> None:
    with serving(_app("times")) as url:
        httpx.get(f"{url}/items/x")
    labels = {"service": "times", "route": "/items/{name}"}
    assert REGISTRY.get_sample_value("http_request_duration_seconds_count", labels) == 1
    assert REGISTRY.get_sample_value("http_request_duration_seconds_sum", labels)


def _record(message: str, **fields: Any) -> logging.LogRecord:
    record = logging.LogRecord("a.logger", logging.WARNING, __file__, 1, message, None, None)
    record.fields = fields
    return record


def _talk(url: str, name: str) -> tuple[int, str]:
    """Status and request id of a handshake; one message is sent and comes back."""
    address = f"ws{url.removeprefix('http')}/items/{name}/talk"
    try:
        with connect(address, additional_headers={"X-Request-ID": "trace-me"}) as socket:
            socket.send("very-secret")
            assert socket.recv(timeout=5) == "very-secret"
            with pytest.raises(ConnectionClosed):
                socket.recv(timeout=5)
            answer = socket.response
    except InvalidStatus as refusal:
        answer = refusal.response
    assert answer is not None
    return answer.status_code, answer.headers["X-Request-ID"]


@pytest.mark.parametrize(
    ("name", "status", "errors"),
    [("x", 101, 0), ("bug", 101, 1), ("unwanted", 401, 0), ("early-bug", 500, 1)],
)
def test_a_websocket_is_a_request_with_an_id_a_line_and_a_count(
    lines: Lines, name: str, status: int, errors: int
) -> None:
    service = f"sockets-{name}"
    with serving(_app(service)) as url:
        assert _talk(url, name) == (status, "trace-me")
    (line,) = _requests(lines)
    assert (line["method"], line["route"], line["status"]) == ("WEBSOCKET", "/items/{name}/talk", status)
    assert line["request_id"] == "trace-me"
    assert _series(service) == {("WEBSOCKET", "/items/{name}/talk", str(status)): 1}
    assert "secret" not in json.dumps(lines())
    bugs = [line for line in lines() if line["level"] == "error" and line["logger"] == "shared.telemetry"]
    assert len(bugs) == errors
    others = [line for line in lines() if line["level"] == "error" and line["logger"] != "shared.telemetry"]
    assert others == [] or name == "bug"  # uvicorn says it again when a connection is broken off


def test_callers_cannot_make_series_with_websockets() -> None:
    with serving(_app("no-sockets")) as url:
        for n in range(3):
            with (
                pytest.raises(InvalidStatus) as refusal,
                connect(f"ws{url.removeprefix('http')}/unknown/{n}"),
            ):
                pytest.fail("it was let in")
    assert refusal.value.response.status_code == 403
    assert _series("no-sockets") == {("WEBSOCKET", "none", "403"): 3}


def test_how_long_a_connection_stays_open_is_no_latency() -> None:
    with serving(_app("long")) as url:
        _talk(url, "x")
    labels = {"service": "long", "route": "/items/{name}/talk"}
    assert REGISTRY.get_sample_value("http_request_duration_seconds_count", labels) is None


def test_a_json_line_is_one_line_whatever_is_in_it() -> None:
    line = telemetry.JsonFormatter().format(_record('first\nsecond \u2028 "quoted" Grüße', route="/x"))
    assert "\n" not in line
    document = json.loads(line)
    assert document["message"] == 'first\nsecond \u2028 "quoted" Grüße'
    assert document["route"] == "/x"
    assert document["level"] == "warning"
    assert document["time"].endswith("+00:00")


def test_a_text_line_names_level_message_and_fields() -> None:
    line = telemetry.TextFormatter().format(_record("hello", status=200))
    assert line.endswith("warning hello status=200")
