"""POST /chat and POST /generate."""

from fastapi import APIRouter, Request

from dialogue_service.api import links
from dialogue_service.api.disconnect import while_connected
from dialogue_service.api.state import COMMON_PROBLEMS, ChatDep, KeyHeader, key_of
from dialogue_service.contracts import ChatReply, ChatRequest, GenerateReply, GenerateRequest
from shared.problems import (
    BODY_PROBLEMS,
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
CHAT_PROBLEMS = (*BODY_PROBLEMS, *COMMON_PROBLEMS, *_KEY_PROBLEMS, *_MODEL_PROBLEMS)


@router.post(
    "/chat",
    summary="Say something and get the reply",
    responses=links.AFTER_CHAT | responses(*CHAT_PROBLEMS),
)
async def chat(
    body: ChatRequest, request: Request, service: ChatDep, idempotency_key: KeyHeader = None
) -> ChatReply:
    """The exchange is stored when the answer arrives. `intent` is null when no intent came in time."""
    service.turns.check_room()  # before any task is begun: who is refused under load is to hear it soon
    return await while_connected(request, service.reply(body, key_of(idempotency_key, body)))


@router.post(
    "/generate",
    summary="Ask the bare model",
    responses=responses(*BODY_PROBLEMS, Unauthorized, *_MODEL_PROBLEMS),
)
async def generate(body: GenerateRequest, request: Request, service: ChatDep) -> GenerateReply:
    """No memory is read or written, no intent is asked for."""
    text, model = await while_connected(request, service.generate([body.input], body.seed))
    return GenerateReply(response=text, model=model)
