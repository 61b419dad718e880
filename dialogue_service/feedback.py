"""Votes on replies, kept beside the exchanges they belong to; `keys` says what lies where."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, get_args

from redis.asyncio import Redis

from dialogue_service import keys
from dialogue_service.contracts import (
    ExchangeFeedback,
    Feedback,
    FeedbackExport,
    FeedbackPage,
    FreeFeedback,
    Rating,
)
from dialogue_service.memory import Memory
from shared.problems import NotFound

_CONTEXT_EXCHANGES = 32
"""More than fits into the window that DIALOGUE_CONTEXT_TOKENS gives a model by default."""

# A vote on an exchange that is not there (any more) is refused in the same step that would store it. The same
# vote again keeps its time; texts cannot hold the key that is cut out, for in JSON their quotes are escaped.
_VOTE = """
if KEYS[2] and #redis.call('XRANGE', KEYS[2], ARGV[1], ARGV[1]) == 0 then return false end
local function timeless(vote) return (string.gsub(vote, '"at":"[^"]*"', '', 1)) end
local old = redis.call('HGET', KEYS[1], ARGV[1])
if old and timeless(old) == timeless(ARGV[2]) then return old end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return ARGV[2]
"""

_IDS = """
local ids = {}
for _, votes in ipairs(KEYS) do
  for _, id in ipairs(redis.call('HKEYS', votes)) do ids[#ids + 1] = id end
end
return ids
"""


class FeedbackStore:
    """Votes in Redis. Every method may raise MemoryUnavailable."""

    def __init__(self, redis: Redis, memory: Memory) -> None:
        self._redis: Any = redis  # typed loosely for the same reason as in `memory`
        self._memory = memory
        self._vote = redis.register_script(_VOTE)
        self._all_ids = redis.register_script(_IDS)

    async def put(self, vote: ExchangeFeedback) -> Feedback:
        """Store a vote on an exchange in place of an earlier one. Raises NotFound when it does not exist."""
        feedback = Feedback(
            id=vote.exchange_id, at=datetime.now(UTC), **vote.model_dump(exclude={"exchange_id"})
        )
        stored = await self._vote(
            keys=[_hash_of(feedback.id), keys.STREAM + keys.number_of(feedback.id)],
            args=[feedback.id, feedback.model_dump_json()],
        )
        if not stored:
            raise NotFound(f"There is no exchange {feedback.id}. GET /memory lists the ids.")
        return Feedback.model_validate_json(stored)

    async def put_free(self, vote: FreeFeedback) -> Feedback:
        """Store a vote that belongs to no exchange; its id follows from the input and the response."""
        is_rating = vote.feedback in get_args(Rating)
        line = FeedbackExport.model_validate(
            {
                "id": keys.free_vote_id(vote.input, vote.response),
                "rating": vote.feedback if is_rating else None,
                "comment": None if is_rating else vote.feedback,
                "at": datetime.now(UTC),
                "turns": [vote.input, vote.response],
            }
        )
        stored = await self._vote(keys=[_hash_of(line.id)], args=[line.id, line.model_dump_json()])
        return Feedback.model_validate_json(stored)

    async def get(self, feedback_id: str) -> Feedback:
        """One vote. Raises NotFound."""
        vote = await self._redis.hget(_hash_of(feedback_id), feedback_id)
        if vote is None:
            raise _no_vote(feedback_id)
        return Feedback.model_validate_json(vote)

    async def delete(self, feedback_id: str) -> None:
        """Take a vote back. Raises NotFound."""
        if not await self._redis.hdel(_hash_of(feedback_id), feedback_id):
            raise _no_vote(feedback_id)

    async def page(self, limit: int, before: str | None) -> FeedbackPage:
        """`limit` votes: those on the newest exchanges, or on exchanges older than `before`."""
        older = [id_ for id_ in await self._ids() if before is None or _age(id_) > _age(before)]
        lines = [await self._line(id_) for id_ in older[:limit]]
        return FeedbackPage(
            votes=[line for line in lines if line], next=older[limit - 1] if len(older) > limit else None
        )

    async def export(self) -> AsyncIterator[FeedbackExport]:
        """Every vote with the turns it is about: those without an exchange, then by the exchanges' time."""
        for feedback_id in reversed(await self._ids()):
            if line := await self._line(feedback_id):
                yield line

    async def _ids(self) -> list[str]:
        """Of all votes, the newest exchange first. Ids only: their texts need not all be in memory."""
        numbers = [keys.NO_CONVERSATION, *await self._memory.numbers()]
        return sorted(await self._all_ids(keys=[keys.FEEDBACK + number for number in numbers]), key=_age)

    async def _line(self, feedback_id: str) -> FeedbackExport | None:
        """None when it was deleted meanwhile."""
        vote = await self._redis.hget(_hash_of(feedback_id), feedback_id)
        if vote is None:
            return None
        if keys.number_of(feedback_id) == keys.NO_CONVERSATION:
            return FeedbackExport.model_validate_json(vote)
        said = await self._memory.before(feedback_id, _CONTEXT_EXCHANGES)
        if not said:
            return None
        return FeedbackExport(
            **Feedback.model_validate_json(vote).model_dump(),
            turns=[text for turn in said for text in (turn.message, turn.reply)],
            intent=said[-1].intent,
            model=said[-1].model,
        )


def _hash_of(feedback_id: str) -> str:
    return keys.FEEDBACK + keys.number_of(feedback_id)


def _age(feedback_id: str) -> tuple[bool, int, int]:
    """Sorts votes: the newest exchange first, votes without one last."""
    time, _, number = feedback_id.partition("-")
    return number == keys.NO_CONVERSATION, -int(time), -int(number)


def _no_vote(feedback_id: str) -> NotFound:
    return NotFound(f"There is no vote {feedback_id}. GET /feedback lists them.")
