"""One turn at a time in each conversation, in the order of arrival, and a bound on all that wait."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from shared.problems import DeadlineExceeded, Overloaded


class Turns:
    """The conversations' locks. asyncio.Lock wakes its waiters first come, first served."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._admitted = 0
        # A lock lives as long as somebody holds or awaits it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def take(self, conversation: str, wait_s: float) -> AsyncIterator[None]:
        """Hold the conversation's lock.

        Raises Overloaded at once when too many turns are under way, DeadlineExceeded after `wait_s` seconds.
        """
        if self._admitted >= self._capacity:
            raise Overloaded(retry_after_s=1 + self._admitted)
        self._admitted += 1
        lock = self._locks.setdefault(conversation, asyncio.Lock())
        try:
            try:
                async with asyncio.timeout(wait_s):
                    await lock.acquire()
            except TimeoutError:
                raise DeadlineExceeded("Earlier messages of this conversation took too long.") from None
            try:
                yield
            finally:
                lock.release()
        finally:
            self._admitted -= 1
