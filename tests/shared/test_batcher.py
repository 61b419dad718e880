"""What waits is computed together: in order, bounded, fair, by group, and only while somebody wants it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable

import pytest

from shared.batcher import Batcher
from shared.problems import DeadlineExceeded, Overloaded
from shared.worker import Worker

pytestmark = pytest.mark.anyio

WAIT_S = 10.0


class Computing:
    """Doubles numbers, notes the batches, and holds each until a place in `gate` is free."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.began = threading.Event()
        self.gate = threading.Semaphore(0)

    def __call__(self, group: str, items: list[int]) -> list[int]:
        self.batches.append((group, items))
        self.began.set()
        assert self.gate.acquire(timeout=WAIT_S)
        if group == "broken":
            raise LookupError("mine")
        return [2 * item for item in items]

    def open(self) -> None:
        self.gate.release(1000)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not true():  # noqa: ASYNC110  # another thread changes what is waited for
            await asyncio.sleep(0.001)


@pytest.fixture
def computing() -> Computing:
    return Computing()


@pytest.fixture
async def batcher(computing: Computing) -> AsyncIterator[Batcher[str, int, int]]:
    with Worker("w", 1) as worker:
        yield Batcher(worker, computing, capacity=8, largest=4, service="test")
        computing.open()


Task = asyncio.Task[list[int]]


async def ask(
    batcher: Batcher[str, int, int], *requests: Iterable[int], group: str = "a", deadline_s: float = WAIT_S
) -> list[Task]:
    """Requests that now wait, or compute."""
    tasks = [
        asyncio.create_task(batcher.run(group, list(request), deadline_s=deadline_s)) for request in requests
    ]
    await asyncio.sleep(0)
    return tasks


@pytest.fixture
async def first(batcher: Batcher[str, int, int], computing: Computing) -> Task:
    """A request that computes, so that those behind it wait."""
    (task,) = await ask(batcher, [0])
    await until(computing.began.is_set)
    return task


async def test_who_comes_alone_is_served_at_once(
    batcher: Batcher[str, int, int], computing: Computing, first: Task
) -> None:
    computing.open()
    assert await first == [0]
    assert await batcher.run("a", [3, 1, 2]) == [6, 2, 4]
    assert computing.batches == [("a", [0]), ("a", [3, 1, 2])]


async def test_those_who_wait_share_the_next_batch(
    batcher: Batcher[str, int, int], computing: Computing, first: Task
) -> None:
    tasks = await ask(batcher, [1], [2], [3])
    assert batcher.waiting == 3
    computing.open()
    assert await asyncio.gather(first, *tasks) == [[0], [2], [4], [6]]
    assert computing.batches == [("a", [0]), ("a", [1, 2, 3])]


async def test_a_batch_has_a_bound(
    batcher: Batcher[str, int, int], computing: Computing, first: Task
) -> None:
    (task,) = await ask(batcher, range(1, 11))
    computing.open()
    assert await task == [2 * item for item in range(1, 11)]
    assert [items for _, items in computing.batches[1:]] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


async def test_many_items_do_not_hold_up_few(
    batcher: Batcher[str, int, int], computing: Computing, first: Task
) -> None:
    many, few = await ask(batcher, range(100, 110), [1])
    computing.gate.release(2)
    assert await few == [2]
    assert computing.batches[1] == ("a", [100, 1, 101, 102])
    assert not many.done()
    computing.open()
    assert await many == [2 * item for item in range(100, 110)]


async def test_groups_are_not_mixed_and_take_turns(
    batcher: Batcher[str, int, int], computing: Computing, first: Task
) -> None:
    (of_a,) = await ask(batcher, range(1, 9), group="a")
    (of_b,) = await ask(batcher, range(11, 14), group="b")
    computing.open()
    await asyncio.gather(of_a, of_b)
    assert computing.batches[1:] == [("a", [1, 2, 3, 4]), ("b", [11, 12, 13]), ("a", [5, 6, 7, 8])]


async def test_a_failure_is_told_to_all_in_the_batch_and_to_nobody_else(
    batcher: Batcher[str, int, int], computing: Computing, first: Task
) -> None:
    broken = await ask(batcher, [1], range(2, 12), group="broken")
    (sound,) = await ask(batcher, [3])
    computing.open()
    for task in broken:
        with pytest.raises(LookupError, match="mine"):
            await task
    assert await sound == [6]
    assert [group for group, _ in computing.batches] == ["a", "broken", "a"]


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(
    batcher: Batcher[str, int, int], computing: Computing, first: Task
) -> None:
    tasks = await ask(batcher, *([item] for item in range(8)))
    with pytest.raises(Overloaded) as refused:
        await batcher.run("a", [9])
    assert int(refused.value.headers["Retry-After"]) >= 1
    computing.open()
    await asyncio.gather(*tasks)
    assert await batcher.run("a", [9]) == [18]


async def test_whose_caller_has_left_is_not_computed(
    batcher: Batcher[str, int, int], computing: Computing, first: Task
) -> None:
    left, stayed = await ask(batcher, [1], [2])
    left.cancel()
    await until(left.done)
    assert batcher.waiting == 1
    computing.open()
    assert await stayed == [4]
    assert [items for _, items in computing.batches] == [[0], [2]]


async def test_who_leaves_in_between_gets_nothing_more_computed(
    batcher: Batcher[str, int, int], computing: Computing, first: Task
) -> None:
    (left,) = await ask(batcher, range(1, 9))
    computing.gate.release(1)
    await until(lambda: len(computing.batches) == 2)
    left.cancel()
    computing.open()
    assert await batcher.run("a", [50]) == [100]
    assert [items for _, items in computing.batches] == [[0], [1, 2, 3, 4], [50]]


async def test_the_deadline_counts_the_waiting_too(
    batcher: Batcher[str, int, int], computing: Computing, first: Task
) -> None:
    (late,) = await ask(batcher, [1], deadline_s=0.02)
    with pytest.raises(DeadlineExceeded):
        await late
    computing.open()
    assert await first == [0]
    assert await batcher.run("a", [2]) == [4]
    assert [items for _, items in computing.batches] == [[0], [2]]


async def test_when_the_worker_ends_nobody_waits_for_ever(computing: Computing) -> None:
    with Worker("w", 1) as worker:
        batcher = Batcher(worker, computing, capacity=8, largest=4, service="test")
        tasks = await ask(batcher, [1])
        await until(computing.began.is_set)
        tasks += await ask(batcher, [2], range(10))
        blocking = threading.Timer(0.1, computing.gate.release)
        blocking.start()
    blocking.join()
    async with asyncio.timeout(WAIT_S):
        answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert answers[0] == [2]
    assert [type(answer) for answer in answers[1:]] == [RuntimeError, RuntimeError]
