"""Clients that chat, vote and read, whatever happens to what they talk to, and keep a ledger of it."""

import asyncio
import json
import random
import time
from typing import Any

from benchmarks.torture.http import Answer, Anywhere, Connection
from benchmarks.torture.ledger import Ledger, Said

_AGAIN_S = 0.1
SHARED = "shared"


class Crowd:
    """Some clients of a service: each has a conversation of its own, and all have one in common.

    With a key, a message is sent until it is answered; without one it is sent once. Of several `ports`, each
    request goes to one by chance.
    """

    def __init__(self, *ports: int) -> None:
        self._ports = ports
        self.ledger = Ledger()
        self.errors: list[str] = []
        """Answers that no caller should get."""
        self.longest_silence_s = 0.0
        self._stop = asyncio.Event()
        self._answered_at = 0.0

    async def talk(self, clients: int, enough: asyncio.Event) -> None:
        """Let them talk until the event is set and everybody has an answer."""
        self._stop = enough
        self._answered_at = time.monotonic()
        self.longest_silence_s = 0.0
        await asyncio.gather(*(self._client(number) for number in range(clients)))

    async def _client(self, number: int) -> None:
        chance = random.Random()  # noqa: S311
        async with Anywhere(self._ports) as connection:
            while not self._stop.is_set():
                conversation = SHARED if chance.random() < 0.3 else f"client-{number}"
                text = f"Message {len(self.ledger.said)} of client {number}"
                said = Said(text, conversation, keyed=chance.random() < 0.7, began=time.monotonic())
                self.ledger.said.append(said)
                await self._say(connection, said)
                if said.answer and chance.random() < 0.3:
                    await self._vote(connection, said, chance.choice(["positive", "negative"]))
                if chance.random() < 0.1:
                    await self._vote_freely(connection)
                if chance.random() < 0.2:
                    await self._once(connection, "GET", f"/memory?conversation={conversation}&limit=5")
                await asyncio.sleep(chance.random() * 0.05)

    async def _say(self, connection: Anywhere, said: Said) -> None:
        body = {"message": said.message, "conversation": said.conversation}
        key = {"Idempotency-Key": said.message} if said.keyed else {}
        while True:
            answer = await self._once(connection, "POST", "/chat", body, **key)
            if answer and answer.status == 200:
                said.answer = answer.json()
                now = time.monotonic()
                self.longest_silence_s = max(self.longest_silence_s, now - self._answered_at)
                self._answered_at = now
            if said.answer or not said.keyed:
                said.ended = time.monotonic()
                return
            await asyncio.sleep(_AGAIN_S)

    async def _vote(self, connection: Anywhere, said: Said, rating: str) -> None:
        assert said.answer  # noqa: S101  # narrows the type
        said.vote = f"vote on {said.message}"
        vote = {"exchange_id": said.answer["id"], "rating": rating, "comment": said.vote}
        answer = await self._once(connection, "POST", "/feedback", vote)
        said.vote_acknowledged = answer is not None and answer.status == 200

    async def _vote_freely(self, connection: Anywhere) -> None:
        comment = f"free vote {len(self.ledger.free_votes)}"
        self.ledger.free_votes[comment] = False
        vote = {"input": comment, "response": "out", "feedback": comment}
        answer = await self._once(connection, "POST", "/feedback", vote)
        self.ledger.free_votes[comment] = answer is not None and answer.status == 200

    async def _once(
        self, connection: Anywhere, method: str, path: str, body: Any = None, **headers: str
    ) -> Answer | None:
        """None: there was no answer. What may be answered while something is away is 409, 429 or 503."""
        try:
            answer = await connection.request(method, path, body, **headers)
        except OSError:
            return None
        if answer.status not in (200, 409, 429, 503):
            self.errors.append(f"{method} {path}: {answer.status} {answer.body[:200]!r}")
        return answer

    async def faults(self) -> list[str]:
        """What is wrong with the memory now that all is quiet, and what was wrong with answers."""
        stored = {
            name: await self._export(f"/memory/export?conversation={name}")
            for name in self.ledger.conversations()
        }
        return self.errors + self.ledger.faults(stored, await self._export("/feedback/export"))

    async def _export(self, path: str) -> list[dict[str, Any]]:
        async with Connection(self._ports[0], timeout_s=300) as connection:
            answer = await connection.request("GET", path)
        if answer.status != 200:
            raise RuntimeError(f"{path} answered {answer.status}: {answer.body[:200]!r}")
        return [json.loads(line) for line in answer.body.splitlines()]
