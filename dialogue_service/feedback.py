"""Votes on replies, kept beside the exchanges they belong to; `keys` says what lies where."""

import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, get_args

from redis.asyncio import Redis

from dialogue_service import keys
from dialogue_service.contracts import ExchangeFeedback, Feedback, FeedbackExport, FreeFeedback, Rating
from dialogue_service.memory import Memory
from shared.problems import NotFound

_CONTEXT_EXCHANGES = 10

# A vote on an exchange that is not there (any more) is refused in the same step that would store it.
_VOTE = """
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return 1
"""


class FeedbackStore:
    """Votes in Redis. Every method may raise MemoryUnavailable."""

    def __init__(self, redis: Redis, memory: Memory) -> None:
        self._redis: Any = redis  # typed loosely for the same reason as in `memory`
        self._memory = memory
        self._vote = redis.register_script(_VOTE)

    async def put(self, vote: ExchangeFeedback) -> Feedback:
        """Store a vote on an exchange in place of an earlier one. Raises NotFound when it does not exist."""
        feedback = Feedback(
            id=vote.exchange_id, at=datetime.now(UTC), **vote.model_dump(exclude={"exchange_id"})
        )
        number = keys.number_of(feedback.id)
        stored = await self._vote(
            keys=[keys.STREAM + number, keys.FEEDBACK + number],
            args=[feedback.id, feedback.model_dump_json()],
        )
        if not stored:
            raise NotFound(f"There is no exchange {feedback.id}. GET /memory lists the ids.")
        return feedback

    async def put_free(self, vote: FreeFeedback) -> Feedback:
        """Store a vote that belongs to no exchange; it gets an id of its own."""
        is_rating = vote.feedback in get_args(Rating)
        now = datetime.now(UTC)
        for ms in itertools.count(int(now.timestamp() * 1000)):
            line = FeedbackExport.model_validate(
                {
                    "id": f"{ms}-{keys.NO_CONVERSATION}",
                    "rating": vote.feedback if is_rating else None,
                    "comment": None if is_rating else vote.feedback,
                    "at": now,
                    "turns": [vote.input, vote.response],
                }
            )
            if await self._redis.hsetnx(_hash_of(line.id), line.id, line.model_dump_json()):
                break  # the id was free
        return Feedback.model_validate(line.model_dump())

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

    async def export(self) -> AsyncIterator[FeedbackExport]:
        """Every vote with the turns it is about: free ones first, then by conversation and time."""
        for number in [keys.NO_CONVERSATION, *await self._memory.numbers()]:
            # Ids only: votes of one conversation are few, but their texts need not all be in memory.
            for feedback_id in sorted(await self._redis.hkeys(keys.FEEDBACK + number)):
                if line := await self._line(feedback_id):
                    yield line

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


def _no_vote(feedback_id: str) -> NotFound:
    return NotFound(f"There is no vote {feedback_id}. GET /feedback/export lists them.")
