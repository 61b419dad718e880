"""What is kept, for how long, and who gets it."""

import pytest
import torch

from dialogue_service.generation.piece import KeyValues
from dialogue_service.generation.prefixes import Prefixes, common_length

ONE = 2 * 1 * 128 * 4 * 4  # bytes of one entry: keys and values, a head, 128 positions, 4 dimensions, float32


def computed(ids: list[int]) -> KeyValues:
    """Keys and values that tell where they come from."""
    made = KeyValues()
    made.write(0, 1, torch.tensor(ids, dtype=torch.float32)[:, None].expand(2, 1, 1, -1, 4))
    made.length = len(ids)
    return made


def held(keys_values: KeyValues) -> list[float]:
    """The ids whose keys are there."""
    if keys_values.length == 0:
        return []
    own = keys_values.copy(keys_values.length)._held
    assert own is not None
    ids: list[float] = own[0, 0, 0, 0, : keys_values.length, 0].tolist()
    return ids


def put(prefixes: Prefixes, ids: list[int], prompt_length: int | None = None) -> None:
    prefixes.put(ids, prompt_length or len(ids), computed(ids))


def test_the_longest_common_beginning_is_taken() -> None:
    prefixes = Prefixes(10 * ONE)
    put(prefixes, [1, 2, 3, 9])
    put(prefixes, [1, 2, 3, 4, 8])
    assert held(prefixes.take([1, 2, 3, 4, 5, 6])) == [1, 2, 3, 4]
    assert held(prefixes.take([7, 2, 3])) == []


def test_the_last_token_is_always_left_to_be_read() -> None:
    prefixes = Prefixes(10 * ONE)
    put(prefixes, [1, 2, 3])
    assert held(prefixes.take([1, 2, 3])) == [1, 2]
    assert held(prefixes.take([1])) == []


def test_a_conversation_that_goes_on_takes_its_own_over() -> None:
    prefixes = Prefixes(10 * ONE)
    put(prefixes, [1, 2, 3, 50, 51], prompt_length=3)
    taken = prefixes.take([1, 2, 3, 50, 52, 6])  # the reply's text gave other ids than were sampled
    assert held(taken) == [1, 2, 3, 50]
    assert (len(prefixes), prefixes.bytes) == (0, 0)


def test_one_that_only_begins_alike_gets_a_copy() -> None:
    prefixes = Prefixes(10 * ONE)
    put(prefixes, [1, 2, 3, 4, 5])
    taken = prefixes.take([1, 2, 7, 8])
    assert held(taken) == [1, 2]
    assert taken._held is not None
    taken._held.fill_(-1)
    assert held(prefixes.take([1, 2, 3, 4, 5, 6])) == [1, 2, 3, 4, 5]


def test_what_goes_on_replaces_what_it_goes_on_from() -> None:
    prefixes = Prefixes(10 * ONE)
    put(prefixes, [1, 2, 3, 50], prompt_length=3)
    put(prefixes, [1, 2, 3, 60, 4], prompt_length=5)
    assert len(prefixes) == 1
    assert held(prefixes.take([1, 2, 3, 60, 4, 5])) == [1, 2, 3, 60, 4]


def test_a_window_that_has_moved_replaces_what_it_moved_from() -> None:
    prefixes = Prefixes(10 * ONE)
    put(prefixes, list(range(40)))
    put(prefixes, list(range(50, 80)))
    put(prefixes, list(range(20, 45)))
    assert len(prefixes) == 2
    assert held(prefixes.take([*range(20, 45), 7])) == list(range(20, 45))
    assert held(prefixes.take([*range(50, 80), 7])) == list(range(50, 80))


def test_the_memory_is_bounded_and_the_least_recently_used_goes_first() -> None:
    prefixes = Prefixes(2 * ONE)
    put(prefixes, [1, 1, 1, 1])
    put(prefixes, [2, 2, 2, 2])
    prefixes.take([1, 1, 7])  # used: a copy was made of it
    put(prefixes, [3, 3, 3, 3])
    assert (len(prefixes), prefixes.bytes) == (2, 2 * ONE)
    assert held(prefixes.take([2, 2, 7])) == []
    assert held(prefixes.take([1, 1, 7])) == [1, 1]


@pytest.mark.parametrize("capacity", [0, ONE - 1])
def test_what_alone_is_too_large_is_not_kept(capacity: int) -> None:
    prefixes = Prefixes(capacity)
    put(prefixes, [1, 2])
    assert (len(prefixes), prefixes.bytes) == (0, 0)


@pytest.mark.parametrize(
    ("a", "b", "common"),
    [([], [], 0), ([1], [], 0), ([1, 2], [1, 2], 2), ([1, 2], [1, 3], 1), ([1], [1, 2], 1)],
)
def test_common_length(a: list[int], b: list[int], common: int) -> None:
    assert common_length(a, b) == common
