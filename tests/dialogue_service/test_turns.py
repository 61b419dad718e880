"""Turns of one conversation go one after another; all together are bounded."""

import asyncio

import pytest

from dialogue_service.turns import Turns
from shared.problems import DeadlineExceeded, Overloaded

pytestmark = pytest.mark.anyio


async def test_turns_of_one_conversation_go_in_order_of_arrival() -> None:
    turns, log = Turns(10), []

    async def take(n: int) -> None:
        async with turns.take("a", 5):
            log.append(("in", n))
            await asyncio.sleep(0.001)
            log.append(("out", n))

    await asyncio.gather(*(take(n) for n in range(5)))
    assert log == [(what, n) for n in range(5) for what in ("in", "out")]


async def test_another_conversation_does_not_wait() -> None:
    turns = Turns(10)
    async with turns.take("a", 5), turns.take("b", 0.001):
        pass


async def test_waiting_ends_at_the_deadline_and_the_lock_is_not_lost() -> None:
    turns = Turns(10)
    async with turns.take("a", 5):
        with pytest.raises(DeadlineExceeded):
            async with turns.take("a", 0.01):
                pytest.fail("it was taken twice")
    async with turns.take("a", 0.01):
        pass


async def test_more_than_the_bound_is_refused_at_once() -> None:
    turns = Turns(2)
    async with turns.take("a", 5), turns.take("b", 5):
        with pytest.raises(Overloaded) as refusal:
            async with turns.take("c", 5):
                pytest.fail("it was admitted")
        assert int(refusal.value.headers["Retry-After"]) >= 1
    async with turns.take("c", 5):
        pass


async def test_a_failed_or_cancelled_turn_frees_its_place() -> None:
    turns = Turns(1)
    with pytest.raises(ZeroDivisionError):
        async with turns.take("a", 5):
            raise ZeroDivisionError
    holder_in = asyncio.Event()

    async def hold() -> None:
        async with turns.take("a", 5):
            holder_in.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(hold())
    await holder_in.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with turns.take("a", 0.01):
        pass
