"""What a run learns from and what it is measured on: files and votes, read, joined, split, and enough."""

from collections.abc import Sequence
from dataclasses import dataclass

from dialogue_service.training.data import DataError, DataFile, Dialogue, Thumb, merge, read_files
from dialogue_service.training.holdout import hold_out, hold_out_feedback
from dialogue_service.training.settings import Method, TrainingSettings

LEAST = 20
"""Votes to learn from, at least."""
LEAST_EACH = 5
"""Of them up, and of them down: from one kind alone KTO teaches to say everything, or nothing."""


@dataclass(frozen=True)
class Corpus:
    """The dialogues and thumbs to learn from, those to measure on, and the files they came from."""

    files: list[DataFile]
    learned: list[Dialogue]
    held_out: list[Dialogue]
    thumbs: list[Thumb]
    held_out_thumbs: list[Thumb]


def gather(settings: TrainingSettings) -> Corpus:
    """Read and split what the settings name. Raises `DataError`, also when it is too little."""
    files = read_files([*settings.data, *settings.valid_data], settings.learn)
    count = len(settings.data)
    dialogues, thumbs = merge(files[:count])
    if settings.valid_data:
        learned, _ = hold_out_feedback(dialogues)
        held_out = list(merge(files[count:])[0])
    else:
        learned, held_out = hold_out(dialogues, settings.valid_fraction, settings.seed)
    learned_thumbs, held_out_thumbs = hold_out_feedback(thumbs)
    check_enough(settings.method, learned, learned_thumbs)
    if not held_out:
        raise DataError("of so few approved replies none is held out to measure on: collect more")
    return Corpus(files, learned, held_out, learned_thumbs, held_out_thumbs)


def check_enough(method: Method, dialogues: Sequence[Dialogue], thumbs: Sequence[Thumb]) -> None:
    """Raise `DataError` that says how many votes are missing, if some are. What is given is to be learned."""
    up = sum(thumb.up for thumb in thumbs)
    needs = [(len(thumbs), LEAST, "in all"), (up, LEAST_EACH, "up"), (len(thumbs) - up, LEAST_EACH, "down")]
    if method == "sft":
        # Whoever gives dialogues knows how many; it is votes that somebody may expect too much of.
        needs = [(up, LEAST, "up or with a better reply")] if all(talk.id for talk in dialogues) else []
    if missing := [f"{least - there} more {what}" for there, least, what in needs if there < least]:
        raise DataError(
            f"too few votes to learn from: {up} up and {len(thumbs) - up} down besides those held out to"
            f" measure on. Missing: {', '.join(missing)} (and of new votes every fifth is held out too)"
        )
