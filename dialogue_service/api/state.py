"""What the routes work with: made in the app's lifespan, handed to them as dependencies."""

import asyncio
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header
from starlette.requests import HTTPConnection

from dialogue_service.chat import Chat
from dialogue_service.contracts import ChatRequest, Key
from dialogue_service.feedback import FeedbackStore
from dialogue_service.keys import IdempotencyKey
from dialogue_service.memory import Memory
from dialogue_service.promotion.preparing import Preparation
from shared.problems import MemoryUnavailable, Problem, Unauthorized


@dataclass(frozen=True)
class State:
    """One for the whole service."""

    chat: Chat
    memory: Memory
    feedback: FeedbackStore
    sockets: asyncio.Semaphore
    prepare: Preparation


# All of these are coroutines: the framework sends a plain function to a thread and waits for it, each time.


async def _state(connection: HTTPConnection) -> State:
    state: State = connection.state.dialogue
    return state


StateDep = Annotated[State, Depends(_state)]


async def _chat(state: StateDep) -> Chat:
    return state.chat


async def _memory(state: StateDep) -> Memory:
    return state.memory


async def _feedback(state: StateDep) -> FeedbackStore:
    return state.feedback


async def _sockets(state: StateDep) -> asyncio.Semaphore:
    return state.sockets


async def _prepare(state: StateDep) -> Preparation:
    return state.prepare


async def _answering_memory(state: StateDep) -> Memory:
    """For streamed answers: refuses while it still can, since a stream that has begun can only break off."""
    await state.memory.ping()
    return state.memory


ChatDep = Annotated[Chat, Depends(_chat)]
MemoryDep = Annotated[Memory, Depends(_memory)]
FeedbackDep = Annotated[FeedbackStore, Depends(_feedback)]
SocketsDep = Annotated[asyncio.Semaphore, Depends(_sockets)]
PreparationDep = Annotated[Preparation, Depends(_prepare)]
AnsweringMemoryDep = Annotated[Memory, Depends(_answering_memory)]
KeyHeader = Annotated[Key | None, Header(alias="Idempotency-Key")]


def key_of(key: str | None, body: ChatRequest) -> IdempotencyKey | None:
    """The key a caller gave, bound to what it was given for."""
    if key is None:
        return None
    return IdempotencyKey.of(key, body.model_dump_json(exclude={"key"}, exclude_none=True))


COMMON_PROBLEMS: tuple[type[Problem], ...] = (Unauthorized, MemoryUnavailable)
