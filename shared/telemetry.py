"""What is seen from outside: one log line and one metric per request, tied together by a request id."""

import asyncio
import datetime
import json
import logging
import re
import sys
import time
import traceback
import uuid
from collections.abc import Iterator
from contextvars import ContextVar
from types import TracebackType

from opentelemetry.trace import format_trace_id, get_current_span
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.metrics import IN_PROGRESS, LATENCY, PROBLEMS, REQUESTS
from shared.problems import CAUSE, InternalError

REQUEST_ID_HEADER = "X-Request-ID"
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_ACCEPTED_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_QUIET_PATHS = ("/health/", "/metrics")
WEBSOCKET = "WEBSOCKET"
"""Stands where a method would: for a connection (status 101), and for each message on it."""
SWITCHED = 101
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", WEBSOCKET})
_ANSWERS = frozenset({"http.response.start", "websocket.http.response.start", "websocket.accept"})

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

logger = logging.getLogger(__name__)
_texts = logging.getLogger("texts")
_texts.setLevel(logging.CRITICAL)  # unless `configure_logging` is told otherwise


def log_texts(**texts: object) -> None:
    """Log what people wrote and what was answered, if that is wanted."""
    _texts.info("texts", extra={"fields": {"texts": texts}})


class _Discreet(logging.Formatter):
    """Leaves out what exceptions say, for it may quote a message; with `texts` it stays."""

    def __init__(self, *, texts: bool = False) -> None:
        super().__init__()
        self._texts = texts

    def said(self, record: logging.LogRecord) -> str:
        """The record's message. asyncio's continue with the exception's own words on further lines."""
        message = record.getMessage()
        return message if self._texts or record.name != "asyncio" else message.partition("\n")[0]

    def formatException(self, ei: _ExcInfo) -> str:  # logging's name
        """A traceback as Python prints it, causes first."""
        if self._texts or ei[1] is None:
            return super().formatException(ei)
        return "".join(_traced(ei[1]))


def _traced(error: BaseException) -> Iterator[str]:
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from _traced(before)
        yield "\nand then:\n\n"
    yield from traceback.format_tb(error.__traceback__)
    yield f"{type(error).__qualname__}\n"
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from (f"  | {line}" for piece in _traced(each) for line in piece.splitlines(keepends=True))


class JsonFormatter(_Discreet):
    """One JSON object a line: time (UTC), level, logger, message, ids of request and trace, `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        line = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(
                "T", "milliseconds"
            ),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.said(record),
            "request_id": request_id.get(),
            "trace_id": _trace_id(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps({k: v for k, v in line.items() if v is not None}, ensure_ascii=False)


def _trace_id() -> str | None:
    span = get_current_span().get_span_context()
    return format_trace_id(span.trace_id) if span.is_valid else None


class TextFormatter(_Discreet):
    """The same for people at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        clock = datetime.datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = " ".join(f"{k}={v}" for k, v in getattr(record, "fields", {}).items())
        text = f"{clock} {record.levelname.lower():<7} {self.said(record)} {fields}".rstrip()
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def configure_logging(style: str, *, texts: bool = False) -> None:
    """Send every log record to stderr, as "json" or "text"; `texts` lets in what people write."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter((JsonFormatter if style == "json" else TextFormatter)(texts=texts))
    _texts.setLevel(logging.INFO if texts else logging.CRITICAL)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for chatty in ("httpx", "httpx2", "transformers", "huggingface_hub", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    # uvicorn's own start and stop lines go the same way as everything else.
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
        logging.getLogger(name).setLevel(logging.WARNING)


class RequestTelemetry:
    """ASGI middleware: takes or makes the X-Request-ID, returns it, logs and counts the request.

    A WebSocket is one request, which ends when it is closed; all on it carries the id of its handshake.
    A bug ends here too, as a problem that still carries the id.
    """

    def __init__(self, app: ASGIApp, service: str) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        this_id = given if _ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex
        request_id.set(this_id)
        status, began = 0, time.perf_counter()
        IN_PROGRESS.labels(self.service).inc()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] in _ANSWERS:
                status = message.get("status", SWITCHED)
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = this_id
            elif message["type"] == "websocket.close":
                status = status or 403  # what a server answers when a WebSocket is closed before it is open
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            logger.error("unhandled error", exc_info=error)
            if status:  # the answer has begun: breaking it off is the only way left to say that it failed
                raise
            await InternalError().response()(scope, receive, send_with_id)
        finally:
            IN_PROGRESS.labels(self.service).dec()
            if scope["type"] == "websocket" and status != SWITCHED:
                # Uvicorn takes note of a refused handshake one turn of the loop later, and before that would
                # log that there was none.
                await asyncio.sleep(0)
            self._record(scope, status, time.perf_counter() - began)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        # The route's template and a known method: what callers make up would make series without end.
        route = getattr(scope.get("route"), "path", "none")
        given = scope.get("method", WEBSOCKET)
        method = given if given in _METHODS else "other"
        quiet = scope["path"].startswith(_QUIET_PATHS)
        record(self.service, method, route, status, seconds, cause=scope.get(CAUSE), quiet=quiet)


def record(
    service: str,
    method: str,
    route: str,
    status: int,
    seconds: float,
    *,
    cause: str | None = None,
    quiet: bool = False,
) -> None:
    """Count one answered request and, unless `quiet`, log it; `cause` is the problem that it ended in."""
    REQUESTS.labels(service, method, route, status).inc()
    if cause:
        PROBLEMS.labels(service, cause).inc()
    if status != SWITCHED:  # how long a WebSocket stays open says nothing about speed
        LATENCY.labels(service, route).observe(seconds)
    if not quiet:
        fields = {
            "service": service,
            "method": method,
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 1),
        }
        if cause:
            fields["cause"] = cause
        logger.info("request", extra={"fields": fields})
