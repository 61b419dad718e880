"""The complete conversation in Redis; `keys` says what lies where.

Every change is one Lua script: it happens whole or not at all. One that got no answer may have happened, and
may even happen later: what has a ticket (`turns`) happens only while the ticket is good.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel
from redis.asyncio import Redis

from dialogue_service import keys
from dialogue_service.contracts import Exchange, Feedback, Forgotten, MemoryPage, Turn
from dialogue_service.keys import IdempotencyKey
from dialogue_service.turns import LEASE_S, Ticket
from shared.problems import ConversationForgotten, KeyInUse, KeyReused, MemoryUnavailable

_EXPORT_BATCH = 200
_KEPT_KEY_S = 24 * 3600
_READ_BEFORE = 512
"""Exchanges that need not be read from their JSON again: all but the newest were in the turn before."""

_RECALL = """
local number = redis.call('HGET', KEYS[1], ARGV[1])
if not number then return {'', {}} end
local stream, block = ARGV[2] .. number, tonumber(ARGV[3])
local count = block + redis.call('XLEN', stream) % block
return {number, redis.call('XREVRANGE', stream, '+', '-', 'COUNT', count)}
"""

# Changes what the turn is about only while its ticket is the first in line, and its claim still its own.
_APPEND = """
local line, lease, key = KEYS[3], KEYS[4], KEYS[5]
if redis.call('LINDEX', line, 0) ~= ARGV[5] then return {'lost'} end
if key and redis.call('GET', key) ~= ARGV[6] .. ':' .. ARGV[5] then return {'lost'} end
local number = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if number ~= ARGV[2] then return {'forgotten'} end
if number == '' then
  number = tostring(redis.call('INCR', KEYS[2]))
  redis.call('HSET', KEYS[1], ARGV[1], number)
end
local stream = ARGV[3] .. number
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)
if #last > 0 then ms = math.max(ms, tonumber(string.match(last[1][1], '^%d+')) + 1) end
local id = string.format('%.0f-%s', ms, number)
redis.call('XADD', stream, id, 'turn', ARGV[4])
if key then redis.call('SET', key, ARGV[6] .. ':' .. id, 'EX', ARGV[7]) end
redis.call('LPOP', line)
redis.call('DEL', lease)
return {'stored', id}
"""

_FORGET = """
if redis.call('LINDEX', KEYS[2], 0) ~= ARGV[4] then return {'lost'} end
local number = redis.call('HGET', KEYS[1], ARGV[1])
if not number then return {'done', 0, 0} end
local gone = {'done', redis.call('XLEN', ARGV[2] .. number), redis.call('HLEN', ARGV[3] .. number)}
redis.call('UNLINK', ARGV[2] .. number, ARGV[3] .. number)
redis.call('HDEL', KEYS[1], ARGV[1])
return gone
"""

# A claim whose turn is dead is none. A ticket's id, unlike an exchange's, has no dash.
_CLAIM = """
local body, by = string.match(redis.call('GET', KEYS[1]) or '', '^(%x+):(.*)$')
local answered = by and string.find(by, '-', 1, true)
if answered or by and redis.call('EXISTS', ARGV[3] .. by) == 1 then
  if body ~= ARGV[1] then return {'reused'} end
  return answered and {'answered', by} or {'running'}
end
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. ARGV[2], 'EX', ARGV[5])
redis.call('SET', KEYS[2], '', 'PX', ARGV[4])
return {'claimed'}
"""

_LOST = (
    "Redis or this service was held up for so long that the turn was lost. Nothing was stored; send it again."
)


class Spoken(BaseModel):
    """What a model is told of an exchange. Every turn reads dozens of them, so nothing else is looked at."""

    message: str
    reply: str


@dataclass(frozen=True)
class Recalled:
    """The newer exchanges of a conversation, oldest first, and the number that an append must find again."""

    number: str
    turns: list[Spoken]


class Memory:
    """Conversations in Redis. Every method may raise MemoryUnavailable."""

    def __init__(self, redis: Redis) -> None:
        # Typed loosely: redis-py cannot know that this client decodes, so its answers are bytes or str.
        self._redis: Any = redis
        self._recall = redis.register_script(_RECALL)
        self._append = redis.register_script(_APPEND)
        self._forget = redis.register_script(_FORGET)
        self._claim = redis.register_script(_CLAIM)
        self._spoken = lru_cache(_READ_BEFORE)(Spoken.model_validate_json)

    async def recall(self, conversation: str, count: int) -> Recalled:
        """At least the newest `count` exchanges, fewer than twice as many; the cost depends on nothing else.

        The oldest returned stays the same for `count` turns: what a model computed for it serves again.
        """
        number, entries = await self._recall(
            keys=[keys.CONVERSATIONS], args=[conversation, keys.STREAM, count]
        )
        stored = (dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in reversed(entries))
        return Recalled(number, [self._spoken(fields["turn"]) for fields in stored])

    async def append(self, turn: Turn, number: str, ticket: Ticket) -> str:
        """Store one exchange and return its id; the ticket is used up. `number` is what `recall` returned.

        Raises ConversationForgotten when the conversation is not that one any more; nothing is stored then.
        """
        key = ticket.key
        touched = [keys.CONVERSATIONS, keys.NUMBERS, ticket.line, ticket.lease, *([key.key] if key else [])]
        args: list[str | int] = [
            turn.conversation,
            number,
            keys.STREAM,
            turn.model_dump_json(),
            ticket.id,
            key.body if key else "",
            _KEPT_KEY_S,
        ]
        outcome, *rest = await self._append(keys=touched, args=args)
        if outcome == "forgotten":
            raise ConversationForgotten
        if outcome == "lost":
            raise MemoryUnavailable(_LOST, retry_after_s=1)
        ticket.used = True
        return str(rest[0])

    async def claim(self, ticket: Ticket, key: IdempotencyKey) -> Exchange | None:
        """Claim the key for the ticket's turn; the stored exchange if the request was answered before.

        Raises KeyInUse, KeyReused, or ConversationForgotten when the stored exchange is gone.
        """
        outcome, *rest = await self._claim(
            keys=[key.key, ticket.lease],
            args=[key.body, ticket.id, keys.LEASE, int(LEASE_S * 1000), _KEPT_KEY_S],
        )
        if outcome == "claimed":
            return None
        if outcome == "reused":
            raise KeyReused
        if outcome == "running":
            raise KeyInUse(retry_after_s=1)
        if (exchange := await self.find(rest[0])) is None:
            raise ConversationForgotten(
                "The reply of this key was stored, and forgotten since. Use a new key."
            )
        return exchange

    async def find(self, exchange_id: str) -> Exchange | None:
        """One exchange with its vote, or None."""
        stream = keys.STREAM + keys.number_of(exchange_id)
        found = await self._with_feedback(await self._redis.xrange(stream, exchange_id, exchange_id))
        return found[0] if found else None

    async def before(self, exchange_id: str, count: int) -> list[Turn]:
        """The exchange and up to `count` exchanges before it, oldest first."""
        stream = keys.STREAM + keys.number_of(exchange_id)
        entries = await self._redis.xrevrange(stream, max=exchange_id, count=count + 1)
        return [_turn(fields) for _, fields in reversed(entries)]

    async def page(self, conversation: str, limit: int, before: str | None) -> MemoryPage:
        """The newest `limit` exchanges, or those before an id; newest last."""
        number = await self._redis.hget(keys.CONVERSATIONS, conversation)
        entries = (
            await self._redis.xrevrange(
                keys.STREAM + number, max=f"({before}" if before else "+", count=limit + 1
            )
            if number
            else []
        )
        exchanges = await self._with_feedback(list(reversed(entries[:limit])))
        older = exchanges[0].id if len(entries) > limit else None
        return MemoryPage(conversation=conversation, exchanges=exchanges, next=older)

    async def everything(self, conversation: str) -> AsyncIterator[Exchange]:
        """The whole conversation, oldest first, in constant memory."""
        number = await self._redis.hget(keys.CONVERSATIONS, conversation)
        after = "-"
        while number:
            entries = await self._redis.xrange(keys.STREAM + number, min=after, count=_EXPORT_BATCH)
            if not entries:
                return
            for exchange in await self._with_feedback(entries):
                yield exchange
            after = f"({entries[-1][0]}"

    async def forget(self, ticket: Ticket) -> Forgotten:
        """Forget the ticket's conversation and the votes on it."""
        outcome, *gone = await self._forget(
            keys=[keys.CONVERSATIONS, ticket.line],
            args=[ticket.conversation, keys.STREAM, keys.FEEDBACK, ticket.id],
        )
        if outcome == "lost":
            raise MemoryUnavailable(_LOST, retry_after_s=1)
        self._spoken.cache_clear()
        return Forgotten(forgotten=gone[0], feedback_forgotten=gone[1])

    async def numbers(self) -> list[str]:
        """The numbers of all conversations there are, in the order in which they began."""
        return sorted(await self._redis.hvals(keys.CONVERSATIONS), key=int)

    async def ping(self) -> None:
        """Raises MemoryUnavailable when Redis does not answer."""
        await self._redis.ping()

    async def _with_feedback(self, entries: list[tuple[str, dict[str, str]]]) -> list[Exchange]:
        """Stream entries of one conversation as exchanges."""
        if not entries:
            return []
        ids = [entry_id for entry_id, _ in entries]
        votes = await self._redis.hmget(keys.FEEDBACK + keys.number_of(ids[0]), ids)
        return [
            Exchange(
                **dict(_turn(fields)),
                id=entry_id,
                at=keys.time_of(entry_id),
                feedback=Feedback.model_validate_json(vote) if vote else None,
            )
            for (entry_id, fields), vote in zip(entries, votes, strict=True)
        ]


def _turn(fields: dict[str, str]) -> Turn:
    return Turn.model_validate_json(fields["turn"])
