"""One thread computes: in order, bounded, stopped when nobody waits any more."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial

import pytest

from shared.problems import DeadlineExceeded, Overloaded
from shared.worker import Worker

pytestmark = pytest.mark.anyio

WAIT_S = 10.0


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not true():  # noqa: ASYNC110  # other threads change what is waited for
            await asyncio.sleep(0.001)


class _Busy:
    """Keeps a worker's thread occupied until it is told to stop or, if `stubborn`, until `release`."""

    def __init__(self, worker: Worker, *, stubborn: bool = False, deadline_s: float | None = None) -> None:
        self.began, self.release, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.stubborn = stubborn
        self.stopped = False
        self.task = asyncio.create_task(worker.run(self._work, deadline_s=deadline_s))

    def _work(self, stop: threading.Event) -> None:
        self.began.set()
        (self.release if self.stubborn else stop).wait(WAIT_S)
        self.stopped = stop.is_set()
        self.ended.set()


async def test_jobs_run_one_after_another_in_the_order_they_came() -> None:
    order = []

    def note(number: int, _: threading.Event) -> None:
        order.append(number)

    with Worker("w", capacity=20) as worker:
        await asyncio.gather(*(worker.run(partial(note, n)) for n in range(20)))
    assert order == list(range(20))


async def test_a_result_and_an_exception_reach_their_callers() -> None:
    def fail(_: threading.Event) -> None:
        raise LookupError("mine")

    with Worker("w", capacity=4) as worker:
        answers = await asyncio.gather(
            worker.run(lambda _: 1), worker.run(fail), worker.run(lambda _: 3), return_exceptions=True
        )
    assert (answers[0], answers[2]) == (1, 3)
    assert isinstance(answers[1], LookupError)


@pytest.mark.parametrize("error", [SystemExit(3), StopIteration(), GeneratorExit(), MemoryError()])
async def test_no_exception_ends_the_thread_or_leaves_its_caller_waiting(error: BaseException) -> None:
    def fail(_: threading.Event) -> None:
        raise error

    caught: BaseException | None = None
    with Worker("w", capacity=4) as worker:
        try:
            await worker.run(fail, deadline_s=WAIT_S)
        except BaseException as reached:
            caught = reached
        assert await worker.run(lambda _: "still here") == "still here"
    assert error in (caught, getattr(caught, "__cause__", None))


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    with Worker("w", capacity=2) as worker:
        running = _Busy(worker)
        await _until(running.began.is_set)
        waiting = [_Busy(worker), _Busy(worker)]
        await _until(lambda: worker.waiting == 2)

        with pytest.raises(Overloaded) as refused:
            await worker.run(lambda _: None)
        assert int(refused.value.headers["Retry-After"]) >= 1

        for busy in (*waiting, running):
            busy.task.cancel()
        await _until(lambda: worker.waiting == 0)
        assert await worker.run(lambda _: "room again") == "room again"


async def test_after_the_deadline_the_caller_is_told_and_the_job_stopped() -> None:
    with Worker("w", capacity=2) as worker:
        busy = _Busy(worker, deadline_s=0.02)
        with pytest.raises(DeadlineExceeded):
            await busy.task
        await _until(busy.ended.is_set)
    assert busy.stopped


async def test_the_deadline_counts_the_waiting_too() -> None:
    with Worker("w", capacity=2) as worker:
        first = _Busy(worker)
        await _until(first.began.is_set)
        second = _Busy(worker, deadline_s=0.02)
        with pytest.raises(DeadlineExceeded):
            await second.task
        first.task.cancel()
        await worker.run(lambda _: None)
    assert not second.began.is_set()


async def test_a_caller_who_leaves_stops_the_running_job() -> None:
    with Worker("w", capacity=2) as worker:
        busy = _Busy(worker)
        await _until(busy.began.is_set)
        busy.task.cancel()
        await _until(busy.ended.is_set)
    assert busy.stopped


async def test_a_waiting_job_whose_caller_left_never_runs() -> None:
    with Worker("w", capacity=2) as worker:
        first = _Busy(worker)
        await _until(first.began.is_set)
        second = _Busy(worker)
        await _until(lambda: worker.waiting == 1)
        second.task.cancel()
        first.task.cancel()
        await worker.run(lambda _: None)
    assert not second.began.is_set()


async def test_the_event_loop_turns_while_a_job_blocks() -> None:
    turned = threading.Event()

    async def turn() -> None:
        for _ in range(100):
            await asyncio.sleep(0)
        turned.set()

    with Worker("w", capacity=1) as worker:
        blocked_until_then, _ = await asyncio.gather(worker.run(lambda _: turned.wait(WAIT_S)), turn())
    assert blocked_until_then


@pytest.mark.parametrize("waiting", [0, 1, 2])
async def test_leaving_stops_the_running_job_and_drops_the_waiting_ones(waiting: int) -> None:
    with Worker("w", capacity=2) as worker:
        running = _Busy(worker)
        await _until(running.began.is_set)
        queued = [_Busy(worker) for _ in range(waiting)]
        await _until(lambda: worker.waiting == waiting)
    assert running.ended.is_set()
    assert running.stopped
    assert not any(busy.began.is_set() for busy in queued)
    done, _ = await asyncio.wait([busy.task for busy in (running, *queued)], timeout=WAIT_S)
    assert len(done) == 1 + waiting, "a caller waits for ever"


async def test_leaving_waits_only_so_long_for_a_job_that_does_not_stop() -> None:
    with Worker("w", capacity=1) as worker:
        busy = _Busy(worker, stubborn=True)
        await _until(busy.began.is_set)
    assert not busy.ended.is_set()
    busy.release.set()
    await busy.task
    assert busy.stopped


async def test_who_comes_after_the_end_does_not_wait() -> None:
    with Worker("w", capacity=1) as worker:
        pass
    with pytest.raises(RuntimeError, match="ended"):
        await worker.run(lambda _: None)


async def test_what_does_not_last_leaves_no_thread_behind() -> None:
    threads = []

    def note(_: threading.Event) -> None:
        threads.append(threading.current_thread())

    with Worker("w", capacity=2, lasting=False) as worker:
        await worker.run(note)
        await worker.run(note)
    for thread in threads:
        thread.join(WAIT_S)
    assert len(set(threads)) == 2
    assert not any(thread.is_alive() for thread in threads)


async def test_what_a_thread_of_its_own_raises_reaches_the_caller() -> None:
    def fail(_: threading.Event) -> None:
        raise KeyError("lost")

    with Worker("w", capacity=2, lasting=False) as worker:
        with pytest.raises(KeyError, match="lost"):
            await worker.run(fail)
        assert await worker.run(lambda _: 3) == 3
