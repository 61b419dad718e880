"""Turns from message to stored exchange: a real service, a real model, a real Redis."""

import gc
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from redis import Redis

from dialogue_service.generation.local import LocalGenerator
from shared.problems import EmptyReply
from tests.dialogue_service.conftest import INTENT, Start
from tests.dialogue_service.talking import Talker, calling, chat, logged, messages
from tests.servers import RedisServer, serving, wait_until


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


def test_a_fixed_reply_stops_the_model(start: Start, intents: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = start(DIALOGUE_INTENT_URL=intents)
    talker = Talker.instead(monkeypatch, waits_at=0)
    assert chat(client, "forget me").json()["model"] == "catalog"
    assert talker.stopped.is_set()


def test_a_fixed_reply_needs_no_model(start: Start, intents: str, tmp_path: Path) -> None:
    client = start(ready=False, DIALOGUE_MODEL=tmp_path, DIALOGUE_INTENT_URL=intents)
    assert chat(client, "forget me").raise_for_status().json()["model"] == "catalog"
    assert chat(client, "Hi").status_code == 503


@pytest.fixture
def patient() -> Iterator[tuple[str, threading.Event]]:
    """An intent service that answers once it is let go."""
    app, go = FastAPI(), threading.Event()

    @app.post("/intent")
    def intent(_: dict[str, str]) -> dict[str, object]:
        assert go.wait(30)
        return INTENT

    with serving(app) as url:
        yield url, go


def test_the_model_begins_before_the_intent_is_known(
    start: Start, patient: tuple[str, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, go = patient
    client = start(DIALOGUE_INTENT_URL=url, DIALOGUE_INTENT_TIMEOUT=30)
    talker = Talker.instead(monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        talk = pool.submit(chat, client, "Hi")
        assert talker.began.wait(5)
        assert not talk.done()
        go.set()
        assert talk.result().json()["intent"] == INTENT


def test_the_intent_is_found_while_an_earlier_turn_goes_on(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, asked = FastAPI(), list[str]()

    @app.post("/intent")
    def intent(body: dict[str, str]) -> dict[str, object]:
        asked.append(body["text"])
        return INTENT

    with serving(app) as url, ThreadPoolExecutor(2) as pool:
        client = start(DIALOGUE_INTENT_URL=url)
        talker = Talker.instead(monkeypatch, waits_at=0)
        first = pool.submit(chat, client, "one")
        assert talker.began.wait(5)
        second = pool.submit(chat, client, "two")
        wait_until(lambda: asked == ["one", "two"])
        assert talker.asked == [["one"]]
        talker.go.set()
        assert [talk.result().json()["intent"] for talk in (first, second)] == [INTENT, INTENT]


def test_the_model_reads_what_was_said_before_and_nothing_that_was_forgotten(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[str]] = []
    real = LocalGenerator.reply

    async def reply(generator: LocalGenerator, turns: Sequence[str], **options: Any) -> str:
        read.append(list(turns))
        return await real(generator, turns, **options)

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


def test_a_late_reply_is_a_504_and_leaves_nothing(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    client = start(DIALOGUE_DEADLINE="1")
    talker = Talker.instead(monkeypatch, waits_at=2)
    answer = chat(client, "Hi")
    assert (answer.status_code, answer.json()["type"]) == (504, "urn:parley:problem:deadline-exceeded")
    assert talker.stopped.wait(5), "the model went on computing"
    assert messages(client) == []
    assert client.post("/generate", json={"input": "Hi"}).status_code == 504


def test_more_turns_than_the_queue_holds_are_refused_at_once(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start(DIALOGUE_QUEUE="1")
    talker = Talker.instead(monkeypatch, waits_at=0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(chat, client, "Hi")
        assert talker.began.wait(5)
        refusal = client.post("/chat", json={"message": "Hi", "conversation": "other"})
        assert (refusal.status_code, refusal.json()["type"]) == (429, "urn:parley:problem:overloaded")
        assert int(refusal.headers["Retry-After"]) >= 1
        assert client.get("/health/live").status_code == 200
        talker.go.set()
        assert waiting.result().status_code == 200


def test_forgetting_waits_for_the_reply_under_way(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = Talker.instead(monkeypatch, waits_at=0)
    with ThreadPoolExecutor(2) as pool:
        talk = pool.submit(chat, client, "Hi")
        assert talker.began.wait(5)
        forget = pool.submit(client.delete, "/memory")
        time.sleep(0.1)  # gives a wrong implementation the time to be wrong
        assert not forget.done()
        talker.go.set()
        assert talk.result().status_code == 200
        assert forget.result().json()["forgotten"] == 1
    assert messages(client) == []


def test_forgetting_at_another_process_waits_too_and_the_next_turn_knows_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = start(), start()
    talker = Talker.instead(monkeypatch, waits_at=0)
    with ThreadPoolExecutor(2) as pool:
        talk = pool.submit(chat, here, "secret")
        assert talker.began.wait(5)
        forget = pool.submit(there.delete, "/memory")
        time.sleep(0.2)  # gives a wrong implementation the time to be wrong
        assert not forget.done()
        talker.go.set()
        assert talk.result().status_code == 200
        assert forget.result().json()["forgotten"] == 1
    chat(there, "anew").raise_for_status()
    assert talker.asked == [["secret"], ["anew"]]
    assert messages(here) == ["anew"]


def test_two_processes_know_each_others_turns(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    services = [start(), start()]
    talker = Talker.instead(monkeypatch)
    with ThreadPoolExecutor(8) as pool:
        for answer in pool.map(lambda n: chat(services[n % 2], f"message {n}"), range(16)):
            answer.raise_for_status()
    reply = "".join(talker.pieces)
    expected = [text for message in messages(services[0]) for text in (message, reply)]
    assert sorted(talker.asked, key=len) == [expected[: 2 * n + 1] for n in range(16)]


def test_the_same_key_gets_the_same_reply_and_one_exchange(client: httpx.Client) -> None:
    first, second = (chat(client, "Hi", **{"Idempotency-Key": "k"}).raise_for_status() for _ in range(2))
    assert first.json() == second.json()
    assert messages(client) == ["Hi"]
    other = chat(client, "Bye", **{"Idempotency-Key": "k"})
    assert (other.status_code, other.json()["type"]) == (422, "urn:parley:problem:idempotency-key-reused")


def test_a_key_whose_request_runs_is_in_use_and_free_again_after_a_failure(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = Talker.instead(monkeypatch, waits_at=0)
    talker.fails = EmptyReply()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(chat, client, "Hi", **{"Idempotency-Key": "k"})
        assert talker.began.wait(5)
        again = chat(client, "Hi", **{"Idempotency-Key": "k"})
        assert (again.status_code, again.json()["type"]) == (409, "urn:parley:problem:idempotency-key-in-use")
        talker.go.set()
        assert running.result().status_code == 503
    talker.fails = None
    assert chat(client, "Hi", **{"Idempotency-Key": "k"}).status_code == 200


@pytest.mark.parametrize("path", ["/chat", "/generate"])
def test_who_hangs_up_stops_the_work_and_leaves_nothing(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    caplog.set_level("INFO")
    talker = Talker.instead(monkeypatch, waits_at=2)
    body = {"message": "Hi"} if path == "/chat" else {"input": "Hi"}
    with calling(client, path, body, **{"Idempotency-Key": "k"}):
        assert talker.began.wait(5)
    assert talker.stopped.wait(5), "the model went on computing"
    wait_until(lambda: logged(caplog, path) == [("POST", 499)])
    assert messages(client) == []
    talker.waits_at = None
    wait_until(lambda: chat(client, "Hi", **{"Idempotency-Key": "k"}).status_code == 200)
    assert messages(client) == ["Hi"]


def test_who_hangs_up_while_waiting_for_a_turn_never_gets_it(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    talker = Talker.instead(monkeypatch, waits_at=0)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(chat, client, "first")
        assert talker.began.wait(5)
        with calling(client, "/chat", {"message": "gone"}):
            time.sleep(0.1)  # until it waits
        wait_until(lambda: logged(caplog, "/chat") == [("POST", 499)])
        talker.go.set()
        assert first.result().status_code == 200
    chat(client, "last").raise_for_status()
    assert messages(client) == ["first", "last"]


def test_storing_that_has_begun_is_finished_though_the_caller_hangs_up(
    client: httpx.Client, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = Talker.instead(monkeypatch, waits_at=0)
    key = {"Idempotency-Key": "k"}
    with Redis.from_url(redis_url) as redis:
        with calling(client, "/chat", {"message": "Hi"}, **key):
            assert talker.began.wait(5)
            redis.execute_command("CLIENT PAUSE 30000 WRITE")
            talker.go.set()
            wait_until(lambda: redis.info("clients")["blocked_clients"])
        time.sleep(0.2)  # gives a wrong implementation the time to give up
        redis.execute_command("CLIENT UNPAUSE")
    wait_until(lambda: messages(client) == ["Hi"])
    again = chat(client, "Hi", **key).raise_for_status().json()
    assert again["reply"] == "".join(talker.pieces)
    assert messages(client) == ["Hi"]


@pytest.mark.parametrize("path", ["/chat", "/generate"])
def test_a_seed_makes_the_same_reply_again(client: httpx.Client, path: str) -> None:
    def reply(seed: int) -> str:
        said = {"message": "Hi", "conversation": str(len(seen))} if path == "/chat" else {"input": "Hi"}
        answer = client.post(path, json=said | {"seed": seed}).raise_for_status().json()
        seen.append(answer.get("reply") or answer["response"])
        return str(seen[-1])

    seen: list[str] = []
    assert reply(7) == reply(7)
    assert len({reply(seed) for seed in (0, 1, 2, 2**53 - 1)}) > 1


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


def test_a_refused_key_whose_caller_hangs_up_is_no_unhandled_error(
    client: httpx.Client, redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    talker = Talker.instead(monkeypatch, waits_at=0)
    key = {"Idempotency-Key": "k"}
    with Redis.from_url(redis_url) as redis, ThreadPoolExecutor(1) as pool:
        running = pool.submit(chat, client, "Hi", **key)
        assert talker.began.wait(5)
        redis.execute_command("CLIENT PAUSE 30000 WRITE")
        with calling(client, "/chat", {"message": "Hi"}, **key):
            wait_until(lambda: redis.info("clients")["blocked_clients"])
        time.sleep(0.2)  # until the hang-up is noticed
        redis.execute_command("CLIENT UNPAUSE")
        wait_until(lambda: logged(caplog, "/chat") == [("POST", 499)])
        talker.go.set()
        assert running.result().status_code == 200
    gc.collect()
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
