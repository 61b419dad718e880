"""One turn at a time in each conversation, whichever process makes it, and a bound on all that wait.

A turn has a ticket. Those of a conversation stand in line, a list in Redis, and the first has its turn. In a
process they get there in order of arrival; processes that share a Redis stand in line one after another.

A ticket is alive while its lease is in Redis, which its process renews. So the turns of a process that died
are over a few seconds later. A process that was only held up may go on as if nothing were: hence whatever a
turn changes is changed in one step with a look at the line (`memory`), and not at all when the turn was lost.
Martin Kleppmann, How to do distributed locking, 2016, calls that fencing.
"""

import asyncio
import logging
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Self
from weakref import WeakValueDictionary

from redis.asyncio import Redis

from dialogue_service import keys
from dialogue_service.keys import IdempotencyKey
from shared.problems import DeadlineExceeded, MemoryUnavailable, Overloaded

logger = logging.getLogger(__name__)

LEASE_S = 6.0
_LEASE_MS = int(LEASE_S * 1000)
_RENEWED_AFTER_S = 2.0
_POLL_S = 0.03
_GIVING_BACK_S = 0.5
_GIVE_BACK_AGAIN_S = 0.25

_TAKE = """
local line, lease, ticket, ms = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
if not redis.call('LPOS', line, ticket) then
  redis.call('SET', lease, '', 'PX', ms)
  redis.call('RPUSH', line, ticket)
  redis.call('PEXPIRE', line, 3 * ms)
end
local first = redis.call('LINDEX', line, 0)
while first ~= ticket and redis.call('EXISTS', ARGV[3] .. first) == 0 do
  redis.call('LPOP', line)
  first = redis.call('LINDEX', line, 0)
end
return first == ticket
"""

_RENEW = """
redis.call('SET', KEYS[2], '', 'PX', ARGV[1])
redis.call('PEXPIRE', KEYS[1], 3 * ARGV[1])
"""

_GIVE_BACK = """
redis.call('LREM', KEYS[1], 0, ARGV[1])
redis.call('DEL', KEYS[2])
if KEYS[3] and redis.call('GET', KEYS[3]) == ARGV[2] then redis.call('DEL', KEYS[3]) end
"""


@dataclass
class Ticket:
    """One turn's, in one conversation, with the caller's key for it if there is one."""

    conversation: str
    key: IdempotencyKey | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    used: bool = False
    """Given back, in the step that stored what came of the turn."""

    @property
    def line(self) -> str:
        """The Redis key of the conversation's line."""
        return keys.LINE + self.conversation

    @property
    def lease(self) -> str:
        """The Redis key that says that this turn is alive."""
        return keys.LEASE + self.id


class Turns:
    """Admits turns and lets them wait. A context manager, which ends what goes on in the background.

    Every method may raise MemoryUnavailable.
    """

    def __init__(self, redis: Redis, capacity: int) -> None:
        self._capacity = capacity
        self._admitted = 0
        # A lock lives as long as somebody holds or awaits it; asyncio's is first come, first served.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._giving_back: set[asyncio.Task[None]] = set()
        self._take = redis.register_script(_TAKE)
        self._renew = redis.register_script(_RENEW)
        self._give_back = redis.register_script(_GIVE_BACK)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await _ended(*self._giving_back)

    def check_room(self) -> None:
        """Raises Overloaded when too many turns are under way."""
        if self._admitted >= self._capacity:
            # By chance, so that those who are refused together do not come back together.
            raise Overloaded(retry_after_s=random.uniform(1, 1 + self._admitted))  # noqa: S311

    @asynccontextmanager
    async def admit(self, conversation: str, key: IdempotencyKey | None = None) -> AsyncIterator[Ticket]:
        """A ticket, alive until it is left; then nothing is held any more.

        Raises Overloaded at once when too many turns are under way.
        """
        self.check_room()
        self._admitted += 1
        ticket = Ticket(conversation, key)
        alive = asyncio.create_task(self._keep_alive(ticket))
        try:
            yield ticket
        finally:
            self._admitted -= 1
            await _ended(alive)
            if not ticket.used:
                giving_back = asyncio.create_task(self._give_back_surely(ticket))
                self._giving_back.add(giving_back)
                giving_back.add_done_callback(self._giving_back.discard)
                # The caller is told what happened even while Redis does not answer.
                await asyncio.wait({giving_back}, timeout=_GIVING_BACK_S)

    @asynccontextmanager
    async def take(self, ticket: Ticket, wait_s: float) -> AsyncIterator[None]:
        """Have the turn. Raises DeadlineExceeded after `wait_s` seconds."""
        lock = self._locks.setdefault(ticket.conversation, asyncio.Lock())
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(wait_s):
                    await held.enter_async_context(lock)
                    await self._be_first(ticket)
            except TimeoutError:
                raise DeadlineExceeded("Earlier messages of this conversation took too long.") from None
            yield

    async def _be_first(self, ticket: Ticket) -> None:
        given: list[str | int] = [ticket.id, _LEASE_MS, keys.LEASE]
        # The turns of other processes are waited for, so no event of this one tells when they are over.
        while not await self._take(keys=[ticket.line, ticket.lease], args=given):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)

    async def _keep_alive(self, ticket: Ticket) -> None:
        while True:
            await asyncio.sleep(_RENEWED_AFTER_S)
            try:
                await self._renew(keys=[ticket.line, ticket.lease], args=[_LEASE_MS])
            except MemoryUnavailable:
                logger.warning("a turn's lease could not be renewed")

    async def _give_back_surely(self, ticket: Ticket) -> None:
        """Try until it is done or the lease has ended by itself."""
        touched, given = [ticket.line, ticket.lease], [ticket.id]
        if key := ticket.key:
            touched.append(key.key)
            given.append(key.claimed_by(ticket.id))
        loop = asyncio.get_running_loop()
        ends = loop.time() + LEASE_S
        while loop.time() < ends:
            try:
                await self._give_back(keys=touched, args=given)
                return
            except MemoryUnavailable:
                await asyncio.sleep(_GIVE_BACK_AGAIN_S)


async def _ended(*tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
