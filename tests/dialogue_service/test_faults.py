"""The network to Redis and to the intent service fails in every way that a proxy can make it fail."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from redis import Redis

from dialogue_service import connection
from dialogue_service.turns import LEASE_S
from tests.dialogue_service.conftest import Start
from tests.dialogue_service.talking import Talker, chat, messages
from tests.proxy import Fault, Proxy, proxying
from tests.servers import RedisServer, wait_until

ANSWER_S = 0.5
BREAKS = {
    "late": Fault("delay", seconds=3 * ANSWER_S),
    "black hole": Fault("black hole"),
    "reset": Fault("reset"),
    "cut in the middle": Fault("cut", after_bytes=7),
    "refused": Fault("refuse"),
}
KEY = {"Idempotency-Key": "k"}

every_fault = pytest.mark.parametrize("fault", BREAKS.values(), ids=BREAKS.keys())


@pytest.fixture
def way(redis_server: RedisServer) -> Iterator[Proxy]:
    redis_server.empty()
    with proxying(redis_server.url.removeprefix("unix://").partition("?")[0]) as proxy:
        yield proxy


@pytest.fixture
def behind(start: Start, way: Proxy, monkeypatch: pytest.MonkeyPatch) -> httpx.Client:
    """A dialogue service that reaches Redis through the proxy and is impatient."""
    monkeypatch.setattr(connection, "ANSWER_S", ANSWER_S)
    return start(REDIS_URL=f"redis://127.0.0.1:{way.port}/0")


def unavailable(answer: httpx.Response) -> bool:
    return (answer.status_code, answer.json()["type"]) == (503, "urn:parley:problem:memory-unavailable")


@every_fault
def test_a_turn_that_begins_without_redis_is_refused_and_safe_to_repeat(
    behind: httpx.Client, way: Proxy, fault: Fault
) -> None:
    chat(behind, "before").raise_for_status()
    way.set(fault)
    assert unavailable(chat(behind, "within", **KEY))
    way.set(Fault())
    wait_until(lambda: chat(behind, "within", **KEY).status_code == 200)
    chat(behind, "after").raise_for_status()
    assert messages(behind) == ["before", "within", "after"]


@every_fault
def test_a_reply_that_cannot_be_stored_is_not_told_and_never_stored_twice(
    behind: httpx.Client, way: Proxy, fault: Fault, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = Talker.instead(monkeypatch)
    chat(behind, "before").raise_for_status()
    talker.waits_at = 0
    talker.began.clear()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(chat, behind, "within", **KEY)
        assert talker.began.wait(5)
        way.set(fault)
        talker.go.set()
        assert unavailable(answer.result())
    way.set(Fault())
    wait_until(lambda: chat(behind, "within", **KEY).status_code == 200)
    chat(behind, "after").raise_for_status()
    time.sleep(3 * ANSWER_S)  # until what was late has arrived
    assert messages(behind) == ["before", "within", "after"]
    with Redis.from_url(redis_url) as redis:
        wait_until(lambda: not redis.keys("parley:line:*"), 3 * LEASE_S)


@every_fault
def test_without_the_intents_it_talks_on_and_finds_them_again(
    start: Start, intents: str, fault: Fault
) -> None:
    with proxying(int(intents.rpartition(":")[2])) as proxy:
        client = start(DIALOGUE_INTENT_URL=f"http://127.0.0.1:{proxy.port}", DIALOGUE_INTENT_TIMEOUT=ANSWER_S)
        assert chat(client, "before").json()["intent"]
        proxy.set(fault)
        within = chat(client, "within").raise_for_status().json()
        assert (within["intent"], within["degraded"]) == (None, ["intent"])
        proxy.set(Fault())
        wait_until(lambda: chat(client, "after").json()["intent"])
