"""Parley as it runs, over HTTP: how a long conversation goes, what is added around the model, how it starts.

Everything is started by the launcher, as `make run` does once all is installed: Valkey with
`appendfsync always`, both services, each in a process of its own.
"""

import asyncio
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.generation.engine import MESSAGE, REPLY, Say
from benchmarks.generation.model import Words
from benchmarks.generation.report import PARLEY
from benchmarks.sections import Check, Section, Times

TURNS = 200
_START_S, _READY_S = 180.0, 600.0
_INSTANT = json.dumps({"choices": [{"message": {"content": "Fine."}, "finish_reason": "stop"}]})
_STREAMED = f"data: {json.dumps({'choices': [{'delta': {'content': 'Fine.'}}]})}\n\ndata: [DONE]\n\n"


@dataclass
class Stack:
    """A launcher and what it has started."""

    process: subprocess.Popen[bytes]
    port: int
    intent_port: int
    log: Path
    first_reply_s: float = 0.0

    def chat(
        self, connection: http.client.HTTPConnection, message: str, conversation: str = "default"
    ) -> dict[str, Any]:
        """Say something. Raises OSError while nobody listens."""
        body = json.dumps({"message": message, "conversation": conversation})
        connection.request("POST", "/chat", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"POST /chat answered {answer.status}: {content.decode()}")
        reply: dict[str, Any] = json.loads(content)
        return reply

    def connect(self) -> http.client.HTTPConnection:
        """A connection that is kept open."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=_START_S)

    def serves(self, model: str) -> None:
        """Wait until this model is the one that serves, and the intents are found too."""
        until = time.monotonic() + _READY_S
        while time.monotonic() < until:
            replies, intents = self._ready(self.port), self._ready(self.intent_port)
            if replies["model"]["serving"] == model and intents.get("status") == "ready":
                return
            time.sleep(0.2)
        raise SystemExit(f"{model} did not come into service:\n{self.log.read_text()[-2000:]}")

    def _ready(self, port: int) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_START_S)
        try:
            connection.request("GET", "/health/ready")
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
            return answer
        except ConnectionRefusedError:  # not yet
            return {}
        finally:
            connection.close()

    def services(self) -> list[psutil.Process]:
        """The processes of both services."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if any("_service" in part for part in child.cmdline())]


@contextmanager
def running(**settings: object) -> Iterator[Stack]:
    """Parley on free ports and an empty memory, once it has made its first reply."""
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as folder:
        ports = {"DIALOGUE_PORT": str(_free_port()), "INTENT_PORT": str(_free_port())}
        given = ports | {"PARLEY_DATA": f"{folder}/data", "LOG_FORMAT": "json", "HF_HUB_OFFLINE": "1"}
        log = Path(folder) / "log"
        with log.open("wb") as said:
            began = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-m", "launcher"],
                env=os.environ | given | {name: str(value) for name, value in settings.items()},
                stdout=said,
                stderr=said,
            )
        stack = Stack(process, int(ports["DIALOGUE_PORT"]), int(ports["INTENT_PORT"]), log)
        try:
            _first_reply(stack)
            stack.first_reply_s = time.perf_counter() - began
            yield stack
        finally:
            process.terminate()
            process.wait(60)


def _first_reply(stack: Stack) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and stack.process.poll() is None:
        connection = stack.connect()
        try:
            stack.chat(connection, "Tell me something about yourself, please.")
            return
        except (OSError, RuntimeError):  # nobody listens, or no model yet
            time.sleep(0.02)
        finally:
            connection.close()
    raise SystemExit(f"Parley did not start:\n{stack.log.read_text()[-2000:]}")


def turns(checkpoint: Path, words: Words, say: Say, count: int) -> Section:
    """One conversation of many turns, and a young one beside its end."""
    section = Section(
        f"{count} turns",
        f"A conversation over HTTP: messages of {MESSAGE} tokens, replies of {REPLY}, one candidate, the "
        "service's own window and memory. Seconds for a turn, with its intent and its place on the disk; "
        "means, because a turn at which the window moves costs more than the others. Turns 11 to 20 are "
        "another conversation's, one by one with the last ten of the long one: both in the same noise.",
    )
    options = {"DIALOGUE_MODEL": checkpoint, "DIALOGUE_REPLY_TOKENS": REPLY, "DIALOGUE_CANDIDATES": 1}
    took: dict[str, list[float]] = {"long": [], "young": []}
    with running(**options) as stack:
        stack.serves(checkpoint.name)
        connection = stack.connect()

        def turn(conversation: str) -> None:
            model = ""
            while model != checkpoint.name:  # the catalogue's replies cost nothing
                began = time.perf_counter()
                reply = stack.chat(connection, words.turn(MESSAGE).strip(), conversation)
                seconds, model = time.perf_counter() - began, reply["model"]
            took[conversation].append(seconds)

        for number in range(1, count + 1):
            if number % 10 == 1:
                say(f"{PARLEY}: turn {number} of {count}")
            if number == count - 9:
                for _ in range(10):
                    turn("young")
            turn("long")
            if number > count - 10:
                turn("young")
        connection.close()
    early, late = took["young"][10:20], took["long"][-10:]
    for what, part in (
        ("turns 11 to 20", early),
        ("the last ten", late),
        ("all of the long one", took["long"]),
    ):
        shown = f"{statistics.mean(part):.2f} ({min(part):.2f}-{max(part):.2f})"
        section.rows.append((what, {PARLEY: shown}))
    ratio = statistics.mean(late) / statistics.mean(early)
    section.checks.append(Check.at_most(ratio, 1.2, f"The last ten of {count} turns against turns 11 to 20"))
    return section


def around(words: Words, say: Say, requests: int) -> Section:
    """What is added around a model that answers at once."""
    section = Section(
        "Around the model",
        f"{requests} requests one after another in one conversation, milliseconds. The model is a server "
        "that answers every request at once (`DIALOGUE_GENERATOR_URL`), so the hop to it is counted too. The "
        "parts are the service's own `timings`.",
    )
    took: dict[str, list[float]] = {"whole request": []}
    with instant_model() as url, running(DIALOGUE_GENERATOR_URL=url, DIALOGUE_MODEL="instant") as stack:
        stack.serves("instant")
        connection = stack.connect()
        for number in range(-20, requests):
            if number % 100 == 0:
                say(f"{PARLEY}: request {number} of {requests}")
            began = time.perf_counter()
            reply = stack.chat(connection, words.turn(MESSAGE).strip())
            seconds = time.perf_counter() - began
            if number >= 0 and reply["degraded"]:
                raise RuntimeError("a reply was made without its intent")
            if number >= 0:
                took["whole request"].append(1000 * seconds)
                for part, part_ms in reply["timings"].items():
                    took.setdefault(part.removesuffix("_ms"), []).append(part_ms)
        connection.close()
    section.facts = {what: Times(values).shown(1) for what, values in took.items()}
    median = Times(took["whole request"]).median
    section.checks.append(Check.at_most(median, 12, "What Parley adds around the model, median", "ms"))
    return section


def start(checkpoint: Path, say: Say, rounds: int) -> Section:
    """From the launcher's start to the first reply, and the memory that both services take."""
    section = Section(
        "Start and memory",
        "From the start of the launcher to the first reply (the stand-in makes it, while the large model "
        "loads beside it), and the resident memory once that has made ten replies. Of what both services "
        "share, torch's own code above all, 'alone' counts all for each, 'together' half for each (PSS).",
    )
    seconds: list[float] = []
    alone: dict[str, list[float]] = {}
    together: list[float] = []
    for number in range(rounds):
        say(f"{PARLEY}: start {number + 1} of {rounds}")
        with running(DIALOGUE_MODEL=checkpoint) as stack:
            seconds.append(stack.first_reply_s)
            stack.serves(checkpoint.name)
            connection = stack.connect()
            for _ in range(10):
                stack.chat(connection, "And what else can you tell me about that?")
            connection.close()
            services = stack.services()
            for process in services:
                name = " ".join(process.cmdline()).split()[-1]
                alone.setdefault(f"{name} alone, GB", []).append(process.memory_info().rss / 1e9)
            together.append(sum(_proportional(process) for process in services) / 1e9)
    section.facts = {"first reply, s": Times(seconds).shown(1)}
    section.facts |= {what: Times(values).shown() for what, values in alone.items()}
    section.facts["both together, GB"] = Times(together).shown()
    section.checks.append(Check.at_most(Times(seconds).median, 8, "Start to first reply", "s"))
    section.checks.append(
        Check.at_most(Times(together).median, 1.2, "Memory of both services together", "GB")
    )
    return section


def _proportional(process: psutil.Process) -> int:
    """Bytes; where the system does not say what is shared, all that is resident."""
    memory = process.memory_full_info()
    return int(getattr(memory, "pss", memory.rss))


@contextmanager
def instant_model() -> Iterator[str]:
    """A server that says the same to everything, at once."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(_answer, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        talking = asyncio.all_tasks(loop)
        for task in talking:
            task.cancel()
        if talking:
            loop.run_until_complete(asyncio.wait(talking))
        loop.close()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            asked = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = next(line for line in asked.splitlines() if line.startswith("content-length:"))
            streams = json.loads(await reader.readexactly(int(length.partition(":")[2]))).get("stream")
            said, kind = (_STREAMED, "text/event-stream") if streams else (_INSTANT, "application/json")
            head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(said)}\r\n\r\n"
            writer.write((head + said).encode())
            await writer.drain()
    except asyncio.IncompleteReadError:
        pass
    finally:
        writer.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
