"""A turn as events: what the streamed routes tell while it goes on.

intent    IntentEvent    first
token     TokenEvent     any number; their texts joined are the reply
done      ChatReply      last, once the exchange is stored; what POST /chat answers
error     problem        last instead, when something fails after the first event
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from dialogue_service.chat import Chat
from dialogue_service.contracts import ChatReply, ChatRequest, IntentEvent, TokenEvent
from dialogue_service.keys import IdempotencyKey
from shared.contracts import Intent
from shared.problems import InternalError, Problem

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """One event, the JSON object it carries and, of an error, the problem's slug."""

    name: Literal["intent", "token", "done", "error"]
    data: dict[str, Any]
    cause: str | None = None


class Events:
    """The events of one turn, in order, to be iterated over once. Holds one reply at most: that bounds it."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Event | BaseException] = asyncio.Queue()
        self._first: Event | None = None

    def on_intent(self, intent: Intent | None) -> None:
        """As a Listener."""
        self._queue.put_nowait(Event("intent", IntentEvent(intent=intent).model_dump(mode="json")))

    def on_text(self, piece: str) -> None:
        """As a Listener."""
        self._queue.put_nowait(Event("token", TokenEvent(text=piece).model_dump()))

    def on_end(self, turn: "asyncio.Task[ChatReply]") -> None:
        """What the turn came to."""
        error = InternalError() if turn.cancelled() else turn.exception()
        self._queue.put_nowait(error or Event("done", turn.result().model_dump(mode="json")))

    async def begin(self) -> None:
        """Wait for the first event. Raises what failed before it, as Chat.reply does."""
        first = await self._queue.get()
        if isinstance(first, BaseException):
            raise first
        self._first = first

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Every event; a failure is the last one."""
        event = self._first or await self._next()
        yield event
        while event.name not in ("done", "error"):
            event = await self._next()
            yield event

    async def _next(self) -> Event:
        event = await self._queue.get()
        return failure(event) if isinstance(event, BaseException) else event


@asynccontextmanager
async def events_of(chat: Chat, request: ChatRequest, key: IdempotencyKey | None) -> AsyncIterator[Events]:
    """The events of a turn, which begins at once. On leaving, a turn that still goes on is stopped."""
    events = Events()
    turn = asyncio.create_task(chat.reply(request, key, events))
    turn.add_done_callback(events.on_end)
    try:
        yield events
    finally:
        turn.cancel()
        await asyncio.gather(turn, return_exceptions=True)


def failure(error: BaseException) -> Event:
    """The event that tells of an error; what a header says in an answer, a field says here."""
    problem = problem_of(error)
    data = problem.details().model_dump(exclude_none=True)
    if (seconds := problem.headers.get("Retry-After")) is not None:
        data["retry_after_s"] = int(seconds)
    return Event("error", data, problem.slug)


def problem_of(error: BaseException) -> Problem:
    """Any error as what a caller may know of it; a bug is logged."""
    if isinstance(error, Problem):
        return error
    logger.error("unhandled error", exc_info=error)
    return InternalError()
