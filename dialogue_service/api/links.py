"""OpenAPI links: which part of an answer is what another call wants. Clients and the fuzzer follow them."""

from typing import Any

_SHOW, _TAKE_BACK = "show_feedback__exchange_id__get", "take_back_feedback__exchange_id__delete"
_VOTE, _REMEMBER, _FORGET = "vote_feedback_post", "remember_memory_get", "forget_memory_delete"
_ID, _CONVERSATION, _NEXT = (f"$response.body#/{field}" for field in ("id", "conversation", "next"))


def _links(**links: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {200: {"links": links}}


AFTER_CHAT = _links(
    vote={
        "operationId": _VOTE,
        "requestBody": {"exchange_id": _ID, "rating": "positive"},
        "description": "Say what you think of the reply.",
    },
    conversation={"operationId": _REMEMBER, "parameters": {"conversation": _CONVERSATION}},
    before={"operationId": _REMEMBER, "parameters": {"conversation": _CONVERSATION, "before": _ID}},
    forget={"operationId": _FORGET, "parameters": {"conversation": _CONVERSATION}},
)
AFTER_VOTE = _links(
    show={"operationId": _SHOW, "parameters": {"exchange_id": _ID}},
    take_back={"operationId": _TAKE_BACK, "parameters": {"exchange_id": _ID}},
)
AFTER_PAGE = _links(
    older={"operationId": _REMEMBER, "parameters": {"conversation": _CONVERSATION, "before": _NEXT}},
)
