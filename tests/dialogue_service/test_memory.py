"""Conversations against every kind of real server."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio import Redis

from dialogue_service import connection, keys, memory
from dialogue_service.contracts import Forgotten, Timings, Turn
from dialogue_service.keys import IdempotencyKey
from dialogue_service.memory import Memory
from dialogue_service.turns import LEASE_S, Ticket, Turns
from shared.problems import ConversationForgotten, KeyInUse, KeyReused, MemoryUnavailable
from tests.servers import RedisServer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def redis(any_server: RedisServer) -> AsyncIterator[Redis]:
    any_server.empty()
    async with connection.connect(any_server.url) as client:
        yield client


@pytest.fixture
def store(redis: Redis) -> Memory:
    return Memory(redis)


def turn(message: str, conversation: str = "default") -> Turn:
    return Turn(
        conversation=conversation,
        message=message,
        reply=f"re: {message}",
        intent=None,
        model="m",
        timings=Timings(waiting_ms=0, recall_ms=0, intent_ms=0, reply_ms=0),
    )


@pytest.fixture
def turns(redis: Redis) -> Turns:
    return Turns(redis, 10)


async def say(store: Memory, *messages: str, conversation: str = "default") -> list[str]:
    ids = []
    turns = Turns(store._redis, 10)
    for message in messages:
        async with turns.admit(conversation) as ticket, turns.take(ticket, 5):
            number = (await store.recall(conversation, 1)).number
            ids.append(await store.append(turn(message, conversation), number, ticket))
    return ids


async def forget(store: Memory, conversation: str = "default") -> Forgotten:
    turns = Turns(store._redis, 10)
    async with turns.admit(conversation) as ticket, turns.take(ticket, 5):
        return await store.forget(ticket)


async def test_exchanges_are_recalled_oldest_first_and_only_the_newest(store: Memory) -> None:
    await say(store, *"abcdef")
    recalled = await store.recall("default", 3)
    assert [t.message for t in recalled.turns] == ["d", "e", "f"]


async def test_what_is_forgotten_is_not_kept_in_the_process_either(store: Memory) -> None:
    await say(store, *"abc")
    await store.recall("default", 3)
    assert store._spoken.cache_info().currsize == 3
    await forget(store)
    assert store._spoken.cache_info().currsize == 0


async def test_what_is_recalled_begins_with_the_same_exchange_for_many_turns(store: Memory) -> None:
    firsts = []
    for letter in "abcdefghij":
        await say(store, letter)
        turns = (await store.recall("default", 3)).turns
        assert turns[-1].message == letter
        firsts.append(turns[0].message)
    assert "".join(firsts) == "aaaaadddgg"


async def test_a_conversation_that_never_was_is_empty(store: Memory) -> None:
    assert (await store.recall("nobody", 3)).turns == []
    page = await store.page("nobody", 10, None)
    assert (page.exchanges, page.next) == ([], None)
    assert [e async for e in store.everything("nobody")] == []
    assert (await forget(store, "nobody")).forgotten == 0


async def test_ids_are_in_order_unique_across_conversations_and_tell_the_time(store: Memory) -> None:
    ids = []
    for message in "abcdefgh":
        ids += await say(store, message, conversation="one")
        ids += await say(store, message, conversation="two")
    assert len(set(ids)) == len(ids)
    for mine in (ids[::2], ids[1::2]):
        assert mine == sorted(mine)
        assert len({keys.number_of(i) for i in mine}) == 1
    assert abs(keys.time_of(ids[-1]) - datetime.now(UTC)) < timedelta(minutes=1)


async def test_an_id_stays_unique_when_the_clock_has_gone_back(store: Memory, redis: Redis) -> None:
    (first,) = await say(store, "a")
    number = keys.number_of(first)
    future = f"9000000000000-{number}"
    await redis.xadd(keys.STREAM + number, {"turn": turn("from the future").model_dump_json()}, id=future)
    (after,) = await say(store, "b")
    assert after == f"9000000000001-{number}"


async def test_pages_lead_back_to_the_first_exchange(store: Memory) -> None:
    ids = await say(store, *"abcde")
    seen: list[str] = []
    before = None
    while True:
        page = await store.page("default", 2, before)
        seen = [e.id for e in page.exchanges] + seen
        before = page.next
        if before is None:
            break
    assert seen == ids


async def test_the_export_is_complete_beyond_one_batch(
    store: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_EXPORT_BATCH", 2)
    ids = await say(store, *"abcde")
    assert [e.id async for e in store.everything("default")] == ids


async def test_forgetting_takes_one_conversation_with_its_votes(store: Memory, redis: Redis) -> None:
    (gone,) = await say(store, "a")
    (kept,) = await say(store, "b", conversation="other")
    for exchange in (gone, kept):
        await redis.hset(keys.FEEDBACK + keys.number_of(exchange), exchange, "{}")  # type: ignore[misc]
    forgotten = await forget(store)
    assert (forgotten.forgotten, forgotten.feedback_forgotten) == (1, 1)
    left = {key async for key in redis.scan_iter()}
    number = keys.number_of(kept)
    assert left == {keys.CONVERSATIONS, keys.NUMBERS, keys.STREAM + number, keys.FEEDBACK + number}


async def test_a_reply_made_for_a_forgotten_conversation_is_not_stored(store: Memory, turns: Turns) -> None:
    await say(store, "secret")
    before = await store.recall("default", 5)
    await forget(store)
    async with turns.admit("default") as ticket, turns.take(ticket, 5):
        with pytest.raises(ConversationForgotten):
            await store.append(turn("late"), before.number, ticket)
    await say(store, "anew")
    async with turns.admit("default") as ticket, turns.take(ticket, 5):
        with pytest.raises(ConversationForgotten):
            await store.append(turn("later"), before.number, ticket)
    assert [t.message for t in (await store.recall("default", 5)).turns] == ["anew"]


async def test_what_was_said_comes_back_letter_by_letter(store: Memory) -> None:
    message = 'quote " backslash \\ newline \n emoji 🎈 nul-free 漢字 <|endoftext|> {"json": 1}'
    await say(store, message)
    assert (await store.recall("default", 1)).turns[0].message == message


async def test_a_key_answers_once_and_then_repeats_the_answer(store: Memory, turns: Turns) -> None:
    key = IdempotencyKey.of("k", "body")
    async with turns.admit("default", key) as ticket:
        assert await store.claim(ticket, key) is None
        async with turns.admit("default", key) as other:
            with pytest.raises(KeyInUse):
                await store.claim(other, key)
        other_body = IdempotencyKey.of("k", "other body")
        with pytest.raises(KeyReused):
            await store.claim(Ticket("default", other_body), other_body)
        async with turns.take(ticket, 5):
            exchange_id = await store.append(turn("a"), "", ticket)
    async with turns.admit("default", key) as ticket:
        again = await store.claim(ticket, key)
    assert again is not None
    assert (again.id, again.message) == (exchange_id, "a")
    assert await store.claim(Ticket("default", key), key) == again, "a failure after the answer took it back"


async def test_a_key_is_free_again_after_a_failure_and_after_its_process_died(
    store: Memory, turns: Turns, redis: Redis
) -> None:
    key, other_body = IdempotencyKey.of("k", "body"), IdempotencyKey.of("k", "other body")
    async with turns.admit("default", key) as ticket:
        assert await store.claim(ticket, key) is None
    dead = Ticket("default", key)
    assert await store.claim(dead, key) is None
    assert 0 < await redis.pttl(dead.lease) <= LEASE_S * 1000
    await redis.delete(dead.lease)
    assert await store.claim(Ticket("default", other_body), other_body) is None


async def test_a_key_whose_exchange_is_forgotten_says_so(store: Memory, turns: Turns) -> None:
    key = IdempotencyKey.of("k", "body")
    async with turns.admit("default", key) as ticket, turns.take(ticket, 5):
        await store.claim(ticket, key)
        await store.append(turn("a"), "", ticket)
    await forget(store)
    with pytest.raises(ConversationForgotten):
        await store.claim(Ticket("default", key), key)


async def test_a_turn_that_was_lost_changes_nothing(store: Memory, turns: Turns, redis: Redis) -> None:
    await say(store, "before")
    async with turns.admit("default") as held_up, turns.take(held_up, 5):
        number = (await store.recall("default", 1)).number
        await redis.delete(held_up.lease)  # as if it had not been renewed for long
        await say(store, "meanwhile")
        with pytest.raises(MemoryUnavailable, match="the turn was lost"):
            await store.append(turn("too late"), number, held_up)
        with pytest.raises(MemoryUnavailable, match="the turn was lost"):
            await store.forget(held_up)
    assert [t.message for t in (await store.recall("default", 5)).turns] == ["before", "meanwhile"]


async def test_a_reply_whose_key_was_claimed_by_another_turn_meanwhile_is_not_stored(
    store: Memory, turns: Turns, redis: Redis
) -> None:
    key = IdempotencyKey.of("k", "body")
    async with turns.admit("default", key) as held_up, turns.take(held_up, 5):
        await store.claim(held_up, key)
        await redis.delete(held_up.lease)
        assert await store.claim(Ticket("default", key), key) is None
        with pytest.raises(MemoryUnavailable, match="the turn was lost"):
            await store.append(turn("too late"), "", held_up)
    assert (await store.recall("default", 5)).turns == []


async def test_a_finished_turn_leaves_nothing_but_its_exchange(store: Memory, redis: Redis) -> None:
    (exchange_id,) = await say(store, "a")
    left = {key async for key in redis.scan_iter()}
    assert left == {keys.CONVERSATIONS, keys.NUMBERS, keys.STREAM + keys.number_of(exchange_id)}


async def test_nothing_acknowledged_is_lost_by_kill_9(own_server: RedisServer) -> None:
    async with connection.connect(own_server.url) as client:
        ids = await say(Memory(client), *"abc")
    own_server.kill()
    own_server.start()
    async with connection.connect(own_server.url) as client:
        recalled = [e.id async for e in Memory(client).everything("default")]
    assert recalled == ids


async def test_an_entry_is_one_json_field(store: Memory, redis: Redis) -> None:
    (exchange_id,) = await say(store, "a")
    ((entry_id, fields),) = await redis.xrange(keys.STREAM + keys.number_of(exchange_id))
    assert (entry_id, json.loads(fields.pop("turn"))["message"], fields) == (exchange_id, "a", {})
