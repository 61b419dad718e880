"""One turn of the conversation, from message to stored exchange."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from dialogue_service.contracts import ChatReply, ChatRequest, Forgotten, Timings, Turn
from dialogue_service.generation import Generator
from dialogue_service.intent_client import IntentClient
from dialogue_service.memory import IdempotencyKey, Memory, Recalled
from dialogue_service.turns import Turns
from shared.contracts import Intent, IntentAnswer
from shared.model_slot import ModelSlot
from shared.problems import DeadlineExceeded
from shared.telemetry import INFERENCE

FIXED_REPLY_MODEL = "catalog"
_RECALLED_EXCHANGES = 32
_CLAIM_GRACE_S = 10.0


@dataclass(frozen=True)
class _Clock:
    """Time left of one turn, and laps."""

    ends: float

    @classmethod
    def of(cls, seconds: float) -> "_Clock":
        return cls(time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """Raises DeadlineExceeded when there is none."""
        if (left := self.ends - time.monotonic()) <= 0:
            raise DeadlineExceeded
        return left


@dataclass(frozen=True)
class Chat:
    """What a turn needs. One instance serves all conversations."""

    memory: Memory
    intents: IntentClient
    slot: ModelSlot[Generator]
    turns: Turns
    deadline_s: float

    async def reply(self, request: ChatRequest, key: IdempotencyKey | None = None) -> ChatReply:
        """Answer one message; on return the exchange is stored. Raises Problem or redis.RedisError."""
        if key is None:
            return await self._turn(request, None)
        if (stored := await self.memory.claim(key, self.deadline_s + _CLAIM_GRACE_S)) is not None:
            return ChatReply.model_validate(stored.model_dump())
        try:
            return await self._turn(request, key)
        except BaseException:
            await asyncio.shield(self.memory.release(key))
            raise

    async def _turn(self, request: ChatRequest, key: IdempotencyKey | None) -> ChatReply:
        clock, began = _Clock.of(self.deadline_s), time.perf_counter()
        async with self.turns.take(request.conversation, self.deadline_s):
            taken = time.perf_counter()
            recalled = await self.memory.recall(request.conversation, _RECALLED_EXCHANGES)
            read = time.perf_counter()
            intent = await self.intents.classify(request.message)
            classified = time.perf_counter()
            text, model = await self._words(request.message, recalled, intent, clock)
            turn = Turn(
                conversation=request.conversation,
                message=request.message,
                reply=text,
                intent=intent and Intent.model_validate(intent.model_dump(exclude={"reply"})),
                model=model,
                degraded=[] if intent else ["intent"],
                timings=Timings(
                    waiting_ms=_ms(began, taken),
                    recall_ms=_ms(taken, read),
                    intent_ms=_ms(read, classified),
                    reply_ms=_ms(classified, time.perf_counter()),
                ),
            )
            exchange_id = await self.memory.append(turn, recalled.number, key)
        return ChatReply(id=exchange_id, **turn.model_dump())

    async def _words(
        self, message: str, recalled: Recalled, intent: IntentAnswer | None, clock: _Clock
    ) -> tuple[str, str]:
        """The reply and the name of what made it."""
        if intent is not None and intent.reply is not None:
            return intent.reply, FIXED_REPLY_MODEL
        history = [text for turn in recalled.turns for text in (turn.message, turn.reply)]
        return await self._generate([*history, message], clock.left_s)

    async def generate(self, turns: Sequence[str]) -> tuple[str, str]:
        """The bare model's next turn and the model's name; nothing is read or stored."""
        return await self._generate(turns, self.deadline_s)

    async def _generate(self, turns: Sequence[str], deadline_s: float) -> tuple[str, str]:
        served = self.slot.served
        with INFERENCE.labels("dialogue", served.name).time():
            try:
                async with asyncio.timeout(deadline_s):
                    text = await served.model.reply(turns)
            except TimeoutError:
                raise DeadlineExceeded from None
        return text, served.name

    async def forget(self, conversation: str) -> Forgotten:
        """Forget a conversation, after the turn that is under way in it."""
        async with self.turns.take(conversation, self.deadline_s):
            return await self.memory.forget(conversation)


def _ms(began: float, ended: float) -> float:
    return round((ended - began) * 1000, 1)
