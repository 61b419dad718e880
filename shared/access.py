"""The walls in front of every route: a request has bounds, and with an API key nobody passes without it."""

import asyncio
import hmac
import itertools

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.problems import (
    BadRequest,
    ContentTooLarge,
    HeadTooLarge,
    Problem,
    RequestTimeout,
    Unauthorized,
    UnsupportedMedia,
)

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024

BODY_S = 20.0
"""Seconds from a request's head to the end of its body."""


class Bounds:
    """Refuses a request that is too large, too slow, or that two readers might understand in two ways.

    A body beyond MAX_BODY_BYTES is refused by its Content-Length at once, else when it gets there. The server
    itself bounds the messages of a WebSocket, before they are whole.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif problem := _wrong(scope):
            # What comes after such a head is not read: it may be anything.
            problem.headers["Connection"] = "close"
            await problem.response()(scope, receive, send)
        else:
            await self.app(scope, _bounded(receive) if scope["type"] == "http" else receive, send)


def _wrong(scope: Scope) -> Problem | None:
    """What is wrong with the head of a request."""
    head = (scope.get("raw_path", b""), scope.get("query_string", b""), *itertools.chain(*scope["headers"]))
    if sum(map(len, head)) > MAX_HEAD_BYTES:
        return HeadTooLarge()
    headers = Headers(scope=scope)
    if "content-length" in headers and "transfer-encoding" in headers:
        return BadRequest()
    declared = headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > MAX_BODY_BYTES:
        return ContentTooLarge()
    if headers.get("content-encoding", "identity").lower() != "identity":
        return UnsupportedMedia()
    return None


def _bounded(receive: Receive) -> Receive:
    """`receive` until the body is whole: no more than MAX_BODY_BYTES, no longer than BODY_S from now."""
    received, whole = 0, False
    ends = asyncio.get_running_loop().time() + BODY_S

    async def bounded() -> Message:
        nonlocal received, whole
        # HTTPException, for the framework turns other errors while reading into a 400.
        try:
            async with asyncio.timeout_at(None if whole else ends):
                message = await receive()
        except TimeoutError:
            raise HTTPException(RequestTimeout.status, headers={"Connection": "close"}) from None
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:
            raise HTTPException(ContentTooLarge.status)
        whole = not message.get("more_body", False)
        return message

    return bounded


class BearerKey:
    """Lets requests and WebSockets through only with `Authorization: Bearer <key>` (RFC 6750).

    /health/* is open.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan" or scope["path"].startswith("/health/"):
            await self.app(scope, receive, send)
            return
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        # A scheme is the same in any case (RFC 9110, section 11.1).
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._key):
            await self.app(scope, receive, send)
        else:
            refusal = Unauthorized(headers={"WWW-Authenticate": "Bearer"})
            await refusal.response()(scope, receive, send)
