"""A very long conversation beside a short one: what a turn, a page, a start and an export cost."""

import asyncio
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import psutil
import redis

from benchmarks.sections import Check, Section
from benchmarks.torture import echo
from benchmarks.torture.http import Connection
from dialogue_service import keys
from dialogue_service.contracts import Timings, Turn
from shared.contracts import Intent
from tests.parley import Parley

Say = Callable[[str], None]

SHORT = 100
_TURNS = 160  # of each; a multiple of 32, because what is recalled differs from turn to turn that often
_PAGES = 100
_BATCH = 2000
_CHUNK_BYTES = 64 * 1024
_EXPORT_S = 1200.0  # then it is given up


def conversation(say: Say, exchanges: int, starts: int = 3) -> Section:
    """Fill one conversation and compare it with one of SHORT exchanges; `starts` times start with each."""
    with TemporaryDirectory(prefix="parley-torture-") as folder, echo.serving() as model:
        # The window as it is by default: the prompts of both are of the same length.
        settings = echo.settings(model) | {"DIALOGUE_CONTEXT_TOKENS": "384"}
        with Parley(Path(folder), **settings) as parley:
            return _Long(parley, exchanges, starts, say).measured()


class _Long:
    def __init__(self, parley: Parley, exchanges: int, starts: int, say: Say) -> None:
        self._parley = parley
        self._exchanges = exchanges
        self._starts_each = starts
        self._say = say

    def measured(self) -> Section:
        names = (f"{SHORT} exchanges", f"{self._exchanges:,} exchanges")
        self._fill("short", SHORT)
        starts = [self._starts(names[0])]
        self._fill("long", self._exchanges)
        starts.append(self._starts(names[1]))
        turns = asyncio.run(self._turns())
        newest, older = asyncio.run(self._pages())
        exported, before, most, seconds = asyncio.run(self._export())
        section = Section(
            "A long conversation",
            "Entries of the real format, written straight into the stream. One run; median (least-most); "
            "requests to the two conversations alternate. A start is from the launcher's to its banner.",
        )
        for what, (short, long), scale in (
            ("POST /chat, ms", turns, 1000),
            ("GET /memory, the newest 50, ms", newest, 1000),
            ("GET /memory, 50 from the middle, ms", older, 1000),
            *([("start, s", (starts[0], starts[1]), 1)] if self._starts_each else []),
        ):
            cells = {name: _shown(values, scale) for name, values in zip(names, (short, long), strict=True)}
            section.rows.append((what, cells))
            ratio = statistics.median(long) / statistics.median(short)
            section.checks.append(
                Check.at_most(ratio, 1.2, f"{what.partition(',')[0]}, {names[1]} to {SHORT}")
            )
        section.facts = {
            "exported exchanges": f"{exported:,} of {self._exchanges + _TURNS:,} in {seconds:.0f} s",
            "dialogue service before and at most during that, MB": f"{before:.0f}, {most:.0f}",
        }
        if exported != self._exchanges + _TURNS:
            section.findings.append(f"{exported} exchanges were exported, not {self._exchanges + _TURNS}")
        missing = self._exchanges + _TURNS - exported
        section.checks.append(Check.at_most(missing, 0, "Exchanges missing in the export", "exchanges"))
        section.checks.append(Check.at_most(most / before, 1.1, "Memory during the export to that before"))
        return section

    def _fill(self, name: str, exchanges: int) -> None:
        turn = Turn(
            conversation=name,
            message="MESSAGE",
            reply="That is a good question, and I have thought about it for quite a while.",
            intent=Intent(label="greeting", score=0.9, ranking=[], model="m"),
            model="echo",
            timings=Timings(waiting_ms=0.1, recall_ms=0.8, intent_ms=11.2, reply_ms=182.5),
        ).model_dump_json()
        with redis.Redis(unix_socket_path=self._parley.redis_socket()) as client:
            number = client.incr(keys.NUMBERS)
            client.hset(keys.CONVERSATIONS, name, number)
            first = int(time.time() * 1000) - exchanges
            for begin in range(0, exchanges, _BATCH):
                self._say(f"writing exchange {begin:,} of {exchanges:,}")
                with client.pipeline(transaction=False) as pipeline:
                    for n in range(begin, min(begin + _BATCH, exchanges)):
                        said = {"turn": turn.replace("MESSAGE", f"This is what I say at number {n}.")}
                        pipeline.xadd(f"{keys.STREAM}{number}", said, id=f"{first + n}-{number}")
                    pipeline.execute()

    def _starts(self, names: str) -> list[float]:
        seconds = []
        for number in range(self._starts_each):
            self._say(f"start with {names}, {number + 1} of {self._starts_each}")
            self._parley.interrupt()
            began = time.perf_counter()
            self._parley.start()
            seconds.append(time.perf_counter() - began)
        return seconds

    async def _turns(self) -> tuple[list[float], list[float]]:
        took: tuple[list[float], list[float]] = ([], [])
        async with self._connection() as connection:
            for number in range(-8, _TURNS - 8):
                for values, name in zip(took, ("short", "long"), strict=True):
                    if number % 50 == 0:
                        self._say(f"turn {number} of {_TURNS}")
                    # Different ones: intents of what was said before are known.
                    body = {"message": f"And what about {name} number {number}?", "conversation": name}
                    values.append(await _timed(connection, "POST", "/chat", body))
        return took[0][8:], took[1][8:]

    async def _pages(self) -> tuple[tuple[list[float], list[float]], ...]:
        self._say("pages")
        newest: tuple[list[float], list[float]] = ([], [])
        older: tuple[list[float], list[float]] = ([], [])
        with redis.Redis(unix_socket_path=self._parley.redis_socket(), decode_responses=True) as client:
            middles = [self._middle(client, name) for name in ("short", "long")]
        async with self._connection() as connection:
            for _ in range(_PAGES):
                for n, (name, middle) in enumerate(zip(("short", "long"), middles, strict=True)):
                    path = f"/memory?conversation={name}&limit=50"
                    newest[n].append(await _timed(connection, "GET", path))
                    older[n].append(await _timed(connection, "GET", f"{path}&before={middle}"))
        return newest, older

    def _middle(self, client: "redis.Redis", name: str) -> str:
        """An exchange with at least 50 before it, half way where there are many."""
        stream = f"{keys.STREAM}{client.hget(keys.CONVERSATIONS, name)}"
        first = client.xrange(stream, count=60)[-1][0]
        last = client.xrevrange(stream, count=1)[0][0]
        (first_ms, number), last_ms = first.split("-"), last.split("-")[0]
        return str(first) if name == "short" else f"{(int(first_ms) + int(last_ms)) // 2}-{number}"

    async def _export(self) -> tuple[int, float, float, float]:
        """Exchanges, the dialogue service's memory before and at most (MB), seconds."""
        self._say("export")
        service = self._parley.child("dialogue_service")
        before = most = _megabytes(service)
        lines, began = 0, time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(b"GET /memory/export?conversation=long HTTP/1.0\r\nHost: parley\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        while (piece := await reader.read(_CHUNK_BYTES)) and time.perf_counter() - began < _EXPORT_S:
            lines += piece.count(b"\n")
            most = max(most, _megabytes(service))
        writer.close()
        return lines, before, most, time.perf_counter() - began

    @property
    def _port(self) -> int:
        return urlsplit(self._parley.urls["dialogue"]).port or 0

    def _connection(self) -> Connection:
        return Connection(self._port)


def _megabytes(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 1e6


async def _timed(connection: Connection, method: str, path: str, body: object = None) -> float:
    began = time.perf_counter()
    answer = await connection.request(method, path, body)
    seconds = time.perf_counter() - began
    if answer.status != 200:
        raise RuntimeError(f"{path} answered {answer.status}: {json.dumps(answer.body.decode())}")
    return seconds


def _shown(values: list[float], scale: int) -> str:
    median, least, most = statistics.median(values), min(values), max(values)
    return f"{scale * median:.1f} ({scale * least:.1f}-{scale * most:.1f})"
