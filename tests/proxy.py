"""A TCP proxy that makes the network between two processes fail on purpose."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

Mode = Literal["pass", "delay", "black hole", "reset", "cut", "refuse"]


@dataclass
class Fault:
    """What happens to what passes from now on.

    delay: each piece comes `seconds` later; black hole: nothing comes any more, connections stay open;
    reset: the connection breaks at the first piece; cut: it ends after `after_bytes` of the server's answers;
    refuse: nobody listens, and what was open is reset.
    """

    mode: Mode = "pass"
    seconds: float = 0.0
    after_bytes: int = 0


class Proxy:
    """Passes connections on to a server (a port of this machine, or a unix socket), or does not."""

    def __init__(self, target: int | str) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._fault = Fault()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def set(self, fault: Fault) -> None:
        """Let this happen from now on, to open connections too."""
        asyncio.run_coroutine_threadsafe(self._set(fault), self._loop).result(10)

    def run(self) -> None:
        """Until `end`, in a thread of its own."""
        self._loop.run_forever()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    def end(self) -> None:
        """From any thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _end(self) -> None:
        self._server.close()
        self._break_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    async def _set(self, fault: Fault) -> None:
        before, self._fault = self._fault.mode, fault
        if fault.mode == "refuse":
            self._server.close()
            self._break_all()
        elif before == "refuse":
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        if before == "black hole" and fault.mode == "pass":
            self._break_all()  # what was swallowed is missing: the rest would be read as its answer

    def _break_all(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if isinstance(self._target, int):
            there = await asyncio.open_connection("127.0.0.1", self._target)
        else:
            there = await asyncio.open_unix_connection(self._target)
        both = {writer, there[1]}
        self._open |= both
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(reader, there[1], answers=False))
                group.create_task(self._pass_on(there[0], writer, answers=True))
        except* OSError:
            pass
        finally:
            self._open -= both
            for each in both:
                each.transport.abort()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        passed, cut = 0, None
        while piece := await reader.read(64 * 1024):
            fault = self._fault
            if fault.mode == "delay":
                await asyncio.sleep(fault.seconds)
            elif fault.mode == "black hole":
                continue
            elif fault.mode == "reset":
                raise ConnectionResetError
            elif fault.mode == "cut" and answers:
                passed = 0 if cut is not fault else passed
                cut = fault
                piece = piece[: max(0, fault.after_bytes - passed)]
            writer.write(piece)
            await writer.drain()
            passed += len(piece)
            if cut is fault and answers and passed >= fault.after_bytes:
                raise ConnectionResetError
        writer.close()


@contextmanager
def proxying(target: int | str) -> Iterator[Proxy]:
    """A proxy in front of a server; it passes everything on until it is told otherwise."""
    proxy = Proxy(target)
    thread = threading.Thread(target=proxy.run)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.end()
        thread.join()
