"""One thread computes while others want the processor, all do when it is free again."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from dialogue_service.generation import threads
from dialogue_service.generation.threads import Threads


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine with two processors; the times short."""
    monkeypatch.setattr(threads, "_WINDOW_S", 0.02)
    monkeypatch.setattr(threads, "_SHORTEST_S", 0.2)
    monkeypatch.setattr(threads, "_MOST", 2)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def computing(until: Callable[[], bool]) -> None:
    while not until():
        pass


def piece(used: Threads, *, waits: bool) -> int:
    """A piece of work; returns how many threads it had."""
    with used.used():
        had = torch.get_num_threads()
        if waits:
            time.sleep(0.03)
        else:
            ends = time.thread_time() + 0.03
            computing(lambda: time.thread_time() >= ends)
    return had


def test_who_has_to_wait_goes_on_alone_and_later_tries_again() -> None:
    used = Threads()
    assert piece(used, waits=True) == 2
    assert piece(used, waits=True) == 1
    time.sleep(0.3)
    assert piece(used, waits=True) == 2, "the time alone is over"
    assert piece(used, waits=True) == 1
    time.sleep(0.2)
    assert piece(used, waits=True) == 1, "in vain tried again: it takes longer until the next time"


def test_who_need_not_wait_keeps_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_WAITED", 50.0)  # whatever else this machine does
    used = Threads()
    assert [piece(used, waits=False) for _ in range(3)] == [2, 2, 2]


def test_a_single_thread_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_MOST", 1)
    used = Threads()
    assert [piece(used, waits=True) for _ in range(3)] == [1, 1, 1]


def test_another_one_begins_with_all() -> None:
    piece(Threads(), waits=True)
    had: list[int] = []
    other = threading.Thread(target=lambda: had.append(piece(Threads(), waits=False)))
    other.start()
    other.join()
    assert (torch.get_num_threads(), had) == (1, [2])
