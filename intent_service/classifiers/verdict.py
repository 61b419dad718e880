"""From scores to a decision: which label is named, and whether its fixed reply may be given."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.contracts import RankedLabel


@dataclass(frozen=True)
class Verdict:
    """How a message was classified."""

    ranking: list[RankedLabel]  # every label, best first
    known: bool  # the best label may be named
    sure: bool  # the best label's fixed reply may be given


@dataclass(frozen=True)
class Rule:
    """When a ranking is good enough. The three numbers are probabilities."""

    known: float  # the least score of a label that may be named
    lead: float  # the least distance between it and the next
    sure: float  # the least score for a fixed reply

    def verdict(self, labels: Sequence[str], scores: Sequence[float]) -> Verdict:
        """Rank `labels` by their `scores` and judge the best."""
        ranked = sorted(zip(labels, scores, strict=True), key=lambda pair: pair[1], reverse=True)
        best = ranked[0][1]
        lead = best - ranked[1][1] if len(ranked) > 1 else best
        known = best >= self.known and lead >= self.lead
        return Verdict(
            ranking=[RankedLabel(label=label, score=score) for label, score in ranked],
            known=known,
            sure=known and best >= self.sure,
        )
