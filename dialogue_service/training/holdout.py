"""What is never learned from, so that models can be measured on it."""

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

from dialogue_service.training.data import DataError, Dialogue, Thumb

FEEDBACK_HELD_OUT = 0.2
"""Share of the voted exchanges that is held out. Not to be chosen: the split is the same in every run only
as long as this is."""

Voted = TypeVar("Voted", Dialogue, Thumb)


def hold_out_feedback(examples: Sequence[Voted]) -> tuple[list[Voted], list[Voted]]:
    """Split into (learned from, held out) by the vote's id; what no vote is about is learned from.

    A vote falls on the same side in every run, whatever else there is and whatever the seed, so that no model
    ever learns from what a later one is measured on.
    """
    held = [example for example in examples if _is_held_out(example)]
    return [example for example in examples if not _is_held_out(example)], held


def hold_out(
    dialogues: Sequence[Dialogue], fraction: float, seed: int
) -> tuple[list[Dialogue], list[Dialogue]]:
    """Split into (learned from, held out): feedback as above, a `fraction` of all else at random by `seed`.

    Of dialogues without feedback at least one is on each side where there are two. Raises `DataError` when
    there is but one dialogue in all.
    """
    if len(dialogues) == 1:
        raise DataError("one dialogue cannot be split: add more, or measure on --valid-data")
    drawn = [dialogue for dialogue in dialogues if dialogue.id is None]
    count = min(max(1, round(len(drawn) * fraction)), len(drawn) - 1)
    chosen = set(random.Random(seed).sample(drawn, count)) if drawn else set()  # noqa: S311 - no secret
    held = [dialogue for dialogue in dialogues if dialogue in chosen or _is_held_out(dialogue)]
    return [dialogue for dialogue in dialogues if dialogue not in set(held)], held


def _is_held_out(example: Dialogue | Thumb) -> bool:
    """The id's hash, read as a number between 0 and 1, is below the share."""
    if example.id is None:
        return False
    return int.from_bytes(hashlib.sha256(example.id.encode()).digest()[:8]) / 2**64 < FEEDBACK_HELD_OUT
