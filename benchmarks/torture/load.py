"""Many clients at once for some minutes, and the end in the middle of it."""

import asyncio
import http.client
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import psutil

from benchmarks.sections import Check, Section
from benchmarks.torture import echo
from benchmarks.torture.http import Answer, Connection
from tests.parley import Parley

Say = Callable[[str], None]

CLIENTS = 200
DRAINED = 16
_PROBE_S = 0.1
_PROCESSES = {"dialogue": "dialogue_service", "intent": "intent_service", "Redis": "valkey"}


def heavy(say: Say, seconds: float, clients: int = CLIENTS) -> Section:
    """Load Parley, then end it with SIGTERM while it answers."""
    with (
        TemporaryDirectory(prefix="parley-torture-") as folder,
        echo.serving() as model,
        Parley(Path(folder), **echo.settings(model)) as parley,
    ):
        load = _Load(parley, clients)
        with _watching(parley) as watched:
            asyncio.run(load.run(seconds, say))
        say("SIGTERM while replies are being made")
        drained = asyncio.run(_drain(load.port, parley))
        return _section(load, watched, seconds, drained)


class _Load:
    """Clients that say the next thing once they are answered, and wait as long as a refusal asks them to."""

    def __init__(self, parley: Parley, clients: int) -> None:
        self.port = urlsplit(parley.urls["dialogue"]).port or 0
        self.clients = clients
        self.statuses: Counter[str] = Counter()
        self.answered_s: list[float] = []
        self.refused_s: list[float] = []

    async def run(self, seconds: float, say: Say) -> None:
        ends = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for number in range(self.clients):
                group.create_task(self._client(number, ends))
            while (left := ends - time.monotonic()) > 0:
                say(f"{left:.0f} s left, {len(self.answered_s):,} answered, {len(self.refused_s):,} refused")
                await asyncio.sleep(min(left, 5))

    async def _client(self, number: int, ends: float) -> None:
        async with Connection(self.port) as connection:
            while time.monotonic() < ends:
                body = {"message": f"Hello again from number {number}", "conversation": f"client-{number}"}
                began = time.perf_counter()
                try:
                    answer = await connection.request("POST", "/chat", body)
                except OSError as error:
                    self.statuses[str(error)] += 1
                    continue
                took = time.perf_counter() - began
                self.statuses[str(answer.status)] += 1
                if answer.status == 200:
                    self.answered_s.append(took)
                else:
                    self.refused_s.append(took)
                    connection.close()  # for the server does not keep one that is silent for long
                    wait_s = float(answer.headers.get("retry-after", 1))
                    await asyncio.sleep(min(wait_s, max(0.0, ends - time.monotonic())))


class _Watched:
    """What was seen of the processes, in order of time."""

    def __init__(self) -> None:
        self.live_s: list[float] = []
        self.megabytes: dict[str, list[float]] = {name: [] for name in _PROCESSES}
        self.files: dict[str, list[int]] = {name: [] for name in _PROCESSES}


@contextmanager
def _watching(parley: Parley) -> Iterator[_Watched]:
    """Ask for /health/live and look at the processes, in a thread with nothing else to do."""
    watched, stop = _Watched(), threading.Event()
    processes = {name: parley.child(part) for name, part in _PROCESSES.items()}
    thread = threading.Thread(target=_watch, args=(parley.urls["dialogue"], processes, watched, stop))
    thread.start()
    try:
        yield watched
    finally:
        stop.set()
        thread.join()


def _watch(url: str, processes: dict[str, psutil.Process], watched: _Watched, stop: threading.Event) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    while not stop.wait(_PROBE_S):
        began = time.perf_counter()
        connection.request("GET", "/health/live")
        connection.getresponse().read()
        watched.live_s.append(time.perf_counter() - began)
        for name, process in processes.items():
            watched.megabytes[name].append(process.memory_info().rss / 1e6)
            watched.files[name].append(process.num_fds())
    connection.close()


async def _drain(port: int, parley: Parley) -> list[str]:
    """What is wrong with the end: running replies finish, new ones are refused, exit status 0."""

    async def chat(number: int, message: str) -> Answer:
        async with Connection(port) as connection:
            body = {"message": message, "conversation": f"drained-{number}"}
            return await connection.request("POST", "/chat", body)

    running = [asyncio.create_task(chat(n, echo.wait(2, "last"))) for n in range(DRAINED)]
    await asyncio.sleep(1)
    parley.launcher.terminate()
    await asyncio.sleep(0.5)
    faults = []
    try:
        refused = await chat(DRAINED, "too late")
        faults.append(f"SIGTERM: a new request was answered {refused.status}")
    except OSError:
        pass  # nobody listens any more
    answers = await asyncio.gather(*running, return_exceptions=True)
    unfinished = [repr(a) for a in answers if not (isinstance(a, Answer) and a.status == 200)]
    faults += [f"SIGTERM: a running reply came to {fault}" for fault in unfinished]
    status = await asyncio.to_thread(parley.launcher.wait, 60)
    if status != 0 or not parley.ended():
        faults.append(f"SIGTERM: exit status {status}, everything ended: {parley.ended()}")
    return faults


def _section(load: _Load, watched: _Watched, seconds: float, drained: list[str]) -> Section:
    section = Section(
        "Load",
        f"{load.clients} clients for {seconds / 60:.1f} minutes, each with a conversation of its own, each "
        "saying the next thing as soon as it is answered; who is refused waits as long as `Retry-After` "
        "says. The clients are one process on the same machine; both services, Redis and the model server "
        "share its processors with them. Then SIGTERM to the launcher while replies are being made.",
    )
    answered = sorted(load.answered_s)
    refused = sorted(load.refused_s)
    live = sorted(watched.live_s)
    section.facts = {
        "answers by status": ", ".join(f"{status}: {count:,}" for status, count in load.statuses.items()),
        "replies a second": f"{len(answered) / seconds:.0f}",
        "reply, ms: median, p99": f"{_ms(answered, 0.5)}, {_ms(answered, 0.99)}",
        "refusal, ms: median, p99": f"{_ms(refused, 0.5)}, {_ms(refused, 0.99)}",
        "/health/live, ms: median, p99, longest": f"{_ms(live, 0.5)}, {_ms(live, 0.99)}, {_ms(live, 1)}",
    }
    growth, opened = [], []
    for name, megabytes in watched.megabytes.items():
        second, last = _quarters(megabytes)
        files = _quarters(watched.files[name])
        section.facts[f"{name}: MB in the second and last quarter; open files"] = (
            f"{second:.0f}, {last:.0f}; {files[0]:.0f}, {files[1]:.0f}"
        )
        if name != "Redis":  # which keeps what is said
            growth.append(last / second)
        opened.append(files[1] - files[0])
    wrong = {status: count for status, count in load.statuses.items() if status not in ("200", "429")}
    section.findings = [f"{count} times {status}" for status, count in wrong.items()] + drained
    section.checks = [
        Check.at_most(sum(wrong.values()), 0, "Load: answers that are neither a reply nor 429", "answers"),
        Check.at_most(_at(refused, 0.5) * 1000, 50, "Load: a refusal, median", "ms"),
        Check.at_most(_at(live, 0.99) * 1000, 100, "Load: /health/live, p99", "ms"),
        Check.at_most(max(growth), 1.05, "Load: a service's memory, last quarter to second"),
        Check.at_most(max(opened), 1, "Load: open files, last quarter more than second", "files"),
        Check.at_most(
            len(drained), 0, "SIGTERM: replies broken off, new ones taken, exit status not 0", "faults"
        ),
    ]
    return section


def _quarters(values: list[float] | list[int]) -> tuple[float, float]:
    """The means of the second quarter and of the last."""
    quarter = len(values) // 4
    if not quarter:
        raise SystemExit(
            "The load did not last long enough to be looked at four times: give it more seconds."
        )
    return statistics.mean(values[quarter : 2 * quarter]), statistics.mean(values[3 * quarter :])


def _at(ordered: list[float], part: float) -> float:
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def _ms(ordered: list[float], part: float) -> str:
    return f"{1000 * _at(ordered, part):.0f}"
