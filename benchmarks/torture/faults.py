"""The network between the dialogue service and its neighbours fails: what callers get, and how soon."""

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis

from benchmarks.sections import Check, Section
from benchmarks.torture import echo
from benchmarks.torture.http import Answer, Connection
from benchmarks.torture.replica import Replica
from dialogue_service import keys
from dialogue_service.turns import LEASE_S
from tests.parley import Parley
from tests.proxy import Fault, Proxy, proxying

Say = Callable[[str], None]

ALWAYS = Fault("delay", seconds=0.05)
FAULTS = {
    "50 ms each way": ALWAYS,
    "20 s each way": Fault("delay", seconds=20),
    "black hole": Fault("black hole"),
    "reset": Fault("reset"),
    **{f"cut after {n} bytes": Fault("cut", after_bytes=n) for n in (0, 1, 7, 40, 300)},
    "refused": Fault("refuse"),
}
REDIS_S, INTENT_S = 8.0, 3.0
"""What is documented: README.md, "When something fails"."""
_THINKS_S = 0.4


@dataclass
class Trial:
    """One fault, once."""

    status: int
    seconds: float
    recovered_s: float
    fault: str | None


def network(say: Say, rounds: int, faults: dict[str, Fault] = FAULTS) -> Section:
    """Every fault on the way to Redis, before a turn and before storing, and on the way to the intents."""
    with (
        TemporaryDirectory(prefix="parley-torture-") as folder,
        echo.serving() as model,
        Parley(Path(folder), **echo.settings(model)) as parley,
        proxying(parley.redis_socket()) as redis,
        proxying(urlsplit(parley.urls["intent"]).port or 0) as intents,
        Replica(
            Path(folder) / "replica",
            REDIS_URL=f"redis://127.0.0.1:{redis.port}/0",
            DIALOGUE_INTENT_URL=f"http://127.0.0.1:{intents.port}",
            **echo.settings(model),
        ) as replica,
    ):
        return asyncio.run(
            _Network(replica.port, redis, intents, parley.redis_socket(), say).run(rounds, faults)
        )


class _Network:
    def __init__(self, port: int, redis: Proxy, intents: Proxy, socket: str, say: Say) -> None:
        self._port = port
        self._redis = redis
        self._intents = intents
        self._socket = socket
        self._say = say
        self._names = itertools.count()
        self._ways: dict[str, Callable[[Fault], Any]] = {
            "Redis, before a turn": self._before,
            "Redis, before storing": self._storing,
            "the intent service": self._intent,
        }

    async def run(self, rounds: int, faults: dict[str, Fault]) -> Section:
        trials: dict[tuple[str, str], list[Trial]] = {}
        for number, (name, fault), (way, trial) in itertools.product(
            range(rounds), faults.items(), self._ways.items()
        ):
            self._say(f"{way}: {name}, {number + 1} of {rounds}")
            trials.setdefault((name, way), []).append(await trial(fault))
        return self._section(trials, faults, await self._left())

    async def _before(self, fault: Fault) -> Trial:
        return await self._on_redis(fault, "", 0.0)

    async def _storing(self, fault: Fault) -> Trial:
        return await self._on_redis(fault, f"wait {_THINKS_S} ", _THINKS_S / 2)

    async def _on_redis(self, fault: Fault, prefix: str, after_s: float) -> Trial:
        """Three messages: one before, one in the fault (with a key, until it is answered), one after."""
        conversation = f"trial-{next(self._names)}"
        said = ["before", f"{prefix}within", "after"]
        async with Connection(self._port) as connection:

            async def chat(message: str, **headers: str) -> Answer:
                body = {"message": message, "conversation": conversation}
                return await connection.request("POST", "/chat", body, **headers)

            key = {"Idempotency-Key": conversation}
            await _until_answered(lambda: chat(said[0]))
            began = time.monotonic()
            talking = asyncio.create_task(chat(said[1], **key))
            await asyncio.sleep(after_s)
            await asyncio.to_thread(self._redis.set, fault)
            answer = await talking
            seconds = time.monotonic() - began
            await asyncio.to_thread(self._redis.set, Fault())
            recovered = await _until_answered(lambda: chat(said[1], **key))
            await _until_answered(lambda: chat(said[2]))
            page = (await connection.request("GET", f"/memory?conversation={conversation}")).json()
        stored = [exchange["message"] for exchange in page["exchanges"]]
        return Trial(
            answer.status, seconds, recovered, None if stored == said else f"there is {stored}, not {said}"
        )

    async def _intent(self, fault: Fault) -> Trial:
        """A message within the fault and then others until there is an intent again."""
        async with Connection(self._port) as connection:

            async def chat(message: str) -> Answer:
                body = {"message": message, "conversation": "intents"}
                return await connection.request("POST", "/chat", body)

            await asyncio.to_thread(self._intents.set, fault)
            began = time.monotonic()
            answer = await chat("Hello there!")
            seconds = time.monotonic() - began
            await asyncio.to_thread(self._intents.set, Fault())
            began = time.monotonic()
            while (await chat("Hello again!")).json()["intent"] is None:
                pass
            wrong = (
                None
                if answer.status != 200 or answer.json()["intent"] or answer.json()["degraded"]
                else "not said"
            )
            return Trial(answer.status, seconds, time.monotonic() - began, wrong)

    async def _left(self) -> int:
        await asyncio.sleep(LEASE_S + 1)
        async with Redis.from_url(f"unix://{self._socket}") as redis:
            return len(await redis.keys(f"{keys.LEASE}*") + await redis.keys(f"{keys.LINE}*"))

    def _section(
        self, trials: dict[tuple[str, str], list[Trial]], faults: dict[str, Fault], left: int
    ) -> Section:
        section = Section(
            "The network fails",
            "A proxy stands between one more dialogue service and Redis, and between it and the intent "
            "service. On the way to Redis: a message is said before, one (with an Idempotency-Key) in the "
            "fault, which begins before the turn or while the reply is being made, one after; the memory "
            "must then hold these three. Statuses that came, the longest time to the answer, and in brackets "
            "the longest time from the fault's end until the same request was answered (to Redis) or a reply "
            "had an intent again.",
        )
        for name in faults:
            cells = {way: _shown(trials[name, way]) for way in self._ways}
            section.rows.append((name, cells))
        for (name, way), made in trials.items():
            section.findings += [f"{way}, {name}: {trial.fault}" for trial in made if trial.fault]
            allowed = {200} if way == "the intent service" else {200, 503}
            wrong = {trial.status for trial in made} - allowed
            section.findings += [f"{way}, {name}: answered {status}" for status in wrong]

        def longest(of: str, *, recovery: bool = False) -> float:
            return max(
                trial.recovered_s if recovery else trial.seconds
                for (_, way), made in trials.items()
                if way.startswith(of)
                for trial in made
            )

        section.checks = [
            Check.at_most(
                len(section.findings), 0, "Network faults: wrong answers and wrong memories", "faults"
            ),
            Check.at_most(left, 0, "Network faults: locks left after a lease's time", "locks"),
            Check.at_most(longest("Redis"), REDIS_S, "Longest answer while Redis fails", "s"),
            Check.at_most(longest("the intent"), INTENT_S, "Longest answer while the intents fail", "s"),
            Check.at_most(
                longest("Redis", recovery=True), LEASE_S + 1, "Longest recovery once Redis answers again", "s"
            ),
        ]
        return section


async def _until_answered(ask: Callable[[], Any]) -> float:
    """Repeat a request until it is answered with 200; returns the seconds that took."""
    began = time.monotonic()
    while (await ask()).status != 200:  # noqa: ASYNC110  # there is nothing else to await
        await asyncio.sleep(0.05)
    return time.monotonic() - began


def _shown(trials: list[Trial]) -> str:
    statuses = ", ".join(str(status) for status in sorted({trial.status for trial in trials}))
    slowest = max(trial.seconds for trial in trials)
    return f"{statuses}; {slowest:.1f} s ({max(trial.recovered_s for trial in trials):.1f} s)"
