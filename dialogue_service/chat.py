"""One turn of the conversation, from message to stored exchange."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from opentelemetry.trace import NoOpTracer, Tracer

from dialogue_service.contracts import ChatReply, ChatRequest, Forgotten, Timings, Turn
from dialogue_service.generation import Generator, OnText
from dialogue_service.intent_client import IntentClient
from dialogue_service.keys import IdempotencyKey
from dialogue_service.memory import Memory, Recalled
from dialogue_service.turns import Ticket, Turns
from shared import telemetry
from shared.contracts import Intent, IntentAnswer
from shared.metrics import INFERENCE
from shared.model_slot import ModelSlot
from shared.problems import DeadlineExceeded

FIXED_REPLY_MODEL = "catalog"
RECALLED_EXCHANGES = 32

T = TypeVar("T")


class Listener(Protocol):
    """Hears a turn while it goes on: the intent once, then the reply piece by piece."""

    def on_intent(self, intent: Intent | None) -> None:
        """None: there is no intent, and the reply is made without one."""
        ...

    def on_text(self, piece: str) -> None:
        """The pieces joined are the reply."""
        ...


class _HeldBack:
    """Keeps the pieces of a reply until the intent is known, because that may bring another reply."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._kept: list[str] | None = []

    def on_text(self, piece: str) -> None:
        if self._kept is None:
            self._listener.on_text(piece)
        else:
            self._kept.append(piece)

    def begin(self, intent: Intent | None, instead: str | None) -> None:
        """Tell the intent, and `instead` or all that was kept; with `instead` no later piece is told."""
        kept, self._kept = self._kept or [], None if instead is None else []
        self._listener.on_intent(intent)
        for piece in kept if instead is None else [instead]:
            self._listener.on_text(piece)


@dataclass(frozen=True)
class _Found:
    """What the intent service said, and how long that took."""

    answer: IntentAnswer | None
    seconds: float


@dataclass(frozen=True)
class _Answer:
    """A reply, what made it, and how long the intent and the reply took."""

    intent: Intent | None
    text: str
    model: str
    intent_s: float
    reply_s: float


@dataclass(frozen=True)
class Chat:
    """What a turn needs. One instance serves all conversations."""

    memory: Memory
    intents: IntentClient
    slot: ModelSlot[Generator]
    turns: Turns
    deadline_s: float
    tracer: Tracer = field(default_factory=NoOpTracer)

    async def reply(
        self, request: ChatRequest, key: IdempotencyKey | None = None, listener: Listener | None = None
    ) -> ChatReply:
        """Answer one message; on return the exchange is stored. Raises Problem.

        A cancelled turn stops computing and stores nothing, unless storing has begun: that is finished.
        """
        async with self.turns.admit(request.conversation, key) as ticket:
            stored = await _finish(self.memory.claim(ticket, key)) if key else None
            if stored is None:
                return await self._turn(request, ticket, listener)
        reply = ChatReply.model_validate(stored.model_dump())
        if listener:
            listener.on_intent(reply.intent)
            listener.on_text(reply.reply)
        return reply

    async def _turn(self, request: ChatRequest, ticket: Ticket, listener: Listener | None) -> ChatReply:
        ends, began = _from_now(self.deadline_s), time.perf_counter()
        async with (
            _beside(self._find(request.message)) as finding,
            self.turns.take(ticket, self.deadline_s),
        ):
            taken = time.perf_counter()
            async with _until(ends):
                recalled = await self.memory.recall(request.conversation, RECALLED_EXCHANGES)
                read = time.perf_counter()
                answer = await self._answer(request, recalled, finding, listener)
            turn = Turn(
                conversation=request.conversation,
                message=request.message,
                reply=answer.text,
                intent=answer.intent,
                model=answer.model,
                degraded=[] if answer.intent else ["intent"],
                timings=Timings(
                    waiting_ms=_ms(taken - began),
                    recall_ms=_ms(read - taken),
                    intent_ms=_ms(answer.intent_s),
                    reply_ms=_ms(answer.reply_s),
                ),
            )
            exchange_id = await _finish(self.memory.append(turn, recalled.number, ticket))
        telemetry.log_texts(message=turn.message, reply=turn.reply, intent=turn.intent and turn.intent.label)
        return ChatReply(id=exchange_id, **dict(turn))

    async def _find(self, message: str) -> _Found:
        began = time.perf_counter()
        answer = await self.intents.classify(message)
        return _Found(answer, time.perf_counter() - began)

    async def _answer(
        self,
        request: ChatRequest,
        recalled: Recalled,
        finding: "asyncio.Task[_Found]",
        listener: Listener | None,
    ) -> _Answer:
        """The model reads and writes while the intent is being found; a fixed reply for that stops it."""
        began = time.perf_counter()
        turns = [text for turn in recalled.turns for text in (turn.message, turn.reply)] + [request.message]
        held = _HeldBack(listener) if listener else None
        async with _beside(self._generate(turns, request.seed, held.on_text if held else None)) as making:
            found = await finding
            # Where the intent was there already: then a reply that fails at once has failed by now too.
            await asyncio.sleep(0)
            intent = found.answer and Intent.model_validate(found.answer.model_dump(exclude={"reply"}))
            fixed = found.answer.reply if found.answer else None
            if fixed is None and making.done():
                making.result()  # raises what failed at once, before the listener has heard anything
            if held:
                held.begin(intent, instead=fixed)
            text, model = (fixed, FIXED_REPLY_MODEL) if fixed is not None else await making
            return _Answer(intent, text, model, found.seconds, time.perf_counter() - began)

    async def generate(self, turns: Sequence[str], seed: int | None = None) -> tuple[str, str]:
        """The bare model's next turn and the model's name; nothing is read or stored."""
        async with _until(_from_now(self.deadline_s)):
            text, model = await self._generate(turns, seed, None)
        telemetry.log_texts(message=turns[-1], reply=text)
        return text, model

    async def _generate(
        self, turns: Sequence[str], seed: int | None, on_text: OnText | None
    ) -> tuple[str, str]:
        served, began = self.slot.served, time.perf_counter()
        asked = {"gen_ai.operation.name": "chat", "gen_ai.request.model": served.name}
        with self.tracer.start_as_current_span("generate", attributes=asked):
            text = await served.model.reply(turns, seed=seed, on_text=on_text)
        INFERENCE.labels("dialogue", served.name).observe(time.perf_counter() - began)
        return text, served.name

    async def forget(self, conversation: str) -> Forgotten:
        """Forget a conversation, after the turn that is under way in it."""
        async with self.turns.admit(conversation) as ticket, self.turns.take(ticket, self.deadline_s):
            return await self.memory.forget(ticket)


def _from_now(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


@asynccontextmanager
async def _until(ends: float) -> AsyncIterator[None]:
    """Cancels what is done within at `ends` (the loop's time). Raises DeadlineExceeded then."""
    try:
        async with asyncio.timeout_at(ends):
            yield
    except TimeoutError:
        raise DeadlineExceeded from None


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, T]) -> AsyncIterator["asyncio.Task[T]"]:
    """Runs `work` beside what is done within, and ends it with that."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _finish(work: Awaitable[T]) -> T:
    """The result of `work`, which is done to its end even when the caller is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # Nobody is left to hear of a failure; and another cancellation must not reach the work either.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait({task})
        raise


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
