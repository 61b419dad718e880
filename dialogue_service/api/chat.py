"""POST /chat and POST /generate."""

from typing import Annotated

from fastapi import APIRouter, Header

from dialogue_service.api.state import BODY_PROBLEMS, COMMON_PROBLEMS, ChatDep
from dialogue_service.contracts import ChatReply, ChatRequest, GenerateReply, GenerateRequest
from dialogue_service.memory import IdempotencyKey
from shared.problems import (
    ConversationForgotten,
    DeadlineExceeded,
    EmptyReply,
    KeyInUse,
    KeyReused,
    ModelNotReady,
    Overloaded,
    Unauthorized,
    UpstreamFailed,
    UpstreamUnavailable,
    responses,
)

router = APIRouter(tags=["chat"])

_MODEL_PROBLEMS = (
    Overloaded,
    UpstreamFailed,
    ModelNotReady,
    UpstreamUnavailable,
    EmptyReply,
    DeadlineExceeded,
)
_KEY_PROBLEMS = (KeyInUse, ConversationForgotten, KeyReused)


@router.post(
    "/chat",
    summary="Say something and get the reply",
    responses=responses(*BODY_PROBLEMS, *COMMON_PROBLEMS, *_KEY_PROBLEMS, *_MODEL_PROBLEMS),
)
async def chat(
    body: ChatRequest,
    service: ChatDep,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            description="The same key and body get the stored reply again, so a retry is safe.",
            examples=["7d1f2c9e-first-hello"],
        ),
    ] = None,
) -> ChatReply:
    """The exchange is stored when the answer arrives. `intent` is null when no intent came in time."""
    key = IdempotencyKey.of(idempotency_key, body.model_dump_json()) if idempotency_key else None
    return await service.reply(body, key)


@router.post(
    "/generate",
    summary="Ask the bare model",
    responses=responses(*BODY_PROBLEMS, Unauthorized, *_MODEL_PROBLEMS),
)
async def generate(body: GenerateRequest, service: ChatDep) -> GenerateReply:
    """No memory is read or written, no intent is asked for."""
    text, model = await service.generate([body.input])
    return GenerateReply(response=text, model=model)
