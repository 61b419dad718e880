"""From similarities to probabilities, and from those to a decision: the numbers are fitted, not chosen.

The score of a label is P(the message is about any of the intents) x P(it is about this one, if so). The
second is a softmax with a fitted temperature (Guo et al. 2017, "On Calibration of Modern Neural Networks").
The first is a logistic regression on two features that mean the same however many labels there are: how
similar the best label is, and by how much it leads the ones after it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from intent_service.classifiers.verdict import Verdict
from shared.contracts import RankedLabel

SHIPPED = Path(__file__).with_name("calibration.json")
"""Fitted by `python -m intent_service.training.calibrate`, which says how."""

_RUNNERS_UP = 4


@dataclass(frozen=True)
class Calibration:
    """The fitted numbers of one kind of similarity."""

    scale: float  # what similarities are multiplied by before the softmax: one over the temperature
    bias: float  # of the log-odds that the message is about any of the intents, ...
    best: float  # ... by how much they grow with the best similarity, ...
    lead: float  # ... with its lead over the next ones, ...
    known: float  # the least probability of being about any intent at which the best is named
    over_none: float = 0.0  # ... and with its lead over the similarity to what is out of scope

    def in_scope(self, similarities: Tensor, none: Tensor | None = None) -> Tensor:
        """P(about any of the intents), shape (texts), of similarities (texts, intents)."""
        return torch.sigmoid(features(similarities, none) @ self._weights() + self.bias)

    def scores(self, similarities: Tensor, none: Tensor | None = None) -> Tensor:
        """P(about this intent), shape (texts, intents); a row's sum falls short of 1 by P(about none)."""
        return self._scores(similarities, self.in_scope(similarities, none))

    def verdicts(
        self, labels: Sequence[str], similarities: Tensor, sure: float, none: Tensor | None = None
    ) -> list[Verdict]:
        """Judge similarities (texts, intents); from the score `sure` on a fixed reply may be given.

        `none` (texts) are the similarities to what is out of scope, if that was learned.
        """
        in_scope = self.in_scope(similarities, none)
        scores, known = self._scores(similarities, in_scope).tolist(), (in_scope >= self.known).tolist()
        return [_verdict(labels, row, named, sure) for row, named in zip(scores, known, strict=True)]

    def recorded(self) -> dict[str, float]:
        """The numbers as JSON values."""
        return {name: round(value, 4) for name, value in asdict(self).items()}

    def _scores(self, similarities: Tensor, in_scope: Tensor) -> Tensor:
        return in_scope[:, None] * torch.softmax(similarities * self.scale, dim=1)

    def _weights(self) -> Tensor:
        return torch.tensor([self.best, self.lead, self.over_none])

    @classmethod
    def shipped(cls, kind: str) -> Self:
        """Those for intents that are described by their "names" alone, or by "examples"."""
        content: dict[str, Any] = json.loads(SHIPPED.read_text(encoding="utf-8"))
        return cls(**content[kind])


def features(similarities: Tensor, none: Tensor | None = None) -> Tensor:
    """What P(about any of the intents) is told, shape (texts, 3), of similarities (texts, intents).

    They are the best similarity, its distance to the mean of the next four (of none: to 0), and its distance
    to `none`, the similarity to what is out of scope (without it 0).
    """
    top = similarities.topk(min(1 + _RUNNERS_UP, similarities.shape[1]), dim=1).values
    best = top[:, 0]
    others = top[:, 1:].mean(dim=1) if top.shape[1] > 1 else torch.zeros_like(best)
    return torch.stack([best, best - others, torch.zeros_like(best) if none is None else best - none], dim=1)


def _verdict(labels: Sequence[str], scores: Sequence[float], known: bool, sure: float) -> Verdict:
    ranked = sorted(zip(labels, scores, strict=True), key=lambda pair: pair[1], reverse=True)
    return Verdict(
        ranking=[RankedLabel(label=label, score=score) for label, score in ranked],
        known=known,
        sure=known and ranked[0][1] >= sure,
    )
