"""A model server with OpenAI's HTTP interface in the place of a model on this machine.

vLLM, llama.cpp's server, `transformers serve` and many others speak it. A model with a chat template is
asked at /chat/completions, DialoGPT's kind at /completions (every turn closed by the EOS text). The
server's tokenizer is not known here, so the window is kept by an estimate; and nothing that the server
says of a failure is passed on, for it may quote the conversation.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

import httpx
from pydantic import BaseModel, Field, ValidationError

from dialogue_service import prompt
from dialogue_service.generation import OnText
from dialogue_service.generation.text import Stream, whole_sentences
from shared.hub import ModelUnavailable
from shared.problems import (
    DeadlineExceeded,
    EmptyReply,
    Overloaded,
    Problem,
    UpstreamFailed,
    UpstreamUnavailable,
)

logger = logging.getLogger(__name__)

Api = Literal["chat", "completions"]

EOS = "<|endoftext|>"
_EOS_TYPED = "<| endoftext |>"
_ROLES = ("user", "assistant")
_SAMPLING = {"temperature": 0.7, "top_p": 0.9}
_ATTEMPTS = 3
_BYTES_PER_TOKEN = 3  # cautious for English, which has about four
_LONGEST_LINE_BYTES = 1_000_000
_RETRY_AFTER_S = 5.0
_CONNECT_S = 5.0
_BROKE_OFF = "It broke off in the middle of its answer. Nothing was stored; send it again."
_UNKNOWN = "look into its log (a model without a chat template needs DIALOGUE_GENERATOR_API=completions)"
_REFUSALS = {
    401: "it wants another key: check DIALOGUE_GENERATOR_KEY",
    403: "it wants another key: check DIALOGUE_GENERATOR_KEY",
    404: "it has no such model or path: check DIALOGUE_MODEL and DIALOGUE_GENERATOR_URL",
    400: "it refused the request: check DIALOGUE_MODEL, DIALOGUE_CONTEXT_TOKENS and DIALOGUE_GENERATOR_API",
}


class UpstreamGenerator:
    """Asks one model of one server, `queue` requests at a time and no more."""

    dtype = ""

    def __init__(
        self,
        http: httpx.AsyncClient,
        model: str,
        *,
        api: Api,
        context_tokens: int,
        reply_tokens: int,
        queue: int,
    ) -> None:
        """`http` is what `connect` makes, a client of the running event loop; closing it is the caller's."""
        self.http = http
        self._model = model
        self._api = api
        self._window_bytes = context_tokens * _BYTES_PER_TOKEN
        self._reply_tokens = reply_tokens
        self._queue = queue
        self._loop = asyncio.get_running_loop()
        self._running = 0
        self._typical_s = 1.0  # running average of the time a reply takes

    async def reply(
        self, turns: Sequence[str], *, seed: int | None = None, on_text: OnText | None = None
    ) -> str:
        """Ask for the next turn; see Generator. What is streamed is not cut to whole sentences.

        Raises Overloaded, UpstreamUnavailable, UpstreamFailed, DeadlineExceeded or EmptyReply.
        """
        if self._running >= self._queue:
            raise Overloaded(retry_after_s=self._typical_s)
        self._running += 1
        began = time.monotonic()
        try:
            for attempt in range(_ATTEMPTS):
                body = self._body(turns, None if seed is None else seed + attempt)
                if text := await (self._stream(body, on_text) if on_text else self._whole(body)):
                    self._typical_s += 0.2 * (time.monotonic() - began - self._typical_s)
                    return text
            raise EmptyReply
        except httpx.HTTPError as error:
            raise _failure(error) from None  # its own text may name the server's address and password
        finally:
            self._running -= 1

    def warm_up(self) -> None:
        """One real reply, waited for in another thread than the event loop's. Raises ModelUnavailable."""
        reply = asyncio.run_coroutine_threadsafe(self.reply(["Hello!"]), self._loop)
        try:
            reply.result(self.http.timeout.read)
        except (Problem, TimeoutError) as error:
            reply.cancel()
            problem = error if isinstance(error, Problem) else DeadlineExceeded()
            raise ModelUnavailable(
                f"its server made no reply: {problem.title.lower()}", problem.detail
            ) from None

    def _body(self, turns: Sequence[str], seed: int | None) -> dict[str, Any]:
        kept = _newest(turns, self._window_bytes)
        body: dict[str, Any] = {"model": self._model, "max_tokens": self._reply_tokens, **_SAMPLING}
        if seed is not None:
            body["seed"] = seed
        if self._api == "chat":
            messages = [{"role": _ROLES[i % 2], "content": turn} for i, turn in enumerate(kept)]
            return body | {"messages": messages}
        # What somebody typed must not end a turn.
        text = "".join(turn.replace(EOS, _EOS_TYPED) + EOS for turn in kept)
        return body | {"prompt": text, "stop": [EOS]}

    def _post(self, body: dict[str, Any]) -> Any:
        path = "chat/completions" if self._api == "chat" else "completions"
        return self.http.stream("POST", path, json=body)

    async def _whole(self, body: dict[str, Any]) -> str:
        async with self._post(body) as answer:
            content = await _checked(answer)
            (choice,) = _choices(content)[:1] or [_Choice()]
        text = choice.said.strip()
        return whole_sentences(text) if choice.finish_reason == "length" else text

    async def _stream(self, body: dict[str, Any], on_text: OnText) -> str:
        stream, text, ended = Stream(on_text), "", False
        async with self._post(body | {"stream": True}) as answer:
            if not answer.is_success:
                await _checked(answer)
            async for data in _events(answer):
                if data == b"[DONE]":
                    ended = True
                    break
                for choice in _choices(data)[:1]:
                    ended = ended or choice.finish_reason is not None
                    text += choice.said
                    stream.show(text)
        if not ended:
            raise UpstreamFailed(_BROKE_OFF)
        return stream.end(text)


def connect(url: str, key: str | None, deadline_s: float, queue: int) -> httpx.AsyncClient:
    """A client of the model server at `url` (its /v1 included), with `key` as its bearer token."""
    return httpx.AsyncClient(
        base_url=url,
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(deadline_s, connect=min(_CONNECT_S, deadline_s)),
        # The bound on requests is the generator's own: none waits here.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=queue),
    )


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    """One candidate, whole or a piece of it, in either interface's shape."""

    text: str | None = None
    message: _Message = Field(default_factory=_Message)
    delta: _Message = Field(default_factory=_Message)
    finish_reason: str | None = None

    @property
    def said(self) -> str:
        return self.text or self.message.content or self.delta.content or ""


class _Answer(BaseModel):
    choices: list[_Choice]


def _choices(content: bytes) -> list[_Choice]:
    try:
        return _Answer.model_validate_json(content).choices
    except ValidationError:
        raise UpstreamFailed("Its answer has not OpenAI's shape. Check DIALOGUE_GENERATOR_URL.") from None


async def _checked(answer: httpx.Response) -> bytes:
    """The body of a good answer. Raises the Problem that a bad one stands for."""
    if answer.is_success:
        return await answer.aread()
    status, wait_s = answer.status_code, _retry_after(answer)
    logger.warning("the model server answered with status %d", status)
    if status == 429:
        raise Overloaded(retry_after_s=wait_s)
    if status == 503:
        raise UpstreamUnavailable("It says that it cannot answer now. Send it again.", retry_after_s=wait_s)
    if status in (408, 504):
        raise DeadlineExceeded
    reason = _REFUSALS.get(status, _UNKNOWN)
    raise UpstreamFailed(f"It answered with status {status}; {reason}.")


def _retry_after(answer: httpx.Response) -> float:
    """Seconds; a date is taken for the usual wait."""
    given = answer.headers.get("Retry-After", "")
    return float(given) if given.isdecimal() else _RETRY_AFTER_S


async def _events(answer: httpx.Response) -> AsyncIterator[bytes]:
    """The data of each server-sent event; these are single lines in OpenAI's interface."""
    rest = b""
    # Not httpx' lines: those end at Unicode's line separators too, which JSON may hold as they are.
    async for block in answer.aiter_bytes():
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > _LONGEST_LINE_BYTES:
            raise UpstreamFailed("Its answer is endless. Look into its log.")
        for line in lines:
            if line.startswith(b"data:"):
                yield line.removeprefix(b"data:").strip()


def _failure(error: httpx.HTTPError) -> Problem:
    logger.warning("no reply from the model server: %s", type(error).__name__)
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return UpstreamUnavailable(retry_after_s=_RETRY_AFTER_S)
    if isinstance(error, httpx.TimeoutException):
        return DeadlineExceeded()
    return UpstreamFailed(_BROKE_OFF)


def _newest(turns: Sequence[str], window_bytes: int) -> list[str]:
    """The exchanges that fit, as a local prompt has them; of a message that alone is longer, the end."""
    turns = turns[(len(turns) - 1) % 2 :]
    kept = turns[prompt.first_kept([len(turn.encode()) for turn in turns], window_bytes) :]
    return [*kept[:-1], kept[-1].encode()[-window_bytes:].decode(errors="ignore")]
