"""POST /chat/stream: what is streamed, what is stored, what fails before and after it has begun."""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fastapi.routing
import httpx
import pytest

from shared.problems import EmptyReply
from tests.dialogue_service.conftest import INTENT, Start, service
from tests.dialogue_service.talking import (
    Talker,
    calling,
    chat,
    messages,
    read,
    stream,
    streamed,
    text_of,
)
from tests.dialogue_service.talking import logged as seen_in_log
from tests.servers import RedisServer, wait_until


def test_what_is_streamed_is_what_is_stored(start: Start, intents: str) -> None:
    client = start(DIALOGUE_INTENT_URL=intents)
    events = streamed(client, "Hi, how are you?")
    assert [event["id"] for event in events] == [str(n + 1) for n in range(len(events))]
    first, *tokens, done = events
    assert (first["event"], first["data"]) == ("intent", {"intent": INTENT})
    assert {event["event"] for event in tokens} == {"token"}
    assert done["event"] == "done"
    assert text_of(events) == done["data"]["reply"] != ""
    (stored,) = client.get("/memory").json()["exchanges"]
    assert stored.pop("message") == "Hi, how are you?"
    del stored["feedback"], stored["at"]
    assert stored == done["data"]
    assert chat(client, "Hi").json().keys() == done["data"].keys()


def test_pieces_arrive_as_they_are_made(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    talker = Talker.instead(monkeypatch, waits_at=2)
    with stream(client, "Hi") as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.headers["Cache-Control"] == "no-cache"
        events = read(answer.iter_lines())
        assert [next(events)["event"] for _ in range(3)] == ["intent", "token", "token"]
        talker.go.set()
        rest = list(events)
    assert text_of(rest) == "".join(talker.pieces[2:])
    assert rest[-1]["data"]["reply"] == "".join(talker.pieces)
    assert rest[-1]["data"]["degraded"] == ["intent"]


def test_a_fixed_reply_is_streamed_and_nothing_of_what_the_model_had_begun(
    start: Start, intents: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start(DIALOGUE_INTENT_URL=intents)
    talker = Talker.instead(monkeypatch, waits_at=3)
    events = streamed(client, "forget me")
    assert [event["event"] for event in events] == ["intent", "token", "done"]
    assert text_of(events) == events[-1]["data"]["reply"] == "DELETE /memory does that."
    assert talker.stopped.is_set()


def test_with_the_same_key_the_stored_reply_is_streamed(client: httpx.Client) -> None:
    key = {"Idempotency-Key": "k"}
    first = streamed(client, "Hi", **key)
    again = streamed(client, "Hi", **key)
    assert [event["event"] for event in again] == ["intent", "token", "done"]
    assert again[-1]["data"] == first[-1]["data"] == chat(client, "Hi", **key).json()
    assert text_of(again) == text_of(first)
    assert messages(client) == ["Hi"]


def test_a_seed_makes_the_same_stream_again(client: httpx.Client) -> None:
    def text(conversation: str) -> str:
        said = {"message": "Hi", "conversation": conversation, "seed": 7}
        with client.stream("POST", "/chat/stream", json=said) as answer:
            return text_of(list(read(answer.iter_lines())))

    assert text("a") == text("b")


def refusal(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == answer.status_code
    return problem["status"], problem["type"].removeprefix("urn:parley:problem:")


def test_what_fails_before_the_first_event_is_answered_with_its_status(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start(DIALOGUE_QUEUE="2")

    def ask(message: str, **headers: str) -> httpx.Response:
        return client.post("/chat/stream", json={"message": message}, headers=headers)

    talker = Talker.instead(monkeypatch, waits_at=0)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(streamed, client, "Hi", **{"Idempotency-Key": "k"})
        assert talker.began.wait(5)
        assert refusal(ask("Hi", **{"Idempotency-Key": "k"})) == (409, "idempotency-key-in-use")
        talker.began.clear()
        pool.submit(client.post, "/chat", json={"message": "Hi", "conversation": "other"})
        assert talker.began.wait(5)
        overloaded = ask("Hi")
        assert refusal(overloaded) == (429, "overloaded")
        assert int(overloaded.headers["Retry-After"]) >= 1
        talker.go.set()
        assert running.result()[-1]["event"] == "done"
    assert refusal(ask("Bye", **{"Idempotency-Key": "k"})) == (422, "idempotency-key-reused")
    assert messages(client) == ["Hi"]


def test_a_model_that_refuses_at_once_is_a_plain_answer(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start()
    talker = Talker.instead(monkeypatch)
    talker.fails = EmptyReply()
    assert refusal(client.post("/chat/stream", json={"message": "Hi"})) == (503, "empty-reply")


def test_without_model_key_or_redis_it_is_a_plain_answer(
    start: Start, own_server: RedisServer, tmp_path: Path
) -> None:
    said = {"message": "Hi"}
    without_model = start(ready=False, DIALOGUE_MODEL=tmp_path)
    assert refusal(without_model.post("/chat/stream", json=said)) == (503, "model-not-ready")
    without_key = start(API_KEY="sesame")
    assert refusal(without_key.post("/chat/stream", json=said)) == (401, "unauthorized")
    without_redis = start(REDIS_URL=own_server.url)
    own_server.kill()
    assert refusal(without_redis.post("/chat/stream", json=said)) == (503, "memory-unavailable")


@pytest.mark.parametrize(
    ("error", "slug", "logged"),
    [
        (EmptyReply(), "empty-reply", 0),
        (RuntimeError("a bug with swordfish"), "internal-error", 1),
        (asyncio.CancelledError(), "internal-error", 0),
    ],
    ids=["problem", "bug", "given up"],
)
def test_what_fails_later_is_the_last_event(
    client: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
    slug: str,
    logged: int,
) -> None:
    talker = Talker.instead(monkeypatch, waits_at=1)
    talker.fails = error
    with stream(client, "Hi") as answer:
        events = read(answer.iter_lines())
        assert [next(events)["event"] for _ in range(2)] == ["intent", "token"]
        talker.go.set()
        *_, last = events
    assert (last["event"], last["data"]["type"]) == ("error", f"urn:parley:problem:{slug}")
    assert "swordfish" not in str(last["data"])
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == logged
    assert messages(client) == []


def test_redis_going_away_meanwhile_is_an_event_that_says_when_to_come_back(
    start: Start, own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start(REDIS_URL=own_server.url)
    talker = Talker.instead(monkeypatch, waits_at=1)
    with stream(client, "Hi") as answer:
        events = read(answer.iter_lines())
        assert next(events)["event"] == "intent"
        own_server.kill()
        talker.go.set()
        *_, last = events
    assert last["data"]["type"] == "urn:parley:problem:memory-unavailable"
    assert last["data"]["retry_after_s"] >= 1
    own_server.start()
    assert messages(client) == []


def test_the_deadline_ends_the_stream_and_the_work(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    client = start(DIALOGUE_DEADLINE="1")
    talker = Talker.instead(monkeypatch, waits_at=2)
    events = streamed(client, "Hi")
    assert [event["event"] for event in events] == ["intent", "token", "token", "error"]
    assert events[-1]["data"]["type"] == "urn:parley:problem:deadline-exceeded"
    assert talker.stopped.is_set()
    assert messages(client) == []


def read_until(caller: socket.socket, end: bytes) -> None:
    received = b""
    while end not in received:
        part = caller.recv(4096)
        assert part, received
        received += part


def test_who_hangs_up_stops_the_work_and_leaves_nothing(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = Talker.instead(monkeypatch, waits_at=2)
    key = {"Idempotency-Key": "k"}
    with calling(client, "/chat/stream", {"message": "Hi"}, **key) as caller:
        read_until(caller, b"event: token")
        assert not talker.stopped.is_set()
    assert talker.stopped.wait(5), "the model went on computing"
    assert messages(client) == []
    talker.waits_at = None
    wait_until(lambda: chat(client, "Hi", **key).status_code == 200)
    assert messages(client) == ["Hi"]


def test_who_hangs_up_before_the_first_event_stops_the_work_too(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    talker = Talker.instead(monkeypatch, waits_at=1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(streamed, client, "first")
        assert talker.began.wait(5)
        with calling(client, "/chat/stream", {"message": "gone"}, **{"X-Request-ID": "gone"}):
            pass
        wait_until(lambda: seen_in_log(caplog, "/chat/stream") == [("POST", 499)])
        talker.go.set()
        assert first.result()[-1]["event"] == "done"
    assert chat(client, "last").status_code == 200
    assert messages(client) == ["first", "last"]


def test_silence_is_filled_with_heartbeats(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastapi.routing, "_PING_INTERVAL", 0.02)
    talker = Talker.instead(monkeypatch, waits_at=1)
    with stream(client, "Hi") as answer:
        lines = answer.iter_lines()
        heard = [next(line for line in lines if line.startswith(":")) for _ in range(3)]
        talker.go.set()
        *_, last = read(lines)
    assert heard == [": ping"] * 3
    assert last["event"] == "done"


def test_an_open_stream_does_not_hold_up_the_end_of_the_service(
    redis_url: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(REDIS_URL=redis_url, DIALOGUE_MODEL=tiny_model) as client:
        talker = Talker.instead(monkeypatch, waits_at=1)
        answer = client.send(
            client.build_request("POST", "/chat/stream", json={"message": "Hi"}), stream=True
        )
        assert next(read(answer.iter_lines()))["event"] == "intent"
    assert talker.stopped.is_set()
