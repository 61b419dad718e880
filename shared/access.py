"""The two walls in front of every route: a body has a size, and with an API key nobody passes without it."""

import hmac

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.problems import ContentTooLarge, Unauthorized

MAX_BODY_BYTES = 64 * 1024


class BodyLimit:
    """Refuses a body of more than MAX_BODY_BYTES: by its Content-Length at once, else when it gets there.

    The server itself bounds the messages of a WebSocket, before they are whole.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdecimal() or int(declared) > MAX_BODY_BYTES:
            await ContentTooLarge().response()(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                # Of the framework's own kind, because it turns other errors while reading into a 400.
                raise HTTPException(413)
            return message

        await self.app(scope, counted, send)


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
