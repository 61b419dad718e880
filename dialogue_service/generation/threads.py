"""How many threads compute: all that the processor has room for, but one alone while others want it.

The threads of a product wait for each other. Where one has to share its core with another program, all wait
for that program's time slice, a hundred times for each token: a token of DialoGPT-medium then takes not 10 ms
but 200 or more, and with a single thread 17. (Measured on two cores; `Threads` is what notices it.)
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_MOST = torch.get_num_threads()
"""Read once: torch gives a new thread as many as any thread set last."""
_WINDOW_S = 0.1
_WAITED = 1.5
"""From so many seconds for each second of computing on, a thread is taken to wait for others."""
_SHORTEST_S, _LONGEST_S = 2.0, 60.0
"""For so long one thread computes alone, ever longer while others still want the processor each time."""


class Threads:
    """For one thread, the one that computes. Its own processor time tells whether it had to wait: a thread
    that waits for another spins for a moment, which counts as computing, and then sleeps."""

    def __init__(self) -> None:
        """To be made in the thread that computes."""
        torch.set_num_threads(_MOST)
        self._alone_until: float | None = None
        self._alone_s = _SHORTEST_S
        self._wall_s = self._computing_s = 0.0

    @contextmanager
    def used(self) -> Iterator[None]:
        """Around each piece of work, some milliseconds long."""
        began, computed = time.monotonic(), time.thread_time()
        if self._alone_until is not None and began >= self._alone_until:
            self._alone_until = None
            torch.set_num_threads(_MOST)
        try:
            yield
        finally:
            if _MOST > 1 and self._alone_until is None:
                now = time.monotonic()
                self._count(now, now - began, time.thread_time() - computed)

    def _count(self, now: float, wall_s: float, computing_s: float) -> None:
        self._wall_s += wall_s
        self._computing_s += computing_s
        if self._wall_s < _WINDOW_S:
            return
        if self._wall_s > _WAITED * self._computing_s:
            self._alone_until = now + self._alone_s
            self._alone_s = min(2 * self._alone_s, _LONGEST_S)
            torch.set_num_threads(1)
        else:
            self._alone_s = _SHORTEST_S
        self._wall_s = self._computing_s = 0.0
