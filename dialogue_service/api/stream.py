"""POST /chat/stream: a turn as server-sent events."""

from collections.abc import AsyncIterable, AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import EventSourceResponse
from fastapi.sse import ServerSentEvent

from dialogue_service.api.chat import CHAT_PROBLEMS
from dialogue_service.api.disconnect import while_connected
from dialogue_service.api.state import ChatDep, KeyHeader, key_of
from dialogue_service.contracts import ChatRequest
from dialogue_service.events import Events, events_of
from shared.problems import CAUSE, responses

router = APIRouter(tags=["chat"])

_EXAMPLE = """\
event: intent
data: {"intent": null}
id: 1

event: token
data: {"text": "Hello"}
id: 2

event: token
data: {"text": "!"}
id: 3

event: done
data: {"id": "1795334400000-1", "conversation": "default", "reply": "Hello!", "intent": null, \
"model": "starter", "degraded": ["intent"], \
"timings": {"waiting_ms": 0.1, "recall_ms": 0.8, "intent_ms": 2000.4, "reply_ms": 2000.9}}
id: 4

"""


async def _begun(
    request: Request, body: ChatRequest, service: ChatDep, idempotency_key: KeyHeader = None
) -> AsyncIterator[Events]:
    """The events of a turn of which there is the first.

    A dependency, because what fails in one is still answered with its own status. When the route runs the
    answer has begun, and could only break off.
    """
    service.turns.check_room()
    async with events_of(service, body, key_of(idempotency_key, body)) as events:
        await while_connected(request, events.begin())
        yield events


@router.post(
    "/chat/stream",
    summary="Say something and get the reply as it is made",
    response_class=EventSourceResponse,
    responses={
        200: {
            "description": "The events `intent`, `token` (any number) and `done`; or `error` at the end.",
            "content": {"text/event-stream": {"example": _EXAMPLE}},
        },
        **responses(*CHAT_PROBLEMS),
    },
)
async def stream(
    events: Annotated[Events, Depends(_begun)], request: Request
) -> AsyncIterable[ServerSentEvent]:
    """First the intent, then the reply's pieces, then what POST /chat answers, once it is stored.

    What fails before the first event is answered as by POST /chat; later it is the last event, a problem.
    Hanging up stops the work, and nothing is stored.
    """
    number = 0
    async for event in events:
        number += 1
        if event.cause:
            request.scope[CAUSE] = event.cause
        yield ServerSentEvent(event=event.name, data=event.data, id=str(number))
