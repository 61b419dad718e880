"""GET, DELETE /memory and GET /memory/export."""

from collections.abc import AsyncIterable
from typing import Annotated

from fastapi import APIRouter, Query

from dialogue_service.api import links
from dialogue_service.api.state import COMMON_PROBLEMS, AnsweringMemoryDep, ChatDep, MemoryDep
from dialogue_service.contracts import (
    DEFAULT_CONVERSATION,
    ConversationName,
    Exchange,
    ExchangeId,
    Forgotten,
    MemoryPage,
)
from shared.problems import DeadlineExceeded, InvalidBody, Overloaded, responses

router = APIRouter(prefix="/memory", tags=["memory"])

Conversation = Annotated[ConversationName, Query()]


@router.get(
    "", summary="What was said", responses=links.AFTER_PAGE | responses(*COMMON_PROBLEMS, InvalidBody)
)
async def remember(
    memory: MemoryDep,
    conversation: Conversation = DEFAULT_CONVERSATION,
    limit: Annotated[int, Query(ge=1, le=200, description="Exchanges on a page.")] = 50,
    before: Annotated[ExchangeId | None, Query(description="Only exchanges older than this one.")] = None,
) -> MemoryPage:
    """The newest exchanges, newest last; `next` leads to older ones."""
    return await memory.page(conversation, limit, before)


@router.get("/export", summary="Everything that was said", responses=responses(*COMMON_PROBLEMS, InvalidBody))
async def export(
    memory: AnsweringMemoryDep, conversation: Conversation = DEFAULT_CONVERSATION
) -> AsyncIterable[Exchange]:
    """The whole conversation as JSON Lines, oldest exchange first."""
    async for exchange in memory.everything(conversation):
        yield exchange


@router.delete(
    "",
    summary="Forget",
    responses=responses(*COMMON_PROBLEMS, InvalidBody, Overloaded, DeadlineExceeded),
)
async def forget(service: ChatDep, conversation: Conversation = DEFAULT_CONVERSATION) -> Forgotten:
    """Forgets the conversation and the votes on it, for good; only what was exported before stays, in your
    file. A reply under way is finished first."""
    return await service.forget(conversation)
