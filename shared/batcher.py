"""Requests that wait while a batch computes become the next batch, so that callers share the work.

Nothing waits for company: where nothing computes, a request is a batch at once. Each request brings a
group and items; a batch holds items of one group only. Knows nothing of models.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from shared.metrics import QUEUE_DEPTH, QUEUE_WAIT
from shared.problems import DeadlineExceeded, Overloaded
from shared.worker import Worker

Group = TypeVar("Group", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")

# A batch is as large as fills this time: a newcomer waits for one of them before its turn.
_BATCH_S = 0.3
_FIRST_GUESS_S = 0.03


@dataclass(eq=False)
class _Request(Generic[Group, Item, Result]):
    group: Group
    items: Sequence[Item]
    future: asyncio.Future[list[Result]]
    arrived: float = field(default_factory=time.monotonic)
    begun: int = 0  # so many of the items have been taken
    results: list[Result] = field(default_factory=list)

    @property
    def waits(self) -> bool:
        return self.begun < len(self.items) and not self.future.done()

    def add(self, result: Result) -> None:
        self.results.append(result)
        if len(self.results) == len(self.items) and not self.future.done():
            self.future.set_result(self.results)

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


_Batch = list[tuple[_Request[Group, Item, Result], Item]]


class Batcher(Generic[Group, Item, Result]):
    """Computes items in batches in the thread of `worker`, which nothing else may use.

    `compute(group, items)` returns one result an item, in order. `capacity` bounds the requests that wait,
    `largest` the items of one batch; `service` is the name in the metrics. Belongs to one event loop.
    """

    def __init__(
        self,
        worker: Worker,
        compute: Callable[[Group, list[Item]], list[Result]],
        *,
        capacity: int,
        largest: int,
        service: str,
    ) -> None:
        self._worker = worker
        self._compute = compute
        self._capacity = capacity
        self._largest = largest
        self._depth, self._wait = QUEUE_DEPTH.labels(service), QUEUE_WAIT.labels(service)
        self._waiting: list[_Request[Group, Item, Result]] = []
        self._item_s = _FIRST_GUESS_S  # running average of the time an item takes
        self._working: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Requests with items that have not begun."""
        return sum(request.waits for request in self._waiting)

    async def run(
        self, group: Group, items: Sequence[Item], *, deadline_s: float | None = None
    ) -> list[Result]:
        """The results of `items`, of which there is at least one, in their order.

        Items that have not begun are dropped when the caller is cancelled or the deadline passes. Raises
        Overloaded at once when too many wait, DeadlineExceeded after `deadline_s` seconds (waiting
        included), and whatever `compute` raises.
        """
        if self._working and self.waiting >= self._capacity:
            raise Overloaded(retry_after_s=self._backlog_s())
        request: _Request[Group, Item, Result] = _Request(
            group, items, asyncio.get_running_loop().create_future()
        )
        self._waiting.append(request)
        self._depth.set(self.waiting)
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        try:
            done, _ = await asyncio.wait({request.future}, timeout=deadline_s)
            if not done:
                raise DeadlineExceeded
            return request.future.result()
        finally:
            request.future.cancel()
            self._depth.set(self.waiting)

    def _backlog_s(self) -> float:
        return self._item_s * sum(len(request.items) - request.begun for request in self._waiting)

    async def _work(self) -> None:
        """Compute until nothing waits."""
        try:
            while batch := self._next():
                await self._run(batch)
        finally:
            self._working = None
            for request in self._waiting:  # none is left but where the worker ends
                request.future.cancel()

    async def _run(self, batch: _Batch[Group, Item, Result]) -> None:
        items = [item for _, item in batch]
        began = time.monotonic()
        try:
            results = await self._worker.run(partial(self._call, batch[0][0].group, items))
        except asyncio.CancelledError:
            for request, _ in batch:
                request.future.cancel()
            raise
        except BaseException as error:  # it belongs to the callers; those behind them are still to be served
            for request, _ in batch:
                request.fail(error)
            return
        self._item_s += 0.2 * ((time.monotonic() - began) / len(items) - self._item_s)
        for (request, _), result in zip(batch, results, strict=True):
            request.add(result)

    def _call(self, group: Group, items: list[Item], _: object) -> list[Result]:
        return self._compute(group, items)

    def _next(self) -> _Batch[Group, Item, Result]:
        """The next batch, of the group that has waited longest; empty when nobody waits.

        Requests of a group take turns within a batch and groups take turns between batches, so that one
        with many items does not hold up one with few.
        """
        waiting = [request for request in self._waiting if request.waits]
        if not waiting:
            self._waiting = []
            return []
        members = [request for request in waiting if request.group == waiting[0].group]
        others = [request for request in waiting if request.group != waiting[0].group]
        size = max(1, min(self._largest, math.floor(_BATCH_S / self._item_s)))
        batch: _Batch[Group, Item, Result] = []
        turn = deque(members)
        while turn and len(batch) < size:
            request = turn.popleft()
            if not request.begun:
                self._wait.observe(time.monotonic() - request.arrived)
            batch.append((request, request.items[request.begun]))
            request.begun += 1
            if request.waits:
                turn.append(request)
        self._waiting = others + list(turn)
        self._depth.set(self.waiting)
        return batch
