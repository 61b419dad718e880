"""Errors as RFC 9457 problem details, for every route, the framework's own errors included.

    Problem
     ├─ BadRequest           400  this is not HTTP, or two readers would understand it in two ways
     ├─ MalformedBody        400  the body is not JSON
     ├─ Unauthorized         401  API_KEY is set and the bearer token is missing or wrong
     ├─ ForeignHost          403  without a key, a name that a page may have pointed here
     ├─ ForeignOrigin        403  a page of another site
     ├─ NotFound             404  no such route or thing
     ├─ MethodNotAllowed     405
     ├─ RequestTimeout       408  the request did not arrive in time
     ├─ KeyInUse             409  a request with this Idempotency-Key is still running
     ├─ ConversationForgotten 409  the conversation was forgotten while the reply was being made
     ├─ SwapInProgress       409  another model is on its way into service
     ├─ NothingToRollBack    409  no version was active before this one
     ├─ TrainingRunning      409  one job at a time
     ├─ TrainingUnavailable  409  this installation cannot train
     ├─ TooLittleFeedback    409  nothing can be learned, or measured, from so few votes
     ├─ ContentTooLarge      413  a body, or a text in it, is too long
     ├─ UnsupportedMedia     415  a body in another form than plain JSON
     ├─ InvalidBody          422  wrong shape, empty, unknown fields
     ├─ KeyReused            422  this Idempotency-Key belongs to another body
     ├─ CatalogInvalid       422  the catalogue file has a mistake
     ├─ VersionUnusable      422  the model version cannot serve
     ├─ Overloaded           429  a queue is full
     ├─ HeadTooLarge         431  the request line and the headers are too long
     ├─ ClientGone           499  the caller hung up; only the log and the metrics see it
     ├─ InternalError        500  a bug
     ├─ UpstreamFailed       502  the model server gave no usable answer
     ├─ FeedbackUnavailable  502  the other service gave no feedback to learn from
     ├─ ModelNotReady        503  no model can answer yet
     ├─ EmptyReply           503  the model found no words
     ├─ MemoryUnavailable    503  Redis does not answer
     ├─ TooManySockets       503  as many WebSockets are open as may be
     ├─ UpstreamUnavailable  503  the model server cannot be reached, or says that it cannot answer now
     └─ DeadlineExceeded     504  not done in time; the work was stopped

A type URI is stable: programs may compare it.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

MEDIA_TYPE = "application/problem+json"
_TYPE_PREFIX = "urn:parley:problem:"

CAUSE = "parley.cause"
"""The key in an ASGI scope under which the slug of the problem stands that a request ended in."""

FORM_TAG = "form:"
"""Begins the tag of each shape a body may have: pydantic puts it into locations, callers never sent it."""


class FieldError(BaseModel):
    """One fault in a request and where it is."""

    pointer: str = Field(
        description="JSON Pointer (RFC 6901) into the body, or the parameter's name.", examples=["/message"]
    )
    detail: str = Field(examples=["must not be blank"])


class ProblemDetails(BaseModel):
    """RFC 9457 problem details."""

    type: str = Field(examples=["urn:parley:problem:invalid-body"])
    title: str = Field(examples=["The request does not have the right shape"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["Correct the fields named in errors."])
    errors: list[FieldError] | None = None


class Problem(Exception):
    """An error a caller is told about: the class fixes type, title and status, the instance says more."""

    slug: ClassVar[str]
    title: ClassVar[str]
    status: ClassVar[int]
    advice: ClassVar[str] = "Correct the request and send it again."

    def __init__(
        self,
        detail: str | None = None,
        *,
        retry_after_s: float | None = None,
        errors: Sequence[FieldError] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail or self.advice)
        self.detail = detail or self.advice
        self.errors = list(errors) if errors else None
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))

    def details(self) -> ProblemDetails:
        """The document that is sent."""
        return ProblemDetails(
            type=_TYPE_PREFIX + self.slug,
            title=self.title,
            status=self.status,
            detail=self.detail,
            errors=self.errors,
        )

    def response(self) -> Response:
        """The HTTP answer, which also notes its cause for the log and the metrics."""
        return _Answer(self)


class _Answer(JSONResponse):
    media_type = MEDIA_TYPE

    def __init__(self, problem: Problem) -> None:
        self._slug = problem.slug
        content = problem.details().model_dump(exclude_none=True)
        super().__init__(content, problem.status, problem.headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[CAUSE] = self._slug
        await super().__call__(scope, receive, send)


class BadRequest(Problem):
    """This is not HTTP, or two readers would understand it in two ways."""

    slug, title, status = "bad-request", "This is not a valid HTTP request", 400
    advice = "Send HTTP/1.1 (RFC 9112), with either Content-Length or Transfer-Encoding."


class MalformedBody(Problem):
    """The body is not JSON."""

    slug, title, status = "malformed-body", "The body is not JSON", 400
    advice = "Send a JSON object as UTF-8, with the header Content-Type: application/json."


class Unauthorized(Problem):
    """The bearer token is missing or wrong."""

    slug, title, status = "unauthorized", "A valid API key is needed", 401
    advice = "Send the header Authorization: Bearer <the value of API_KEY>."


class ForeignHost(Problem):
    """Anybody may have given this machine that name: a page of theirs would then read as one of Parley's."""

    slug, title, status = "foreign-host", "This name is not answered to without a key", 403
    advice = "Call by IP address or as localhost, or set API_KEY on the server."


class ForeignOrigin(Problem):
    """A page of another site; browsers let it send requests and open WebSockets, and name its origin."""

    slug, title, status = "foreign-origin", "Pages of other sites may not talk here", 403
    advice = "Use a page of this host, or name the origin in CORS_ORIGINS on the server."


class NotFound(Problem):
    """No such route or thing."""

    slug, title, status = "not-found", "There is nothing here", 404
    advice = "See /docs for the routes there are."


class MethodNotAllowed(Problem):
    """The route knows other methods."""

    slug, title, status = "method-not-allowed", "This route does not take that method", 405
    advice = "See /docs for the methods of each route."


class RequestTimeout(Problem):
    """The request did not arrive in time."""

    slug, title, status = "request-timeout", "The request did not arrive in time", 408
    advice = "Nothing was done. Send the whole request at once."


class KeyInUse(Problem):
    """A request with this Idempotency-Key is still running."""

    slug, title, status = "idempotency-key-in-use", "The first request with this key is still running", 409
    advice = "Wait for its answer, or send the same request again in a moment."


class ConversationForgotten(Problem):
    """Forgotten while this reply was being made, or since the reply of this key was stored."""

    slug, title, status = "conversation-forgotten", "The conversation was forgotten", 409
    advice = "Nothing was stored. Send the message again to begin anew."


class SwapInProgress(Problem):
    """Another model is on its way into service."""

    slug, title, status = "swap-in-progress", "Another model is on its way into service", 409
    advice = "Wait until GET /models shows nothing loading, then send this again."


class NothingToRollBack(Problem):
    """No version was active before this one."""

    slug, title, status = "nothing-to-roll-back", "No version was active before this one", 409
    advice = "GET /models lists the versions; activate the one you want."


class TrainingRunning(Problem):
    """One job at a time."""

    slug, title, status = "training-running", "A training job is running", 409
    advice = "Wait until GET /training shows that it has ended, or DELETE it."


class TooLittleFeedback(Problem):
    """Nothing can be learned, or measured, from so few votes; the detail says how many are missing."""

    slug, title, status = "too-little-feedback", "There is too little feedback to learn from", 409
    advice = "Give more feedback with POST /feedback, then send this again."


class ContentTooLarge(Problem):
    """A body, or a text in it, is too long."""

    slug, title, status = "content-too-large", "The request is too large", 413
    advice = "Send less; GET /info names the limits."


class UnsupportedMedia(Problem):
    """A body in another form than plain JSON."""

    slug, title, status = "unsupported-media", "The body has another form than JSON", 415
    advice = "Send JSON with the header Content-Type: application/json, and not compressed."


class InvalidBody(Problem):
    """The request's shape is wrong."""

    slug, title, status = "invalid-body", "The request does not have the right shape", 422
    advice = "Correct the fields named in errors."


class KeyReused(Problem):
    """This Idempotency-Key belongs to another body."""

    slug, title, status = "idempotency-key-reused", "This key belongs to another request", 422
    advice = "Use a new Idempotency-Key for a new request."


class CatalogInvalid(Problem):
    """The catalogue file has a mistake; the detail says where."""

    slug, title, status = "catalog-invalid", "The catalogue file has a mistake", 422
    advice = "Correct the file and send this again. The catalogue that was in force still is."


class VersionUnusable(Problem):
    """The model version cannot serve; the detail says why."""

    slug, title, status = "version-unusable", "This model version cannot serve", 422
    advice = "Activate another one. The model that served still does."


class Overloaded(Problem):
    """A queue is full."""

    slug, title, status = "overloaded", "Too many requests are waiting", 429
    advice = "Send it again after the seconds named in Retry-After."


class HeadTooLarge(Problem):
    """The request line and the headers are too long."""

    slug, title, status = "head-too-large", "The headers are too large", 431
    advice = "Send fewer and shorter headers, and a shorter path."


class ClientGone(Problem):
    """The caller hung up before the answer. The number is nginx's; the standard has none."""

    slug, title, status = "client-gone", "The caller hung up", 499


class InternalError(Problem):
    """A bug."""

    slug, title, status = "internal-error", "Something went wrong here", 500
    advice = "The log has the details under the X-Request-ID of this answer."


class UpstreamFailed(Problem):
    """The model server gave no usable answer; the detail says what to check."""

    slug, title, status = "upstream-failed", "The model server gave no usable answer", 502
    advice = "Nothing was stored. Send it again; the log of the model server may say more."


class FeedbackUnavailable(Problem):
    """The other service gave no feedback to learn from; the detail says what to check."""

    slug, title, status = "feedback-unavailable", "The feedback cannot be fetched", 502
    advice = "Check that the dialogue service runs where INTENT_FEEDBACK_URL says."


class ModelNotReady(Problem):
    """No model can answer yet."""

    slug, title, status = "model-not-ready", "No model can answer yet", 503
    advice = "Send it again later; GET /health/ready shows the progress."


class EmptyReply(Problem):
    """The model found no words."""

    slug, title, status = "empty-reply", "The model has nothing to say to that", 503
    advice = "Nothing was stored. Send it again, or say it in other words."


class MemoryUnavailable(Problem):
    """Redis does not answer."""

    slug, title, status = "memory-unavailable", "The memory cannot be reached", 503
    advice = "Redis does not answer: check that it runs and that REDIS_URL is right, then send it again."


class TooManySockets(Problem):
    """As many WebSockets are open as may be."""

    slug, title, status = "too-many-sockets", "Too many WebSockets are open", 503
    advice = "Close one, or come back later; DIALOGUE_SOCKETS says how many may be open."


class TrainingUnavailable(Problem):
    """This installation cannot train; the detail says why."""

    slug, title, status = "training-unavailable", "Training is not possible here", 409
    advice = "See that the registry's folder can be written; a model that runs elsewhere is trained there."


class UpstreamUnavailable(Problem):
    """The model server cannot be reached, or says that it cannot answer now."""

    slug, title, status = "upstream-unavailable", "The model server does not answer", 503
    advice = "Check that it runs and that DIALOGUE_GENERATOR_URL is right, then send it again."


class DeadlineExceeded(Problem):
    """Not done in time; the work was stopped."""

    slug, title, status = "deadline-exceeded", "It took too long", 504
    advice = "Nothing was stored and the work was stopped. Send it again, or send something shorter."


class _Framework(Problem):
    """An HTTP error of the framework that has no class of its own here."""

    slug, title, status = "http-error", "The request cannot be answered", 400


BODY_PROBLEMS: tuple[type[Problem], ...] = (
    MalformedBody,
    RequestTimeout,
    ContentTooLarge,
    UnsupportedMedia,
    InvalidBody,
)
"""What every route with a body may answer."""

_BY_STATUS: dict[int, type[Problem]] = {
    p.status: p for p in (NotFound, MethodNotAllowed, RequestTimeout, ContentTooLarge)
}


def responses(*problems: type[Problem]) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route: each status these problems have, with an example of each."""
    documented: dict[int | str, dict[str, Any]] = {}
    for problem in problems:
        entry = documented.setdefault(problem.status, {"model": ProblemDetails, "description": problem.title})
        content = entry.setdefault("content", {}).setdefault(MEDIA_TYPE, {"examples": {}})
        content["examples"][problem.slug] = {
            "summary": problem.title,
            "value": problem().details().model_dump(exclude_none=True),
        }
    return documented


def _as_problems(document: dict[str, Any]) -> dict[str, Any]:
    """The document with each problem's schema where its examples are.

    FastAPI files it under the media type of the route's good answer.
    """
    for operation in (op for path in document["paths"].values() for op in path.values()):
        for response in operation["responses"].values():
            content = response.get("content", {})
            if MEDIA_TYPE in content:
                for filed in content.keys() - {MEDIA_TYPE}:
                    content[MEDIA_TYPE] |= content.pop(filed)
    return document


def _pointer(location: Sequence[int | str]) -> str:
    """('body', 'turns', 0) is /turns/0; ('query', 'limit') is limit."""
    where, *path = (part for part in location if not str(part).startswith(FORM_TAG))
    if where != "body":
        return str(path[0]) if path else str(where)
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def from_validation(error: RequestValidationError) -> Problem:
    """What pydantic found, without echoing what the caller wrote."""
    faults = error.errors()
    if any(fault["type"] == "json_invalid" for fault in faults):
        return MalformedBody()
    errors = [
        FieldError(pointer=_pointer(f["loc"]), detail=f["msg"].removeprefix("Value error, ")) for f in faults
    ]
    if any(fault["type"] == "string_too_long" and fault["loc"][0] == "body" for fault in faults):
        return ContentTooLarge(errors=errors)
    return InvalidBody(errors=errors)


def from_http(error: HTTPException) -> Problem:
    """The framework's own errors in this house's form."""
    headers = dict(error.headers or {})
    if error.status_code == 400:
        return MalformedBody(headers=headers)
    if known := _BY_STATUS.get(error.status_code):
        return known(headers=headers)
    problem = _Framework(error.detail, headers=headers)
    problem.status = error.status_code  # type: ignore[misc]  # the one class whose status is not fixed
    return problem


def _wrong_method(app: FastAPI, request: Request) -> MethodNotAllowed:
    """With all methods of the request's path; the framework's own error names those of one route only."""
    routes = [r for r in iter_route_contexts(app.routes) if r.matches(request.scope)[0] is not Match.NONE]
    # Of the same path: /feedback/{exchange_id} would match /feedback/export too.
    methods = {method for route in routes if route.path == routes[0].path for method in route.methods or ()}
    return MethodNotAllowed(headers={"Allow": ", ".join(sorted(methods))})


def _mistaken(app: FastAPI, request: Request) -> bool:
    """Whether part of a path that a route has word by word has been taken for another route's parameter."""
    path = request.scope["path"]
    return bool(request.path_params) and any(r.path == path for r in iter_route_contexts(app.routes))


def install(app: FastAPI) -> None:
    """Make every error of this app a problem, in its OpenAPI document too."""
    describe = app.openapi
    # Replacing the method is FastAPI's own way to change the document.
    app.openapi = lambda: _as_problems(describe())  # type: ignore[method-assign]

    @app.exception_handler(Problem)
    async def _problem(_: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)  # noqa: S101  # narrows the type; the framework calls it for nothing else
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        if isinstance(error.body, bytes):
            # The framework parses only JSON, and would complain that bytes are no object.
            return UnsupportedMedia().response()
        if _mistaken(app, request):
            return _wrong_method(app, request).response()
        return from_validation(error).response()

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        problem = from_http(error)
        if isinstance(problem, MethodNotAllowed):
            problem = _wrong_method(app, request)
        return problem.response()
