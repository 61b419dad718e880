"""Compares a candidate with the model that it was made from, and writes down what the gate says."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dialogue_service.evaluation import comparison, report, scores, small_talk
from dialogue_service.training.corpus import Corpus
from shared.gate import Verdict

REPORT = "report.html"

Say = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Judge:
    """For the candidate `name`, trained by `method` from the model in the folder `base`, called `against`.

    `generation` are the options of a LocalGenerator, by which both make replies.
    """

    name: str
    method: str
    base: Path
    against: str
    generation: dict[str, Any]
    say: Say

    def __call__(self, folder: Path, corpus: Corpus) -> Verdict:
        """Measure both on what is held out of `corpus`, and write the report into the candidate's `folder`.

        Raises ModelError and ModelUnavailable.
        """
        each = sum(len(turns) // 2 for turns in small_talk.conversations())
        self.say("evaluating", 0, 2 * each)
        before, after = (
            scores.measure(
                model,
                corpus,
                self.generation,
                lambda done, _, so_far=so_far: self.say("evaluating", so_far + done, 2 * each),  # type: ignore[misc]
            )
            for model, so_far in ((self.base, 0), (folder, each))
        )
        verdict = comparison.verdict(before, after, self.method, self.against)
        page = report.page(self.name, verdict, before, after)
        (folder / REPORT).write_text(page, encoding="utf-8")
        return verdict
