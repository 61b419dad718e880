"""Two dialogue services on one Redis: a conversation's turns go one after another all the same."""

import asyncio
import itertools
import signal
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.sections import Check, Section
from benchmarks.torture import echo
from benchmarks.torture.clients import Crowd
from benchmarks.torture.http import Answer, Connection
from benchmarks.torture.replica import Replica
from dialogue_service.turns import LEASE_S
from tests.outside import redis_program
from tests.servers import RedisServer

Say = Callable[[str], None]

CLIENTS = 8
_TALK_S = 3.0


def two(say: Say, rounds: int) -> Section:
    """Talk to both at once, kill one, forget at one what is being answered at the other, hold one up."""
    with (
        TemporaryDirectory(prefix="parley-torture-") as folder,
        echo.serving() as model,
        RedisServer(redis_program("bundled"), Path(folder)) as redis,
    ):
        settings = {"REDIS_URL": redis.url, "DIALOGUE_INTENT_URL": "http://127.0.0.1:9"} | echo.settings(
            model
        )
        with (
            Replica(Path(folder) / "one", **settings) as one,
            Replica(Path(folder) / "two", **settings) as other,
        ):
            return asyncio.run(_Two(one, other, say).run(rounds))


class _Two:
    def __init__(self, one: Replica, other: Replica, say: Say) -> None:
        self._one = one
        self._other = other
        self._say = say
        self._crowd = Crowd(one.port, other.port)
        self._names = itertools.count()
        self._faults: list[str] = []

    async def run(self, rounds: int) -> Section:
        for number in range(rounds):
            self._say(
                f"talk to both and kill one, {number + 1} of {rounds}; faults so far: {len(self._faults)}"
            )
            await self._talk(kill=number % 2 == 1)
            self._say(f"forget while a reply is made, {number + 1} of {rounds}")
            for after_s in (0.0, 0.02, 0.1, 0.2, 0.3):
                await self._forget(after_s)
        self._say("hold one up for longer than a lease")
        await self._hold_up()
        return self._section(rounds)

    async def _talk(self, *, kill: bool) -> None:
        enough = asyncio.Event()
        talking = asyncio.create_task(self._crowd.talk(CLIENTS, enough))
        await asyncio.sleep(_TALK_S)
        if kill:
            await asyncio.to_thread(self._other.kill)
        enough.set()
        await talking
        self._faults += await self._crowd.faults()
        self._crowd.errors.clear()

    async def _forget(self, after_s: float) -> None:
        """What is said after DELETE /memory was answered must not know what was said before."""
        conversation = f"forgotten-{next(self._names)}"
        async with Connection(self._one.port) as one, Connection(self._other.port) as other:
            await _chat(one, conversation, "old")
            answering = asyncio.create_task(_chat(one, conversation, echo.wait(0.2, "older")))
            await asyncio.sleep(after_s)
            forgotten = await other.request("DELETE", f"/memory?conversation={conversation}")
            after = await _chat(other, conversation, "new")
            answer = await answering
            page = await one.request("GET", f"/memory?conversation={conversation}")
        stored = [(exchange["message"], exchange["reply"]) for exchange in page.json()["exchanges"]]
        new = ("new", echo.reply_to("new", 0))
        late = (echo.wait(0.2, "older"), echo.reply_to(echo.wait(0.2, "older"), 0))
        # The reply under way is finished and forgotten, or made later: then it knows nothing either.
        good = [[new], [new, (late[0], echo.reply_to(late[0], 2))], [late, ("new", echo.reply_to("new", 2))]]
        if forgotten.status != 200 or after.status != 200 or answer.status != 200 or stored not in good:
            statuses = forgotten.status, after.status, answer.status
            self._faults.append(f"forgotten after {after_s} s: {statuses}, then there is {stored}")

    async def _hold_up(self) -> None:
        """A process that stands still in the middle of a turn, as one does that is swapped out."""
        conversation = "held-up"
        async with Connection(self._one.port) as one, Connection(self._other.port) as other:
            await _chat(one, conversation, "old")
            answering = asyncio.create_task(_chat(one, conversation, echo.wait(0.5, "too late")))
            await asyncio.sleep(0.3)
            self._one.signal(signal.SIGSTOP)
            try:
                forgotten = await other.request("DELETE", f"/memory?conversation={conversation}")
                after = await _chat(other, conversation, "new")
            finally:
                self._one.signal(signal.SIGCONT)
            answer = await answering
            page = await one.request("GET", f"/memory?conversation={conversation}")
        stored = [exchange["message"] for exchange in page.json()["exchanges"]]
        statuses = forgotten.status, after.status, answer.status
        if statuses != (200, 200, 503) or stored != ["new"]:
            self._faults.append(f"held up: {statuses}, then there is {stored}")

    def _section(self, rounds: int) -> Section:
        section = Section(
            "Two dialogue services on one Redis",
            f"{CLIENTS} clients send each request to one of two services, by chance; every second time one "
            "of them is killed meanwhile. Each reply must have been made with exactly the exchanges before "
            "it. While a reply is made at one, its conversation is forgotten at the other: what is said next "
            "must know nothing. At last one is stopped (SIGSTOP) in the middle of a turn for longer than the "
            f"{LEASE_S:.0f} s that a turn's lease lasts, while the other forgets and talks on: when it goes "
            "on, its reply must be refused.",
        )
        section.facts = {
            "rounds": str(rounds),
            "replies forgotten while they were made": str(next(self._names)),
        }
        section.facts |= {what: f"{number:,}" for what, number in self._crowd.ledger.counts().items()}
        section.findings = self._faults
        section.checks = [
            Check.at_most(
                len(self._faults), 0, "Two services: turns mixed, or old context after DELETE", "faults"
            )
        ]
        return section


async def _chat(connection: Connection, conversation: str, message: str) -> Answer:
    body: dict[str, Any] = {"message": message, "conversation": conversation}
    return await connection.request("POST", "/chat", body)
