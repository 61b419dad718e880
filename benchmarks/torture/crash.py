"""`kill -9` of one process after another, at random moments, while clients chat, vote and read."""

import asyncio
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from redis.asyncio import Redis

from benchmarks.sections import Check, Section
from benchmarks.torture import echo
from benchmarks.torture.clients import Crowd
from dialogue_service import keys
from dialogue_service.turns import LEASE_S
from tests.parley import Parley

VICTIMS = {
    "Redis": "valkey",
    "the dialogue service": "dialogue_service",
    "the intent service": "intent_service",
    "the launcher": "launcher",
}
CLIENTS = 8
_LONGEST_BEFORE_S = 1.5
_QUIET_S = 1.0

Say = Callable[[str], None]


def rounds(
    count: int,
    say: Say,
    victims: tuple[str, ...] = tuple(VICTIMS),
    keep: Callable[[Section], None] | None = None,
) -> Section:
    """Kill `count` times and look at everything after each; `keep` gets what there is after each round."""
    with (
        TemporaryDirectory(prefix="parley-torture-") as folder,
        echo.serving() as model,
        Parley(Path(folder), **echo.settings(model)) as parley,
    ):
        return asyncio.run(_Series(parley, say).run(count, victims, keep))


class _Series:
    def __init__(self, parley: Parley, say: Say) -> None:
        self._parley = parley
        self._say = say
        self._crowd = Crowd(urlsplit(parley.urls["dialogue"]).port or 0)
        self._silences: dict[str, list[float]] = {}
        self.faults: list[str] = []

    async def run(
        self, count: int, victims: tuple[str, ...], keep: Callable[[Section], None] | None
    ) -> Section:
        for number in range(count):
            name = victims[number % len(victims)]
            self._say(f"kill -9 of {name}, {number + 1} of {count}; faults so far: {len(self.faults)}")
            await self._round(name)
            self.faults += [f"round {number + 1}, {name}: {fault}" for fault in await self._crowd.faults()]
            self._crowd.errors.clear()
            if keep:
                keep(self._section(number + 1))
        section = self._section(count)
        left = await self._left_behind()
        section.checks.append(Check.at_most(left, 0, "Locks left after a lease's time", "locks"))
        return section

    async def _round(self, name: str) -> None:
        enough = asyncio.Event()
        talking = asyncio.create_task(self._crowd.talk(CLIENTS, enough))
        await asyncio.sleep(random.uniform(0.1, _LONGEST_BEFORE_S))  # noqa: S311
        await asyncio.to_thread(self._parley.kill, VICTIMS[name])
        await asyncio.sleep(_QUIET_S)
        enough.set()
        await talking
        self._silences.setdefault(name, []).append(self._crowd.longest_silence_s)

    async def _left_behind(self) -> int:
        """Leases that are still there when every one must have ended; without it a ticket holds nothing."""
        await asyncio.sleep(LEASE_S + 1)
        async with Redis.from_url(f"unix://{self._parley.redis_socket()}") as redis:
            return len(await redis.keys(f"{keys.LEASE}*"))

    def _section(self, count: int) -> Section:
        section = Section(
            "Killed",
            f"{CLIENTS} clients chat (seven messages of ten with an Idempotency-Key, sent until they are "
            "answered; three of ten in one conversation that all share), vote and read. One process is "
            "killed with `kill -9` at a random moment; once everything answers again and the clients have "
            "theirs, all that is stored is compared with all that was said. Silence: the longest time "
            "in which no client got an answer to a message, median and longest of all rounds.",
        )
        section.facts = {"rounds": str(count)}
        section.facts |= {what: f"{number:,}" for what, number in self._crowd.ledger.counts().items()}
        for name, seconds in self._silences.items():
            shown = f"{statistics.median(seconds):.1f} ({max(seconds):.1f})"
            section.facts[f"killed: {name}, times; silence, s"] = f"{len(seconds)}; {shown}"
        section.findings = self.faults
        section.checks = [
            Check.at_least(count, 50, "Rounds of kill -9", "rounds"),
            Check.at_most(
                len(self.faults), 0, "Lost, doubled, halved or disordered exchanges and votes", "faults"
            ),
        ]
        return section
