"""WS /chat/ws: many turns on one connection.

A client's message is a ChatRequest as JSON, optionally with `key`, its Idempotency-Key. The server's are
`{"id", "message", "event", "data"}`: `id` counts the server's messages, `message` is the number of the
client's message that is answered, `event` and `data` are as in `dialogue_service.events`.
"""

import asyncio
import time

from fastapi import APIRouter, WebSocket
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.websockets import WebSocketDisconnect

from dialogue_service.api.state import ChatDep, SocketsDep, key_of
from dialogue_service.chat import Chat
from dialogue_service.contracts import SocketRequest
from dialogue_service.events import Event, events_of, failure
from dialogue_service.settings import DialogueSettings
from shared import telemetry
from shared.problems import (
    ClientGone,
    MalformedBody,
    Overloaded,
    Problem,
    TooManySockets,
    from_validation,
)

router = APIRouter()

_PATH = "/chat/ws"
_FULL_RETRY_S = 10
_WAITING = 8


@router.websocket(_PATH)
async def talk(socket: WebSocket, chat: ChatDep, sockets: SocketsDep) -> None:
    """One turn at a time; a few messages may wait. The work stops when the client is gone."""
    if sockets.locked():
        raise TooManySockets(retry_after_s=_FULL_RETRY_S)
    async with sockets:
        await socket.accept()
        talking = _Talk(socket, chat)
        try:
            async with asyncio.TaskGroup() as tasks:
                answering = tasks.create_task(talking.answer())
                await talking.listen()
                answering.cancel()
        except* WebSocketDisconnect:
            pass  # gone while something was being sent


class _Talk:
    """One connection. It is always read from, for that is how a client that goes away is noticed."""

    def __init__(self, socket: WebSocket, chat: Chat) -> None:
        self._socket = socket
        self._chat = chat
        self._waiting: asyncio.Queue[tuple[int, str | bytes]] = asyncio.Queue(_WAITING)
        self._sent = 0

    async def listen(self) -> None:
        """Queue what the client says until it goes."""
        number = 0
        while (message := await self._socket.receive())["type"] == "websocket.receive":
            number += 1
            try:
                self._waiting.put_nowait((number, message.get("text") or message.get("bytes") or ""))
            except asyncio.QueueFull:
                error = Overloaded("Wait for the answers of earlier messages.", retry_after_s=_WAITING)
                began = time.perf_counter()
                event = failure(error)
                _record(await self._tell(number, event), began, event.cause)

    async def answer(self) -> None:
        """Take the turns one after another, for ever."""
        while True:
            number, text = await self._waiting.get()
            began, status = time.perf_counter(), ClientGone.status
            cause: str | None = ClientGone.slug
            try:
                status, cause = await self._turn(number, text)
            finally:
                _record(status, began, cause)

    async def _turn(self, number: int, text: str | bytes) -> tuple[int, str | None]:
        """Answer one message; returns the status that it would have over HTTP, and a problem's slug."""
        try:
            request = SocketRequest.model_validate_json(text)
        except ValidationError as error:
            event = failure(_as_body(error))
            return await self._tell(number, event), event.cause
        async with events_of(self._chat, request, key_of(request.key, request)) as events:
            async for event in events:
                status = await self._tell(number, event)
        return status, event.cause

    async def _tell(self, number: int, event: Event) -> int:
        self._sent += 1
        message = {"id": self._sent, "message": number, "event": event.name, "data": event.data}
        await self._socket.send_json(message)
        return int(event.data["status"]) if event.name == "error" else 200


def _as_body(error: ValidationError) -> Problem:
    """The problem that the same fault in a request's body would be."""
    faults = [fault | {"loc": ("body", *fault["loc"])} for fault in error.errors()]
    problem = from_validation(RequestValidationError(faults))
    return (
        MalformedBody("Send each message as a JSON object.")
        if isinstance(problem, MalformedBody)
        else problem
    )


def _record(status: int, began: float, cause: str | None) -> None:
    seconds = time.perf_counter() - began
    telemetry.record(DialogueSettings.service, telemetry.WEBSOCKET, _PATH, status, seconds, cause=cause)
