"""What a job of the service begins with: the votes of this moment, and the model that serves now."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dialogue_service.contracts import FeedbackExport
from dialogue_service.feedback import FeedbackStore
from dialogue_service.promotion.plan import FEEDBACK, Plan
from dialogue_service.settings import DialogueSettings
from dialogue_service.training.corpus import Corpus, gather
from dialogue_service.training.data import DataError
from shared.problems import TooLittleFeedback
from shared.versions import Versions

LEAST_HELD_OUT = 4
"""Votes of a kind to measure on, at least: with fewer the gate could not tell anything."""

_AT_ONCE = 500


@dataclass(frozen=True)
class Preparation:
    """Puts a plan and the votes into a job's folder."""

    feedback: FeedbackStore
    versions: Versions[Any]
    settings: DialogueSettings

    async def __call__(self, method: Literal["sft", "kto"], folder: Path, name: str) -> None:
        """Raises TooLittleFeedback, ModelNotReady, TrainingUnavailable, MemoryUnavailable and OSError."""
        against, base = await self.versions.base()
        votes = folder / FEEDBACK
        if not await _write(votes, self.feedback.export()):
            raise TooLittleFeedback("There are no votes yet. " + TooLittleFeedback.advice)
        plan = Plan(
            data=(votes,),
            method=method,
            base=base,
            against=against,
            registry=self.settings.registry,
            name=name,
            generation=self.settings.generation(),
        )
        try:
            await asyncio.to_thread(_check, plan, folder)
        except DataError as error:
            raise TooLittleFeedback(str(error).replace(f"{votes}:", "vote ")) from error
        await asyncio.to_thread(plan.write, folder)


async def _write(file: Path, lines: AsyncIterator[FeedbackExport]) -> int:
    """How many there were."""
    waiting: list[str] = []
    written = 0
    async for line in lines:
        waiting.append(line.model_dump_json() + "\n")
        if len(waiting) == _AT_ONCE:
            written += await asyncio.to_thread(_append, file, waiting)
            waiting = []
    return written + await asyncio.to_thread(_append, file, waiting)


def _append(file: Path, lines: Sequence[str]) -> int:
    with file.open("a", encoding="utf-8") as opened:
        opened.writelines(lines)
    return len(lines)


def _check(plan: Plan, folder: Path) -> None:
    """Raises DataError if there is too little to learn from or to measure on."""
    corpus = gather(plan.training(folder))
    if missing := [
        f"{LEAST_HELD_OUT - there} more {what}"
        for there, what in _held_out(plan.method, corpus)
        if there < LEAST_HELD_OUT
    ]:
        raise DataError(
            "too few votes to measure on: every fifth is held out for that, and among those there must be "
            f"{', '.join(missing)}"
        )


def _held_out(method: str, corpus: Corpus) -> list[tuple[int, str]]:
    up = sum(thumb.up for thumb in corpus.held_out_thumbs)
    if method == "sft":
        return [(len(corpus.held_out), "up or with a better reply")]
    return [(up, "up"), (len(corpus.held_out_thumbs) - up, "down")]
