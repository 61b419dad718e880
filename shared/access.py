"""The walls in front of every route: who may ask, from which page, and how much they may send, how long."""

import asyncio
import hmac
import ipaddress
import itertools
from collections.abc import Collection
from urllib.parse import urlsplit

from fastapi import HTTPException
from fastapi.responses import HTMLResponse
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.problems import (
    CAUSE,
    BadRequest,
    ContentTooLarge,
    ForeignHost,
    ForeignOrigin,
    HeadTooLarge,
    Problem,
    RequestTimeout,
    Unauthorized,
    UnsupportedMedia,
)

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024

PAGE_POLICY = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src data:; "
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of Parley's own pages, which are whole: nothing is fetched, and no other page may frame them."""

# Names that nobody can register: a browser is never led here by them from afar. RFC 6761, 6762, 8375, and
# ICANN's decision of 2024 for .internal.
_NOBODYS = ("localhost", ".localhost", ".local", ".internal", ".home.arpa")


def is_open(scope: Scope) -> bool:
    """Whether anybody may ask: orchestrators check the health of what they run without a key."""
    return scope["type"] == "lifespan" or str(scope["path"]).startswith("/health/")


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


class OwnPages:
    """Keeps pages of other sites out, which any browser on this machine might have open.

    Browsers say which page sends a request, but for reading (RFC 6454, section 7): such a request must come
    from a page of the host that it goes to, or of one of `origins`. And a page may point its own name at
    this machine (DNS rebinding) and then reads like a page of Parley's; so where no key is asked for,
    `rebinding` is to be False: the host must then be an address or a name that nobody can register.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str] = (), *, rebinding: bool = True) -> None:
        self.app = app
        self._origins = origins
        self._rebinding = rebinding

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        refusal = None if is_open(scope) else self._refusal(Headers(scope=scope))
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            await refusal.response()(scope, receive, send)

    def _refusal(self, headers: Headers) -> ForeignOrigin | ForeignHost | None:
        origin, host = headers.get("origin"), headers.get("host", "")
        if origin is not None and origin not in self._origins and origin.partition("://")[2] != host:
            return ForeignOrigin()
        if not self._rebinding and _may_be_anybodys(host):
            return ForeignHost()
        return None


def _may_be_anybodys(host: str) -> bool:
    try:
        name = (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return True
    if "." not in name or name.endswith(_NOBODYS):  # a single word is a container's or a machine's name
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return True
    return False


class BearerKey:
    """Lets requests and WebSockets through only with `Authorization: Bearer <key>` (RFC 6750).

    /health/* is open. A browser cannot send the header when a person opens `/`: it is refused with `door`,
    an HTML page that asks for the key.
    """

    def __init__(self, app: ASGIApp, key: str, door: str | None = None) -> None:
        self.app = app
        self._key = key.encode()
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if is_open(scope):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # A scheme is the same in any case (RFC 9110, section 11.1).
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._key):
            await self.app(scope, receive, send)
        else:
            await self._refusal(scope, headers)(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> Response:
        refusal = Unauthorized(headers={"WWW-Authenticate": "Bearer"})
        if self._door and scope["path"] == "/" and "text/html" in headers.get("accept", ""):
            scope[CAUSE] = refusal.slug
            return HTMLResponse(self._door, refusal.status, refusal.headers | PAGE_POLICY)
        return refusal.response()
