"""Uvicorn's protocols with the bounds that they lack, and with refusals in this house's form.

A request must be whole in time: whoever sends its head or its body drop by drop (slowloris) is cut off. What
is sent must be taken in time. What no app ever sees, because it is not HTTP, is answered by a problem too.
"""

import asyncio
import json
import sys
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import HeaderLineTooLong, RequestLineTooLong, TooManyHeaders
from websockets.frames import CloseCode, Frame
from websockets.http11 import Request

from shared.access import BODY_S, MAX_BODY_BYTES
from shared.problems import MEDIA_TYPE, BadRequest, HeadTooLarge, Problem, RequestTimeout

HEAD_S = 10.0
"""Seconds in which a connection must bring a request line and all headers."""

STALLED_S = 30.0
"""Seconds after which a caller who does not take what was sent is given up."""

MAX_FRAGMENTS = 1024
"""Of one WebSocket message: its size is bounded, but empty fragments have none."""

_TOO_LARGE = HeadTooLarge.status
_TOO_LONG = RequestLineTooLong, HeaderLineTooLong, TooManyHeaders
_BODY_GRACE_S = 5.0  # the app answers a slow body by itself; this is for who goes on after the answer


class BoundedHttp(H11Protocol):
    """HTTP/1.1."""

    _deadline: asyncio.TimerHandle | None = None
    _reading: type | None = None  # the part of a request that the deadline is for
    _unsent: "_Unsent"

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a first request."""
        super().connection_made(transport)
        self._unsent = _Unsent(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for another request."""
        super().on_response_complete()
        self._watch()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand the connection over."""
        self._expect(None)
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more is waited for."""
        self._expect(None)
        self._unsent.forget()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The caller has not taken all yet."""
        super().pause_writing()
        self._unsent.watch()

    def resume_writing(self) -> None:
        """The caller has taken all."""
        super().resume_writing()
        self._unsent.forget()

    def send_400_response(self, msg: str) -> None:
        """Uvicorn calls it while it handles h11's error, which knows when a head is too large."""
        error = sys.exception()
        self._refuse(HeadTooLarge() if getattr(error, "error_status_hint", 0) == _TOO_LARGE else BadRequest())

    def _watch(self) -> None:
        """Bound the wait for the part of the request that is due; between two requests uvicorn does that."""
        state = self.conn.their_state
        idle = state is h11.IDLE and self.timeout_keep_alive_task is not None
        self._expect(state if state in (h11.IDLE, h11.SEND_BODY) and not idle else None)

    def _expect(self, part: type | None) -> None:
        if part is self._reading:
            return
        if self._deadline:
            self._deadline.cancel()
        seconds = HEAD_S if part is h11.IDLE else BODY_S + _BODY_GRACE_S
        self._deadline = self.loop.call_later(seconds, self._too_slow) if part else None
        self._reading = part

    def _too_slow(self) -> None:
        begun, _ = self.conn.trailing_data
        if self._reading is h11.IDLE and begun and not self.transport.is_closing():
            self._refuse(RequestTimeout())
        else:
            self.transport.abort()

    def _refuse(self, problem: Problem) -> None:
        """Answer in the app's place, unless it has begun to, and hang up."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            _refuse(self.transport, problem)
        else:
            self.transport.abort()


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """WebSocket, by the library websockets, which bounds the size of a message."""

    _unsent: "_Unsent"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection over."""
        super().connection_made(transport)
        self._unsent = _Unsent(self.transport)

    def data_received(self, data: bytes) -> None:
        """Read on; hang up on a handshake that websockets cannot read, which uvicorn would leave open."""
        super().data_received(data)
        if (error := self.conn.handshake_exc) and not self.transport.is_closing():
            _refuse(self.transport, HeadTooLarge() if isinstance(error, _TOO_LONG) else BadRequest())

    def handle_connect(self, event: Request) -> None:
        """Refuse a handshake that is none."""
        if (answer := self.conn.accept(event)).status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            super().handle_connect(event)
        else:
            self.handshake_complete = self.close_sent = True
            _refuse(self.transport, BadRequest((answer.body or b"").decode().strip()))

    def handle_cont(self, event: Frame) -> None:
        """Another fragment of a message."""
        super().handle_cont(event)
        if len(self.frames) > MAX_FRAGMENTS:
            self._fail(CloseCode.MESSAGE_TOO_BIG, "too many fragments")

    def send_receive_event_to_app(self) -> None:
        """A message is whole. Uvicorn would log one that is not UTF-8 as an error of its own."""
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self._fail(CloseCode.INVALID_DATA, "not UTF-8")
                return
        super().send_receive_event_to_app()

    def pause_writing(self) -> None:
        """The client has not taken all yet: read no more, for answers to its pings would pile up."""
        super().pause_writing()
        self.transport.pause_reading()
        self._unsent.watch()

    def resume_writing(self) -> None:
        """The client has taken all."""
        super().resume_writing()
        self._unsent.forget()
        if not self.read_paused:
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more is waited for."""
        self._unsent.forget()
        super().connection_lost(exc)

    def _fail(self, code: CloseCode, reason: str) -> None:
        self.frames = []
        self.conn.fail(code, reason)
        self.handle_parser_exception()

    def keepalive_timeout(self) -> None:
        """Nobody is there: what was sent will not be taken either."""
        super().keepalive_timeout()
        self.transport.abort()


class _Unsent:
    """What the other side has not taken: while that does not shrink for STALLED_S, it is given up."""

    def __init__(self, transport: asyncio.Transport) -> None:
        transport.set_write_buffer_limits(high=0)  # to be told of every byte that is left
        self._transport = transport
        self._timer: asyncio.TimerHandle | None = None
        self._size = 0

    def watch(self) -> None:
        """Something is left."""
        self._size = self._transport.get_write_buffer_size()
        self._timer = asyncio.get_running_loop().call_later(STALLED_S, self._check)

    def forget(self) -> None:
        """Nothing is left."""
        if self._timer:
            self._timer.cancel()

    def _check(self) -> None:
        if self._transport.get_write_buffer_size() < self._size:
            self.watch()
        else:
            self._transport.abort()


def _refuse(transport: asyncio.Transport, problem: Problem) -> None:
    body = json.dumps(problem.details().model_dump(exclude_none=True)).encode()
    lines = (
        f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}",
        f"Content-Type: {MEDIA_TYPE}",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    transport.write("\r\n".join((*lines, "", "")).encode() + body)
    transport.close()


BOUNDS: dict[str, Any] = {
    "http": BoundedHttp,
    "ws": BoundedWebSocket,
    "ws_max_size": MAX_BODY_BYTES,  # of one message; a larger one is answered with close code 1009
}
"""Uvicorn's options that put these in force."""
