"""What tests of turns share: a talker in the model's place, callers that hang up, events read back."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from dialogue_service.generation import OnText
from dialogue_service.generation.local import LocalGenerator


class Talker:
    """Says its pieces; can be made to wait before one of them and to fail at its end; notes being stopped.

    It stands in for the model only where a test must force waiting or failure.
    """

    def __init__(self, pieces: Sequence[str] = ("Well", ", ", "hello", ".")) -> None:
        self.pieces = pieces
        self.waits_at: int | None = None
        self.fails: BaseException | None = None
        self.asked: list[list[str]] = []
        self.began, self.go, self.stopped = threading.Event(), threading.Event(), threading.Event()

    @classmethod
    def instead(cls, monkeypatch: pytest.MonkeyPatch, waits_at: int | None = None) -> "Talker":
        """Answers from now on in every service that has been started."""
        talker = cls()
        talker.waits_at = waits_at

        async def reply(_: LocalGenerator, turns: Sequence[str], **options: Any) -> str:
            return await talker.reply(turns, **options)

        monkeypatch.setattr(LocalGenerator, "reply", reply)
        return talker

    async def reply(
        self, turns: Sequence[str], *, seed: int | None = None, on_text: OnText | None = None
    ) -> str:
        self.asked.append(list(turns))
        self.began.set()
        try:
            for number, piece in enumerate(self.pieces):
                while number == self.waits_at and not self.go.is_set():  # noqa: ASYNC110  # set by a thread
                    await asyncio.sleep(0.005)
                if on_text:
                    on_text(piece)
        except asyncio.CancelledError:
            self.stopped.set()
            raise
        if self.fails:
            raise self.fails
        return "".join(self.pieces)


def chat(client: httpx.Client, message: str, **headers: str) -> httpx.Response:
    return client.post("/chat", json={"message": message}, headers=headers)


def messages(client: httpx.Client, conversation: str = "default") -> list[str]:
    page = client.get("/memory", params={"conversation": conversation}).raise_for_status().json()
    return [exchange["message"] for exchange in page["exchanges"]]


def logged(caplog: pytest.LogCaptureFixture, route: str) -> list[tuple[str, int]]:
    """Method and status of each request to the route that stands in the log."""
    lines = [record.__dict__["fields"] for record in caplog.records if hasattr(record, "fields")]
    return [(line["method"], line["status"]) for line in lines if line["route"] == route]


@contextmanager
def calling(client: httpx.Client, path: str, body: Any, **headers: str) -> Iterator[socket.socket]:
    """A request that has been sent; the caller hangs up on leaving."""
    content = json.dumps(body).encode()
    given = {"Host": "x", "Content-Type": "application/json", "Content-Length": str(len(content)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    with socket.create_connection(("127.0.0.1", urlsplit(str(client.base_url)).port), timeout=30) as caller:
        caller.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + content)
        yield caller


def stream(client: httpx.Client, message: str, **headers: str) -> AbstractContextManager[httpx.Response]:
    return client.stream("POST", "/chat/stream", json={"message": message}, headers=headers)


def read(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Server-sent events as they come, with their data as JSON; comments are left out."""
    event: dict[str, Any] = {}
    for line in lines:
        if not line and event:
            yield event | {"data": json.loads(event["data"])}
            event = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value


def streamed(client: httpx.Client, message: str, **headers: str) -> list[dict[str, Any]]:
    """All events of one turn."""
    with stream(client, message, **headers) as answer:
        assert answer.status_code == 200, answer.read()
        return list(read(answer.iter_lines()))


def text_of(events: Sequence[dict[str, Any]]) -> str:
    """The streamed pieces joined."""
    return "".join(event["data"]["text"] for event in events if event["event"] == "token")
