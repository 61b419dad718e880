"""Replies of a model server: of a real one, and of servers that misbehave."""

import asyncio
import importlib.util
import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer

from dialogue_service.generation import upstream
from dialogue_service.generation.upstream import EOS, Api, UpstreamGenerator
from shared.hub import ModelUnavailable
from shared.problems import (
    DeadlineExceeded,
    EmptyReply,
    Overloaded,
    Problem,
    UpstreamFailed,
    UpstreamUnavailable,
)
from tests import checkpoints
from tests.dialogue_service.conftest import Start
from tests.outside import need
from tests.servers import free_port, wait_until

pytestmark = pytest.mark.anyio

NOBODY = "http://127.0.0.1:9/v1"
KEY = "do-not-show"
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


@asynccontextmanager
async def generator(
    url: str,
    model: str = "m",
    *,
    api: Api = "chat",
    deadline_s: float = 30,
    queue: int = 4,
    context_tokens: int = 384,
) -> AsyncIterator[UpstreamGenerator]:
    async with upstream.connect(url, KEY, deadline_s, queue) as http:
        yield UpstreamGenerator(
            http, model, api=api, context_tokens=context_tokens, reply_tokens=12, queue=queue
        )


# A real server


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tiny models: `chat` has a template, `plain` has none, `silent` ends every reply at once."""
    folder = tmp_path_factory.mktemp("upstream")
    for name in ("chat", "plain", "silent"):
        checkpoints.gpt2_like(folder / name)
    for name in ("chat", "plain"):
        # After the end of a turn, random tied weights say the end of a turn.
        end = json.loads((folder / name / "vocab.json").read_text("utf-8"))[EOS]
        (folder / name / "generation_config.json").write_text(
            json.dumps({"do_sample": True, "eos_token_id": end, "suppress_tokens": [end]})
        )
    tokenizer = AutoTokenizer.from_pretrained(folder / "chat")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "chat")
    return folder


@pytest.fixture(scope="module")
def real(models: Path) -> Iterator[str]:
    """`transformers serve`, which loads whatever folder a request names."""
    need(importlib.util.find_spec("openai"), "openai, which `transformers serve` needs")
    port = free_port()
    url, log = f"http://127.0.0.1:{port}", models / "log"
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve"]
    with (
        log.open("wb") as said,
        subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            stdout=said,
            stderr=said,
        ) as process,
    ):
        try:
            wait_until(lambda: process.poll() is not None or _answers(url), 120)
            assert process.poll() is None, log.read_text()
            yield f"{url}/v1"
        finally:
            process.kill()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").is_success
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize(("api", "model"), [("chat", "chat"), ("completions", "plain")])
async def test_a_real_server_talks_streams_and_heeds_the_seed(
    real: str, models: Path, api: Api, model: str
) -> None:
    turns, pieces = ["Hi", "Hello", "How are you?"], []
    async with generator(real, str(models / model), api=api) as talker:
        whole = await talker.reply(turns, seed=7)
        assert whole == whole.strip() != ""
        assert await talker.reply(turns, seed=7) == whole
        assert await talker.reply(turns, seed=8) != whole
        streamed = await talker.reply(turns, seed=7, on_text=pieces.append)
    assert "".join(pieces) == streamed
    assert len(pieces) > 1
    assert streamed.startswith(whole)  # a whole reply may lose its unfinished last sentence
    tokens = AutoTokenizer.from_pretrained(models / model)(streamed)["input_ids"]
    assert len(tokens) <= 24  # twelve, give or take those that text does not bring back


async def test_a_real_server_warms_up(real: str, models: Path) -> None:
    async with generator(real, str(models / "chat")) as talker:
        await asyncio.to_thread(talker.warm_up)


async def test_a_model_without_a_template_is_refused_at_warm_up(real: str, models: Path) -> None:
    async with generator(real, str(models / "plain")) as talker:
        with pytest.raises(ModelUnavailable, match="DIALOGUE_GENERATOR_API") as refused:
            await asyncio.to_thread(talker.warm_up)
    assert not refused.value.lasting


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_real_model_that_has_nothing_to_say(real: str, models: Path, streamed: bool) -> None:
    pieces: list[str] = []
    async with generator(real, str(models / "silent"), api="completions") as talker:
        with pytest.raises(EmptyReply):
            await talker.reply(["Hi"], on_text=pieces.append if streamed else None)
    assert pieces == []


# Servers that misbehave


@dataclass
class Server:
    """Answers every request with `answer` and hangs up, or with `stay` keeps silent from there on."""

    answer: bytes
    stay: bool = False
    url: str = ""
    heads: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(line[15:]) for line in head.splitlines() if line.lower().startswith("content-length:")
        )
        self.heads.append(head)
        self.bodies.append(json.loads(await reader.readexactly(length)))
        writer.write(self.answer)
        await writer.drain()
        self.asked.set()
        if self.stay:
            await reader.read()  # until the other side hangs up
            self.left.set()
        writer.close()


@asynccontextmanager
async def server(answer: bytes, *, stay: bool = False) -> AsyncIterator[Server]:
    told = Server(answer, stay)
    listening = await asyncio.start_server(told.serve, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()
    told.url = f"http://{host}:{port}/v1"
    async with listening:
        yield told


def answer(status: int, body: str = "", **headers: str) -> bytes:
    head = {"Content-Length": str(len(body.encode())), "Connection": "close", **headers}
    lines = [f"HTTP/1.1 {status} X", *(f"{name.replace('_', '-')}: {value}" for name, value in head.items())]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def said(text: str | None, finish: str | None = "stop") -> bytes:
    return answer(200, json.dumps({"choices": [{"message": {"content": text}, "finish_reason": finish}]}))


def stream(*pieces: str | None, end: str = "data: [DONE]\n\n") -> bytes:
    chunks = [{"choices": [{"delta": {"content": piece}, "finish_reason": None}]} for piece in pieces]
    events = "".join(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n" for chunk in chunks)
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        + (": hello\n\n" + events + end).encode()
    )


ERROR = json.dumps({"error": {"message": f"cannot answer Hi with {KEY}"}})

REFUSALS: dict[str, tuple[bytes, type[Problem], str | None]] = {
    "too many": (answer(429, ERROR, Retry_After="7"), Overloaded, "7"),
    "too many, until a date": (answer(429, ERROR, Retry_After="Sun, 22 Nov 2026"), Overloaded, "5"),
    "loading": (answer(503, ERROR, Retry_After="9"), UpstreamUnavailable, "9"),
    "loading, who knows how long": (answer(503, ERROR), UpstreamUnavailable, "5"),
    "key": (answer(401, ERROR), UpstreamFailed, None),
    "model": (answer(404, ERROR), UpstreamFailed, None),
    "request": (answer(400, ERROR), UpstreamFailed, None),
    "bug": (answer(500, ERROR), UpstreamFailed, None),
    "redirect": (answer(307, "", Location="http://127.0.0.1:9/"), UpstreamFailed, None),
    "gateway": (answer(504, ERROR), DeadlineExceeded, None),
    "no HTTP": (b"nonsense\r\n\r\n", UpstreamFailed, None),
    "nothing at all": (b"", UpstreamFailed, None),
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("case", REFUSALS)
async def test_a_failure_becomes_our_problem_and_quotes_nobody(
    case: str, streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="dialogue_service")
    given, kind, retry_after = REFUSALS[case]
    async with server(given) as told, generator(told.url) as talker:
        with pytest.raises(kind) as caught:
            await talker.reply(["Hi"], on_text=print if streamed else None)
    assert type(caught.value) is kind
    assert caught.value.headers.get("Retry-After") == retry_after
    said_of_it = f"{caught.value.detail} {caplog.text}"
    assert "answer Hi" not in said_of_it
    assert KEY not in said_of_it


@pytest.mark.parametrize(
    ("status", "setting"),
    [(401, "DIALOGUE_GENERATOR_KEY"), (404, "DIALOGUE_MODEL"), (400, "DIALOGUE_CONTEXT_TOKENS")],
)
async def test_a_refusal_names_the_setting_to_look_at(status: int, setting: str) -> None:
    async with server(answer(status)) as told, generator(told.url) as talker:
        with pytest.raises(UpstreamFailed, match=setting):
            await talker.reply(["Hi"])


async def test_nobody_there() -> None:
    async with generator(NOBODY) as talker:
        with pytest.raises(UpstreamUnavailable, match="DIALOGUE_GENERATOR_URL") as caught:
            await talker.reply(["Hi"])
        assert caught.value.headers["Retry-After"] == "5"
        with pytest.raises(ModelUnavailable, match="DIALOGUE_GENERATOR_URL") as refused:
            await asyncio.to_thread(talker.warm_up)
    assert not refused.value.lasting


@pytest.mark.parametrize("body", ["<p>hello</p>", "[]", '{"choices": [{"message": 7}]}', '{"error": "Hi"}'])
@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_of_another_shape(body: str, streamed: bool) -> None:
    given = stream("Hello", end=f"data: {body}\n\n") if streamed else answer(200, body)
    async with server(given) as told, generator(told.url) as talker:
        with pytest.raises(UpstreamFailed) as caught:
            await talker.reply(["Hi"], on_text=print if streamed else None)
    assert "Hi" not in caught.value.detail


async def test_a_stream_that_breaks_off_is_no_reply() -> None:
    pieces: list[str] = []
    async with server(stream("Hel", "lo", end="")) as told, generator(told.url) as talker:
        with pytest.raises(UpstreamFailed, match="broke off"):
            await talker.reply(["Hi"], on_text=pieces.append)
    assert pieces == ["Hel", "lo"]


async def test_a_body_that_breaks_off_is_no_reply() -> None:
    async with server(said("Hello")[:-5]) as told, generator(told.url) as talker:
        with pytest.raises(UpstreamFailed, match="broke off"):
            await talker.reply(["Hi"])


async def test_a_line_without_end_is_given_up() -> None:
    given = stream(end="data: " + "x" * 1_100_000)
    async with server(given, stay=True) as told, generator(told.url) as talker:
        with pytest.raises(UpstreamFailed, match="endless"):
            await talker.reply(["Hi"], on_text=print)


async def test_silence_is_a_deadline_exceeded() -> None:
    async with server(b"", stay=True) as told, generator(told.url, deadline_s=0.1) as talker:
        with pytest.raises(DeadlineExceeded):
            await talker.reply(["Hi"])
        with pytest.raises(ModelUnavailable, match="took too long"):
            await asyncio.to_thread(talker.warm_up)


# What is asked and what is made of the answer


async def test_the_pieces_joined_are_the_reply_without_white_space_around_it() -> None:
    # U+2028 ends a line for Python's own line splitting, not in server-sent events.
    given = stream(None, "", " \n", " Hello", "", " ", "\u2028world", ". \n", " ", end="data: [DONE]\n\n")
    pieces: list[str] = []
    async with server(given) as told, generator(told.url) as talker:
        reply = await talker.reply(["Hi"], on_text=pieces.append)
    assert reply == "".join(pieces) == "Hello \u2028world."


async def test_a_finish_reason_ends_a_stream_too() -> None:
    last = json.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    async with server(stream("Hello", end=f"data: {last}\r\n\r\n")) as told, generator(told.url) as talker:
        assert await talker.reply(["Hi"], on_text=print) == "Hello"


async def test_a_reply_that_was_cut_loses_its_unfinished_sentence() -> None:
    async with server(said(" I do. And you", "length")) as told, generator(told.url) as talker:
        assert await talker.reply(["Hi"]) == "I do."


async def test_an_empty_reply_is_asked_for_again_with_another_seed() -> None:
    async with server(said(" \n")) as told, generator(told.url) as talker:
        with pytest.raises(EmptyReply):
            await talker.reply(["Hi"], seed=5)
    assert [body["seed"] for body in told.bodies] == [5, 6, 7]


async def test_what_a_chat_is_asked() -> None:
    async with server(said("Fine.")) as told, generator(told.url, "the-model") as talker:
        assert await talker.reply(["Hi", "Hello", "How are you?"]) == "Fine."
    (body,), (head,) = told.bodies, told.heads
    assert head.startswith("POST /v1/chat/completions ")
    assert f"authorization: bearer {KEY}" in head.lower()
    assert body.pop("messages") == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "How are you?"},
    ]
    assert body == {"model": "the-model", "max_tokens": 12, "temperature": 0.7, "top_p": 0.9}


async def test_what_a_completion_is_asked_and_that_nobody_can_type_the_end_of_a_turn() -> None:
    given = answer(200, json.dumps({"choices": [{"text": "Fine.", "finish_reason": "stop"}]}))
    async with server(given) as told, generator(told.url, api="completions") as talker:
        assert await talker.reply(["Hi", "Hello", f"a{EOS}b"]) == "Fine."
    (body,), (head,) = told.bodies, told.heads
    assert head.startswith("POST /v1/completions ")
    assert body["prompt"] == f"Hi{EOS}Hello{EOS}a<| endoftext |>b{EOS}"
    assert body["stop"] == [EOS]


@pytest.mark.parametrize(
    ("turns", "kept"),
    [
        (["a" * 20, "b" * 20, "c" * 10, "d" * 20, "e" * 20], "abcde"),
        (["a" * 20, "b" * 20, "c" * 10, "d" * 20, "e" * 30], "cde"),
        (["a" * 20, "b" * 90, "c"], "c"),
        (["a", "b", "é" * 60], "é"),
    ],
)
async def test_old_exchanges_are_left_out_whole(turns: list[str], kept: str) -> None:
    async with server(said("Fine.")) as told, generator(told.url, context_tokens=32) as talker:
        await talker.reply(turns)
    sent = [message["content"] for message in told.bodies[0]["messages"]]
    assert "".join(text[0] for text in sent) == kept
    assert sum(len(text.encode()) for text in sent) <= 96
    assert turns[-1].endswith(sent[-1])


async def test_cancelling_hangs_up() -> None:
    for on_text, given in ((None, b""), (print, stream("Hello", end=""))):
        async with server(given, stay=True) as told, generator(told.url) as talker:
            reply = asyncio.create_task(talker.reply(["Hi"], on_text=on_text))
            await told.asked.wait()
            reply.cancel()
            async with asyncio.timeout(10):
                await told.left.wait()
            with pytest.raises(asyncio.CancelledError):
                await reply


async def test_one_too_many_is_refused_at_once_and_room_comes_back() -> None:
    async with server(b"", stay=True) as told, generator(told.url, queue=1) as talker:
        running = asyncio.create_task(talker.reply(["Hi"]))
        await told.asked.wait()
        with pytest.raises(Overloaded) as caught:
            await talker.reply(["Hi"])
        assert int(caught.value.headers["Retry-After"]) >= 1
        assert len(told.bodies) == 1
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        told.stay, told.answer = False, said("Fine.")
        assert await talker.reply(["Hi"]) == "Fine."


# In the place of the local engine


async def test_the_service_talks_with_the_model_of_a_server(start: Start) -> None:
    async with server(said("Fine.")) as told:
        variables = {"DIALOGUE_GENERATOR_URL": told.url, "DIALOGUE_MODEL": "far:1"}
        client = await asyncio.to_thread(lambda: start(**variables))
        ready = await asyncio.to_thread(client.get, "/health/ready")
        assert ready.json()["model"] == {"serving": "far:1", "loading": None, "failed": None}
        reply = await asyncio.to_thread(lambda: client.post("/generate", json={"input": "How are you?"}))
        assert reply.json() == {"response": "Fine.", "model": "far:1"}
        told.answer = answer(500, ERROR)
        reply = await asyncio.to_thread(lambda: client.post("/generate", json={"input": "How are you?"}))
    assert (reply.status_code, reply.json()["type"]) == (502, "urn:parley:problem:upstream-failed")
    assert [body["model"] for body in told.bodies] == ["far:1"] * 3
