"""Turns from message to stored exchange: a real service, a real model, a real Redis."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from dialogue_service.generation.local import LocalGenerator
from shared.problems import EmptyReply
from tests.dialogue_service.conftest import Start
from tests.servers import RedisServer, serving, wait_until

INTENT = {
    "label": "greeting",
    "score": 0.9,
    "ranking": [{"label": "greeting", "score": 0.9}, {"label": "thanks", "score": 0.1}],
    "model": "m",
}


@pytest.fixture(scope="module")
def intents() -> Iterator[str]:
    """An intent service that knows "forget me", for which it has a fixed reply."""
    app = FastAPI()

    @app.post("/intent")
    async def intent(body: dict[str, str]) -> dict[str, object]:
        return INTENT | {"reply": "DELETE /memory does that."} if body["text"] == "forget me" else INTENT

    with serving(app) as url:
        yield url


def chat(client: httpx.Client, message: str, **headers: str) -> httpx.Response:
    return client.post("/chat", json={"message": message}, headers=headers)


def messages(client: httpx.Client, conversation: str = "default") -> list[str]:
    page = client.get("/memory", params={"conversation": conversation}).raise_for_status().json()
    return [exchange["message"] for exchange in page["exchanges"]]


class Slow:
    """Makes every reply wait until it is let go, or told to stop; and then fail if asked to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.began, self.stopped = threading.Event(), threading.Event(), threading.Event()
        self.fails = False
        real = LocalGenerator.reply

        def reply(generator: LocalGenerator, turns: list[str], stop: threading.Event) -> str:
            if turns == ["Hello!"]:  # the warm-up
                return real(generator, turns, stop)
            self.began.set()
            while not self.go.wait(0.01):
                if stop.is_set():
                    self.stopped.set()
                    break
            if self.fails:
                raise EmptyReply
            return real(generator, turns, stop)

        monkeypatch.setattr(LocalGenerator, "reply", reply)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    made = Slow(monkeypatch)
    yield made
    made.go.set()


def test_the_answer_has_everything_and_is_what_the_memory_holds(start: Start, intents: str) -> None:
    client = start(DIALOGUE_INTENT_URL=intents)
    answer = chat(client, "Hi, how are you?").raise_for_status().json()
    assert answer["intent"] == INTENT
    assert (answer["model"], answer["degraded"], answer["conversation"]) == ("tiny", [], "default")
    assert all(ms >= 0 for ms in answer["timings"].values())
    (stored,) = client.get("/memory").json()["exchanges"]
    assert stored.pop("message") == "Hi, how are you?"
    assert stored.pop("feedback") is None
    assert stored.pop("at")
    assert stored == answer


def test_without_intent_service_the_chat_goes_on_and_says_so(client: httpx.Client) -> None:
    answer = chat(client, "Hi").raise_for_status().json()
    assert (answer["intent"], answer["degraded"]) == (None, ["intent"])
    assert answer["reply"]


def test_a_fixed_reply_is_used_word_for_word(start: Start, intents: str) -> None:
    answer = chat(start(DIALOGUE_INTENT_URL=intents), "forget me").raise_for_status().json()
    assert (answer["reply"], answer["model"]) == ("DELETE /memory does that.", "catalog")


def test_the_model_reads_what_was_said_before_and_nothing_that_was_forgotten(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[str]] = []
    real = LocalGenerator.reply

    def reply(generator: LocalGenerator, turns: list[str], stop: threading.Event) -> str:
        read.append(list(turns))
        return real(generator, turns, stop)

    monkeypatch.setattr(LocalGenerator, "reply", reply)
    first = chat(client, "one").json()["reply"]
    second = chat(client, "two").json()["reply"]
    client.post("/chat", json={"message": "elsewhere", "conversation": "other"})
    client.delete("/memory")
    chat(client, "three")
    client.post("/generate", json={"input": "bare"})
    assert read == [["one"], ["one", first, "two"], ["elsewhere"], ["three"], ["bare"]]
    assert second
    assert messages(client) == ["three"]
    assert messages(client, "other") == ["elsewhere"]


def test_after_a_restart_the_conversation_goes_on(start: Start) -> None:
    chat(start(), "before")
    again = start()
    chat(again, "after")
    assert messages(again) == ["before", "after"]


def test_concurrent_messages_are_all_stored_in_one_order(client: httpx.Client) -> None:
    said = [f"message {n}" for n in range(12)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda text: chat(client, text).raise_for_status().json(), said))
    assert sorted(messages(client)) == sorted(said)
    ids = [exchange["id"] for exchange in client.get("/memory").json()["exchanges"]]
    assert ids == sorted(answer["id"] for answer in answers)


def test_a_late_reply_is_a_504_and_leaves_nothing(start: Start, slow: Slow) -> None:
    client = start(DIALOGUE_DEADLINE="1")
    answer = chat(client, "Hi")
    assert (answer.status_code, answer.json()["type"]) == (504, "urn:parley:problem:deadline-exceeded")
    assert slow.stopped.wait(5), "the model went on computing"
    assert messages(client) == []


def test_more_turns_than_the_queue_holds_are_refused_at_once(start: Start, slow: Slow) -> None:
    client = start(DIALOGUE_QUEUE="1")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(chat, client, "Hi")
        assert slow.began.wait(5)
        refusal = client.post("/chat", json={"message": "Hi", "conversation": "other"})
        assert (refusal.status_code, refusal.json()["type"]) == (429, "urn:parley:problem:overloaded")
        assert int(refusal.headers["Retry-After"]) >= 1
        assert client.get("/health/live").status_code == 200
        slow.go.set()
        assert waiting.result().status_code == 200


def test_forgetting_waits_for_the_reply_under_way(client: httpx.Client, slow: Slow) -> None:
    with ThreadPoolExecutor(2) as pool:
        talk = pool.submit(chat, client, "Hi")
        assert slow.began.wait(5)
        forget = pool.submit(client.delete, "/memory")
        time.sleep(0.1)  # gives a wrong implementation the time to be wrong
        assert not forget.done()
        slow.go.set()
        assert talk.result().status_code == 200
        assert forget.result().json()["forgotten"] == 1
    assert messages(client) == []


def test_the_same_key_gets_the_same_reply_and_one_exchange(client: httpx.Client) -> None:
    first, second = (chat(client, "Hi", **{"Idempotency-Key": "k"}).raise_for_status() for _ in range(2))
    assert first.json() == second.json()
    assert messages(client) == ["Hi"]
    other = chat(client, "Bye", **{"Idempotency-Key": "k"})
    assert (other.status_code, other.json()["type"]) == (422, "urn:parley:problem:idempotency-key-reused")


def test_a_key_whose_request_runs_is_in_use_and_free_again_after_a_failure(start: Start, slow: Slow) -> None:
    client, slow.fails = start(), True
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(chat, client, "Hi", **{"Idempotency-Key": "k"})
        assert slow.began.wait(5)
        again = chat(client, "Hi", **{"Idempotency-Key": "k"})
        assert (again.status_code, again.json()["type"]) == (409, "urn:parley:problem:idempotency-key-in-use")
        slow.go.set()
        assert running.result().status_code == 503
    slow.fails = False
    assert chat(client, "Hi", **{"Idempotency-Key": "k"}).status_code == 200


def test_without_redis_nothing_is_answered_and_all_is_well_once_it_is_back(
    start: Start, own_server: RedisServer
) -> None:
    client = start(REDIS_URL=own_server.url)
    chat(client, "before").raise_for_status()
    own_server.kill()
    for answer in (
        chat(client, "lost"),
        client.get("/memory"),
        client.get("/memory/export"),
        client.get("/feedback/export"),
    ):
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:parley:problem:memory-unavailable"
        assert answer.headers["Retry-After"]
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.json()["reasons"]) == (503, ["Redis does not answer"])
    assert client.get("/health/live").status_code == 200
    own_server.start()
    chat(client, "after").raise_for_status()
    assert messages(client) == ["before", "after"]


def test_without_any_model_it_says_why_and_when_to_come_back(start: Start, tmp_path: Path) -> None:
    client = start(ready=False, DIALOGUE_MODEL=tmp_path)
    wait_until(lambda: client.get("/health/ready").json()["model"]["failed"])
    answer = chat(client, "Hi")
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:parley:problem:model-not-ready")
    assert "holds no .safetensors" in answer.json()["detail"]
    assert answer.headers["Retry-After"]
    assert messages(client) == []
