"""POST and GET /feedback, GET and DELETE /feedback/{exchange_id}, GET /feedback/export."""

from collections.abc import AsyncIterable
from typing import Annotated

from fastapi import APIRouter, Body, Query

from dialogue_service.api import links
from dialogue_service.api.state import COMMON_PROBLEMS, AnsweringMemoryDep, FeedbackDep
from dialogue_service.contracts import (
    ExchangeFeedback,
    ExchangeId,
    Feedback,
    FeedbackExport,
    FeedbackPage,
    FeedbackRequest,
)
from shared.problems import BODY_PROBLEMS, InvalidBody, NotFound, responses

router = APIRouter(prefix="/feedback", tags=["feedback"])


@router.post(
    "",
    summary="Say what you think of a reply",
    responses=links.AFTER_VOTE | responses(*BODY_PROBLEMS, *COMMON_PROBLEMS, NotFound),
)
async def vote(body: Annotated[FeedbackRequest, Body()], store: FeedbackDep) -> Feedback:
    """On an exchange by its id, or on any input and response. Another vote on the same replaces it, the same
    vote again changes nothing."""
    return await (store.put(body) if isinstance(body, ExchangeFeedback) else store.put_free(body))


@router.get("", summary="The votes", responses=responses(*COMMON_PROBLEMS, InvalidBody))
async def show_all(
    store: FeedbackDep,
    limit: Annotated[int, Query(ge=1, le=200, description="Votes on a page.")] = 50,
    before: Annotated[
        ExchangeId | None, Query(description="Only votes on exchanges older than this one.")
    ] = None,
) -> FeedbackPage:
    """Of all conversations, the newest exchange first, votes without an exchange last."""
    return await store.page(limit, before)


@router.get("/export", summary="All votes with what they are about", responses=responses(*COMMON_PROBLEMS))
async def export(store: FeedbackDep, _: AnsweringMemoryDep) -> AsyncIterable[FeedbackExport]:
    """JSON Lines, as `python -m dialogue_service.training --data` reads them. The file is yours: it keeps
    what `DELETE /memory` and `DELETE /feedback/{exchange_id}` forget here."""
    async for line in store.export():
        yield line


@router.get(
    "/{exchange_id}", summary="One vote", responses=responses(*COMMON_PROBLEMS, NotFound, InvalidBody)
)
async def show(exchange_id: ExchangeId, store: FeedbackDep) -> Feedback:
    """The vote on this exchange."""
    return await store.get(exchange_id)


@router.delete(
    "/{exchange_id}",
    summary="Take a vote back",
    status_code=204,
    responses=responses(*COMMON_PROBLEMS, NotFound, InvalidBody),
)
async def take_back(exchange_id: ExchangeId, store: FeedbackDep) -> None:
    """The exchange itself stays."""
    await store.delete(exchange_id)
