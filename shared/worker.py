"""One dedicated thread that computes, so that the event loop never does.

Knows nothing of models: a job is any callable that takes a stop event. The queue is bounded and a
job that finds it full is refused at once, with advice how long to wait.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from shared.problems import DeadlineExceeded, Overloaded

T = TypeVar("T")


@dataclass
class _Job(Generic[T]):
    call: Callable[[threading.Event], T]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[T]
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        try:
            settle = partial(self._succeed, self.call(self.stop))
        except StopIteration as error:  # the one that no future takes
            failure = RuntimeError("the job let StopIteration escape")
            failure.__cause__ = error
            settle = partial(self._fail, failure)
        except BaseException as error:  # whatever it is belongs to the caller; the thread must go on
            settle = partial(self._fail, error)
        # A closed loop means that the service has ended and nobody waits any more.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(settle)

    def drop(self) -> None:
        self.stop.set()
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.future.cancel)

    def _succeed(self, result: T) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def _fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


def in_own_thread(call: Callable[[], T]) -> T:
    """What `call` returns, or raises, in a thread that ends with it.

    For what computes seldom. OpenMP gives each thread that ever computes helpers that live as long as it, and
    once there are more of all these than processors, libgomp no longer spins between two parallel regions but
    sleeps: then each product of a model pays for waking a thread (a token of DialoGPT-medium: 20 ms, not 12).
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=threading.current_thread().name, daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


class Worker:
    """Runs jobs one after another in a daemon thread. Use it as a context manager.

    `capacity` bounds the jobs that wait; one more may be running.
    """

    def __init__(self, name: str, capacity: int, *, lasting: bool = True) -> None:
        """Not `lasting`: each job gets a thread that ends with it, see `in_own_thread`."""
        self._lasting = lasting
        self._jobs: queue.Queue[_Job[Any] | None] = queue.Queue(maxsize=capacity)
        self._running: _Job[Any] | None = None
        self._ended = False
        self._typical_s = 1.0  # running average of the time a job takes
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the running job, cancel the callers of the waiting ones, and leave.

        A job that does not heed its stop event is left behind (daemon).
        """
        self._ended = True
        with contextlib.suppress(queue.Empty):
            while waiting := self._jobs.get_nowait():
                waiting.drop()
        if running := self._running:
            running.stop.set()
        self._jobs.put(None)
        self._thread.join(timeout=2.0)

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        return self._jobs.qsize()

    async def run(self, call: Callable[[threading.Event], T], *, deadline_s: float | None = None) -> T:
        """Run `call(stop)` in the thread and return its result.

        `stop` is set when nobody waits for the result any more: the call should then end soon.
        Raises Overloaded at once when the queue is full, DeadlineExceeded after `deadline_s` seconds
        (waiting included), and whatever the call raises. RuntimeError: the worker has ended.
        """
        if self._ended:
            raise RuntimeError("the worker has ended")
        loop = asyncio.get_running_loop()
        job: _Job[T] = _Job(call, loop, loop.create_future())
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise Overloaded(retry_after_s=self._typical_s * (self._jobs.maxsize + 1)) from None
        try:
            done, _ = await asyncio.wait({job.future}, timeout=deadline_s)
            if not done:
                raise DeadlineExceeded
            return job.future.result()
        finally:
            job.stop.set()
            job.future.cancel()

    def _work(self) -> None:
        while job := self._jobs.get():
            if not job.stop.is_set():
                self._running, began = job, time.monotonic()
                if self._lasting:
                    job.run()
                else:
                    in_own_thread(job.run)
                self._running = None
                self._typical_s += 0.2 * (time.monotonic() - began - self._typical_s)
            del job  # what it made may be a whole model: not to be kept until the next job comes
