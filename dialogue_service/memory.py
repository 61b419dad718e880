"""The complete conversation in Redis; `keys` says what lies where.

Every change is one Lua script: it happens whole or not at all. Nothing is sent twice by itself, because
an append that timed out may have happened.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis

from dialogue_service import keys
from dialogue_service.contracts import Exchange, Feedback, Forgotten, MemoryPage, Turn
from dialogue_service.metrics import REDIS
from shared.problems import ConversationForgotten, KeyInUse, KeyReused

_EXPORT_BATCH = 200
_KEPT_KEY_S = 24 * 3600

_RECALL = """
local number = redis.call('HGET', KEYS[1], ARGV[1])
if not number then return {'', {}} end
local stream, block = ARGV[2] .. number, tonumber(ARGV[3])
local count = block + redis.call('XLEN', stream) % block
return {number, redis.call('XREVRANGE', stream, '+', '-', 'COUNT', count)}
"""

_APPEND = """
local number = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if number ~= ARGV[2] then return false end
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
if KEYS[3] then redis.call('SET', KEYS[3], ARGV[5] .. ':' .. id, 'EX', ARGV[6]) end
return id
"""

_FORGET = """
local number = redis.call('HGET', KEYS[1], ARGV[1])
if not number then return {0, 0} end
local gone = {redis.call('XLEN', ARGV[2] .. number), redis.call('HLEN', ARGV[3] .. number)}
redis.call('UNLINK', ARGV[2] .. number, ARGV[3] .. number)
redis.call('HDEL', KEYS[1], ARGV[1])
return gone
"""

_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


def connect(url: str) -> Redis:
    """A client whose every wait is bounded and that never sends a command twice."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=64,
        timeout=2,
        socket_connect_timeout=2,
        socket_timeout=5,
        decode_responses=True,
    )
    return _Measured.from_pool(pool)


class _Measured(Redis):
    """Notes how long each command takes."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command."""
        with REDIS.labels(str(args[0])).time():
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Recalled:
    """The newer exchanges of a conversation, oldest first, and the number that an append must find again."""

    number: str
    turns: list[Turn]


@dataclass(frozen=True)
class IdempotencyKey:
    """A caller's key for one request: the Redis key that stands for it, and its body's hash."""

    key: str
    body: str

    @classmethod
    def of(cls, key: str, request: str) -> "IdempotencyKey":
        """From the header and the request's canonical JSON."""
        return cls(keys.IDEMPOTENCY + keys.sha256(key), keys.sha256(request))


class Memory:
    """Conversations in Redis. Every method may raise redis.RedisError."""

    def __init__(self, redis: Redis) -> None:
        # Typed loosely: redis-py cannot know that this client decodes, so its answers are bytes or str.
        self._redis: Any = redis
        self._recall = redis.register_script(_RECALL)
        self._append = redis.register_script(_APPEND)
        self._forget = redis.register_script(_FORGET)
        self._release = redis.register_script(_RELEASE)

    async def recall(self, conversation: str, count: int) -> Recalled:
        """At least the newest `count` exchanges, fewer than twice as many; the cost depends on nothing else.

        The oldest returned stays the same for `count` turns: what a model computed for it serves again.
        """
        number, entries = await self._recall(
            keys=[keys.CONVERSATIONS], args=[conversation, keys.STREAM, count]
        )
        return Recalled(
            number, [_turn(dict(zip(f[::2], f[1::2], strict=True))) for _, f in reversed(entries)]
        )

    async def append(self, turn: Turn, number: str, key: IdempotencyKey | None = None) -> str:
        """Store one exchange and return its id. `number` is what `recall` returned.

        Raises ConversationForgotten when the conversation is not that one any more; nothing is stored then.
        """
        touched = [keys.CONVERSATIONS, keys.NUMBERS, *([key.key] if key else [])]
        args: list[str | int] = [
            turn.conversation,
            number,
            keys.STREAM,
            turn.model_dump_json(),
            key.body if key else "",
            _KEPT_KEY_S,
        ]
        exchange_id: str | None = await self._append(keys=touched, args=args)
        if exchange_id is None:
            raise ConversationForgotten
        return exchange_id

    async def claim(self, key: IdempotencyKey, running_s: float) -> Exchange | None:
        """Claim a key for `running_s` seconds; the stored exchange if the request was answered before.

        Raises KeyInUse, KeyReused, or ConversationForgotten when the stored exchange is gone.
        """
        claimed = await self._redis.set(key.key, f"{key.body}:", nx=True, px=int(running_s * 1000))
        if claimed:
            return None
        body, _, exchange_id = (await self._redis.get(key.key) or f"{key.body}:").partition(":")
        if body != key.body:
            raise KeyReused
        if not exchange_id:
            raise KeyInUse(retry_after_s=1)
        if (exchange := await self.find(exchange_id)) is None:
            raise ConversationForgotten(
                "The reply of this key was stored, and forgotten since. Use a new key."
            )
        return exchange

    async def release(self, key: IdempotencyKey) -> None:
        """Give up a claim whose request failed; an answered one stays."""
        await self._release(keys=[key.key], args=[f"{key.body}:"])

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

    async def forget(self, conversation: str) -> Forgotten:
        """Forget a conversation and the votes on it."""
        exchanges, votes = await self._forget(
            keys=[keys.CONVERSATIONS], args=[conversation, keys.STREAM, keys.FEEDBACK]
        )
        return Forgotten(forgotten=exchanges, feedback_forgotten=votes)

    async def numbers(self) -> list[str]:
        """The numbers of all conversations there are, in the order in which they began."""
        return sorted(await self._redis.hvals(keys.CONVERSATIONS), key=int)

    async def ping(self) -> None:
        """Raises redis.RedisError when Redis does not answer."""
        await self._redis.ping()

    async def _with_feedback(self, entries: list[tuple[str, dict[str, str]]]) -> list[Exchange]:
        """Stream entries of one conversation as exchanges."""
        if not entries:
            return []
        ids = [entry_id for entry_id, _ in entries]
        votes = await self._redis.hmget(keys.FEEDBACK + keys.number_of(ids[0]), ids)
        return [
            Exchange(
                **_turn(fields).model_dump(),
                id=entry_id,
                at=keys.time_of(entry_id),
                feedback=Feedback.model_validate_json(vote) if vote else None,
            )
            for (entry_id, fields), vote in zip(entries, votes, strict=True)
        ]


def _turn(fields: dict[str, str]) -> Turn:
    return Turn.model_validate_json(fields["turn"])
