"""Turns of one conversation go one after another, in all processes; all together are bounded."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from dialogue_service import connection, keys
from dialogue_service import turns as module
from dialogue_service.connection import Client
from dialogue_service.turns import Turns
from shared.problems import DeadlineExceeded, Overloaded
from tests.servers import RedisServer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Client]:
    async with connection.connect(redis_url) as client:
        yield client


async def one(turns: Turns, conversation: str, wait_s: float = 5) -> None:
    async with turns.admit(conversation) as ticket, turns.take(ticket, wait_s):
        pass


async def test_turns_of_one_conversation_go_in_order_of_arrival(redis: Client) -> None:
    turns, log = Turns(redis, 10), []

    async def take(n: int) -> None:
        async with turns.admit("a") as ticket, turns.take(ticket, 5):
            log.append(("in", n))
            await asyncio.sleep(0.001)
            log.append(("out", n))

    await asyncio.gather(*(take(n) for n in range(5)))
    assert log == [(what, n) for n in range(5) for what in ("in", "out")]


async def test_two_processes_have_their_turns_alternately_and_never_both(redis: Client) -> None:
    log: list[str] = []

    async def take(turns: Turns, name: str) -> None:
        async with turns.admit("a") as ticket, turns.take(ticket, 30):
            log.append(f"{name} in")
            await asyncio.sleep(0.05)
            log.append(f"{name} out")

    one, two = Turns(redis, 10), Turns(redis, 10)
    await asyncio.gather(
        *(take(turns, name) for turns, name in [(one, "one"), (two, "two")] for _ in range(4))
    )
    assert len(log) == 16
    assert all(entry == f"{before[:3]} out" for before, entry in zip(log[::2], log[1::2], strict=True))
    # Whoever has had a turn stands in line again behind the other.
    assert log[::2][:2] in (["one in", "two in"], ["two in", "one in"])
    assert log[::2] == log[:4:2] * 4


async def test_another_conversation_does_not_wait(redis: Client) -> None:
    turns = Turns(redis, 10)
    async with turns.admit("a") as ticket, turns.take(ticket, 5):
        await one(turns, "b")


@pytest.mark.parametrize("same_process", [True, False])
async def test_waiting_ends_at_the_deadline_and_the_turn_is_not_lost(
    redis: Client, same_process: bool
) -> None:
    turns = Turns(redis, 10)
    others = turns if same_process else Turns(redis, 10)
    async with turns.admit("a") as ticket, turns.take(ticket, 5):
        with pytest.raises(DeadlineExceeded):
            await one(others, "a", 0.1)
    await one(others, "a")


async def test_more_than_the_bound_is_refused_at_once(redis: Client) -> None:
    turns = Turns(redis, 2)
    async with turns.admit("a"), turns.admit("b"):
        with pytest.raises(Overloaded) as refusal:
            await one(turns, "c")
        assert int(refusal.value.headers["Retry-After"]) >= 1
    await one(turns, "c")


async def test_a_failed_or_cancelled_turn_frees_its_place(redis: Client) -> None:
    turns = Turns(redis, 1)
    with pytest.raises(ZeroDivisionError):
        async with turns.admit("a") as ticket, turns.take(ticket, 5):
            raise ZeroDivisionError
    holder_in = asyncio.Event()

    async def hold() -> None:
        async with turns.admit("a") as ticket, turns.take(ticket, 5):
            holder_in.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(hold())
    await holder_in.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await one(turns, "a")
    assert await redis.keys() == []


async def test_the_turn_of_a_process_that_died_is_over_when_its_lease_is(
    redis: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LEASE_MS", 100)
    await redis.rpush(keys.LINE + "a", "killed")  # type: ignore[misc]
    await redis.set(keys.LEASE + "killed", "", px=100)
    await one(Turns(redis, 10), "a")


async def test_a_turn_that_takes_longer_than_a_lease_is_kept(
    redis: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LEASE_MS", 200)
    monkeypatch.setattr(module, "_RENEWED_AFTER_S", 0.05)
    turns, others = Turns(redis, 10), Turns(redis, 10)
    async with turns.admit("a") as ticket, turns.take(ticket, 5):
        with pytest.raises(DeadlineExceeded):
            await one(others, "a", 1.0)


async def test_a_turn_is_given_back_once_redis_is_there_again(own_server: RedisServer) -> None:
    async with connection.connect(own_server.url) as client, Turns(client, 10) as turns:
        async with turns.admit("a") as ticket, turns.take(ticket, 5):
            own_server.kill()
        own_server.start()
        async with asyncio.timeout(module.LEASE_S / 2):
            await one(turns, "a")
