"""What people write stays out of logs, metrics and traces, unless LOG_MESSAGES lets it into the log."""

import json
from typing import Any

import httpx
import pytest
from redis import Redis, ResponseError
from redis.asyncio.connection import AbstractConnection
from websockets.sync.client import connect

from dialogue_service import keys, prompt
from intent_service.classifiers.embedding import EmbeddingClassifier
from tests.collector import Collector
from tests.logs import Log, logging_to
from tests.servers import wait_until
from tools import openapi

MARK = "Xylophonquark"

# Every operation with the mark wherever a caller writes something.
REQUESTS: dict[str, list[tuple[str, str, Any]]] = {
    "dialogue": [
        ("GET", f"/health/live?{MARK}", None),
        ("GET", f"/health/ready?{MARK}", None),
        ("GET", f"/info?{MARK}", None),
        ("GET", f"/metrics?{MARK}", None),
        ("POST", "/chat", {"message": f"{MARK} hello", "conversation": "walk"}),
        ("POST", "/chat", {"message": [MARK]}),
        ("POST", "/chat", {"message": f"{MARK}\0"}),
        ("POST", "/chat", {"message": MARK * 1000}),
        ("POST", "/chat", {"message": "hi", MARK: MARK}),
        ("POST", "/chat", {"message": "hi", "conversation": f"{MARK} {MARK}"}),
        ("POST", "/chat", f'{{"message": "{MARK}'),
        ("POST", "/chat/stream", {"message": f"{MARK} hello"}),
        ("POST", "/chat/stream", {"message": "hi", "seed": MARK}),
        ("POST", "/generate", {"input": f"{MARK} hello"}),
        ("POST", "/generate", {"input": {MARK: MARK}}),
        ("GET", f"/memory?conversation={MARK}", None),
        ("GET", f"/memory?before={MARK}", None),
        ("GET", f"/memory/export?conversation={MARK}", None),
        ("DELETE", f"/memory?conversation={MARK}", None),
        ("POST", "/feedback", {"input": MARK, "response": MARK, "feedback": MARK}),
        ("POST", "/feedback", {"exchange_id": "1-1", "rating": "positive", "comment": MARK}),
        ("POST", "/feedback", {"exchange_id": MARK, "rating": MARK}),
        ("GET", "/feedback/export", None),
        ("GET", f"/feedback?{MARK}", None),
        ("GET", f"/feedback?before={MARK}", None),
        ("GET", f"/training?{MARK}", None),
        ("GET", f"/training/{MARK}", None),
        ("DELETE", f"/training/{MARK}", None),
        ("POST", "/training", {"method": MARK}),
        ("GET", f"/feedback/{MARK}", None),
        ("DELETE", f"/feedback/{MARK}", None),
        ("GET", f"/models?{MARK}", None),
        ("POST", f"/models/{MARK}/activate", None),
        ("POST", f"/models/rollback?{MARK}", None),
        ("GET", f"/{MARK}", None),
        (MARK.upper(), "/chat", None),
    ],
    "intent": [
        ("GET", f"/health/live?{MARK}", None),
        ("GET", f"/health/ready?{MARK}", None),
        ("GET", f"/info?{MARK}", None),
        ("GET", f"/metrics?{MARK}", None),
        ("POST", "/intent", {"text": f"{MARK} hello"}),
        ("POST", "/intent", {"text": "hi", "labels": [MARK, "other"]}),
        ("POST", "/intent", {"text": "hi", "labels": [MARK, MARK]}),
        ("POST", "/intent", {"text": [MARK]}),
        ("POST", "/intents/batch", {"texts": [MARK, f"{MARK} again"]}),
        ("POST", "/intents/batch", {"texts": MARK}),
        ("GET", f"/training?{MARK}", None),
        ("GET", f"/training/{MARK}", None),
        ("DELETE", f"/training/{MARK}", None),
        ("POST", "/training", {"activate": MARK}),
        ("GET", f"/catalog?{MARK}", None),
        ("POST", f"/catalog/reload?{MARK}", None),
        ("GET", f"/models?{MARK}", None),
        ("POST", f"/models/{MARK}/activate", None),
        ("POST", f"/models/rollback?{MARK}", None),
    ],
}


def send(client: httpx.Client, method: str, path: str, body: Any) -> int:
    content = body if isinstance(body, str) else None
    headers = {"Content-Type": "application/json", "Idempotency-Key": MARK, "User-Agent": MARK}
    return client.request(
        method, path, content=content, json=None if content else body, headers=headers
    ).status_code


def talk(client: httpx.Client, *messages: str) -> list[str]:
    """Over the WebSocket; the last event of each answer."""
    ends = []
    with connect(str(client.base_url).replace("http", "ws") + f"/chat/ws?{MARK}") as socket:
        for message in messages:
            socket.send(message)
            while (event := json.loads(socket.recv(timeout=30)))["event"] not in ("done", "error"):
                pass
            ends.append(event["event"])
    return ends


def assert_nowhere(log: Log, observed: dict[str, httpx.Client], collector: Collector) -> None:
    assert MARK.lower() not in log.text.lower()
    for client in observed.values():
        assert MARK.lower() not in client.get("/metrics").text.lower()
    sent = len(collector.spans)
    for client in observed.values():
        client.get("/info")
    wait_until(lambda: len(collector.spans) >= sent + 2)
    assert sent
    assert MARK.lower() not in str(collector.spans).lower()


def test_every_operation_is_among_the_requests() -> None:
    for file, text in openapi.documents().items():
        asked = {(method, path.partition("?")[0]) for method, path, _ in REQUESTS[file.stem]}
        for path, methods in json.loads(text)["paths"].items():
            like = path.replace("{exchange_id}", MARK).replace("{version}", MARK).replace("{job}", MARK)
            assert {(method.upper(), like) for method in methods} <= asked


def test_whatever_is_asked_no_text_is_seen_from_outside(
    observed: dict[str, httpx.Client], collector: Collector, redis_url: str
) -> None:
    with logging_to() as log:
        statuses = {
            send(observed[service], *request) for service, asked in REQUESTS.items() for request in asked
        }
        assert {200, 400, 404, 405, 409, 413, 422} <= statuses
        assert max(statuses) < 500
        good = json.dumps({"message": f"{MARK} hello"})
        assert talk(observed["dialogue"], good, f'{{"message": "{MARK}', f'{{"{MARK}": 1}}') == [
            "done",
            "error",
            "error",
        ]
        wait_until(lambda: log.lines(message="request", route="/chat/ws", status=101))
    assert len(log.lines(message="request")) > 40
    assert_nowhere(log, observed, collector)


def _fails(*_: Any, **__: Any) -> Any:
    raise RuntimeError(f"cannot work with {MARK}")


async def _refuses(*_: Any, **__: Any) -> Any:
    raise ResponseError(f"unknown command 'X', with args beginning with: {MARK}")


@pytest.mark.parametrize(
    ("broken", "name", "failing", "status"),
    [
        (prompt, "encode", _fails, 500),
        (AbstractConnection, "send_command", _refuses, 503),
        (EmbeddingClassifier, "classify", _fails, 200),  # the turn goes on without an intent
    ],
)
def test_nor_what_an_error_quotes(
    observed: dict[str, httpx.Client],
    collector: Collector,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    broken: Any,
    name: str,
    failing: Any,
    status: int,
) -> None:
    monkeypatch.setattr(broken, name, failing)
    body = {"message": f"{MARK} {name}"}
    with logging_to() as log:
        assert observed["dialogue"].post("/chat", json=body).status_code == status
        observed["dialogue"].post("/chat/stream", json=body)
        assert talk(observed["dialogue"], json.dumps(body)) == ["done" if status == 200 else "error"]
        wait_until(lambda: log.lines(message="request", route="/chat/ws", status=101))
    if failing is _fails:
        assert "RuntimeError" in log.text  # it is told, with where it happened
        assert f"in {failing.__name__}" in log.text
    assert_nowhere(log, observed, collector)


def test_nor_what_stands_in_a_memory_that_somebody_spoilt(
    observed: dict[str, httpx.Client], collector: Collector, redis_url: str
) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.hset(keys.CONVERSATIONS, "default", "1")
        redis.xadd(f"{keys.STREAM}1", {"turn": json.dumps({"message": MARK, "reply": 7})})
    with logging_to() as log:
        for method, path in (("POST", "/chat"), ("GET", "/memory")):
            assert send(observed["dialogue"], method, path, {"message": "hi"}) == 500
    assert "ValidationError" in log.text
    assert_nowhere(log, observed, collector)


def test_with_log_messages_the_log_has_them_and_nothing_else_does(
    observed: dict[str, httpx.Client],
    collector: Collector,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with logging_to(texts=True) as log:
        body = {"message": f"{MARK} once more"}
        reply = observed["dialogue"].post("/chat", json=body).raise_for_status().json()["reply"]
        monkeypatch.setattr(prompt, "encode", _fails)
        assert observed["dialogue"].post("/generate", json={"input": "hi"}).status_code == 500
    said, asked = (line["texts"] for line in reversed(log.lines(message="texts")))
    assert (said["message"], said["reply"]) == (body["message"], reply)
    assert asked["messages"] == [body["message"]]
    assert f"RuntimeError: cannot work with {MARK}" in log.text
    with logging_to() as silent:
        assert_nowhere(silent, observed, collector)
