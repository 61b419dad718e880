"""The client of Redis: every wait is bounded, every failure is a MemoryUnavailable that says why."""

import asyncio
import logging
from pathlib import Path
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import BusyLoadingError, NoScriptError, RedisError, ResponseError

from dialogue_service.metrics import REDIS
from shared import disk
from shared.problems import MemoryUnavailable

logger = logging.getLogger(__name__)

ANSWER_S = 5.0
"""How long Redis may take to answer one command."""
_CONNECT_S = 2.0
_RETRY_AFTER_S = 2
_QUOTES_NOTHING = ("MISCONF", "NOREPLICAS", "WRONGTYPE")


class Client(Redis):
    """Sends nothing twice by itself, because a command that was not answered may have been carried out.

    `folder` is where Redis keeps its files, if it does so on this machine.
    """

    def __init__(self, pool: BlockingConnectionPool, folder: Path | None) -> None:
        super().__init__(connection_pool=pool)
        self.auto_close_connection_pool = True
        self._folder = folder
        self._away = False

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """As Redis. Raises MemoryUnavailable in place of redis.RedisError, and after ANSWER_S seconds."""
        try:
            # Not the library's own socket_timeout: it sends under asyncio.wait_for, which before Python 3.12
            # loses a cancellation that comes as the sending ends. A deadline or a hang-up would be forgotten.
            async with asyncio.timeout(ANSWER_S):
                with REDIS.labels(str(args[0])).time():
                    answer = await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except NoScriptError:
            raise  # the library's own affair: it sends the script then
        except (RedisError, TimeoutError) as error:
            problem = MemoryUnavailable(await self._reason(error), retry_after_s=_RETRY_AFTER_S)
            if not self._away:  # said once per outage, not once per command
                logger.warning("no answer from Redis (%s): %s", type(error).__name__, problem.detail)
            self._away = True
            raise problem from error
        self._away = False
        return answer

    async def _reason(self, error: Exception) -> str | None:
        """None: Redis does not answer, and nobody knows why."""
        if isinstance(error, BusyLoadingError):
            return "Redis is still reading its memory from the disk. Send it again in a moment."
        if isinstance(error, ResponseError):
            # Redis' own reason, such as a full disk; that of a faulty command may quote what it was given.
            quotes = type(error) is ResponseError and not str(error).startswith(_QUOTES_NOTHING)
            return "Redis refused the command." if quotes else f"Redis refused: {error}"
        if self._folder and (fault := await asyncio.to_thread(disk.fault, self._folder)):
            return f"Redis cannot write to {self._folder}: {fault}. Correct that, then send it again."
        return None


def connect(url: str, folder: Path | None = None) -> Client:
    """A client of the Redis at `url`."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=64,
        timeout=_CONNECT_S,
        socket_connect_timeout=_CONNECT_S,
        socket_timeout=None,
        decode_responses=True,
    )
    return Client(pool, folder)
