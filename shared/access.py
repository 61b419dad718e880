"""The two walls in front of every route: a body has a size, and with an API key nobody passes without it."""

import hmac

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.problems import ContentTooLarge, Unauthorized

MAX_BODY_BYTES = 64 * 1024


class BodyLimit:
    """Refuses a body of more than MAX_BODY_BYTES: by its Content-Length at once, else when it gets there."""

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
    """Lets a request through only with `Authorization: Bearer <key>` (RFC 6750); /health/* is open."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app = app
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["path"].startswith("/health/"):
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("authorization", "").encode()
        if hmac.compare_digest(given, self._expected):
            await self.app(scope, receive, send)
        else:
            refusal = Unauthorized(headers={"WWW-Authenticate": "Bearer"})
            await refusal.response()(scope, receive, send)
