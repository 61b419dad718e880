"""How good a classification is, as numbers. Knows nothing about models.

All measures compare, message by message, what is true with what a classifier said. In scope is a message
that has one of the intents, out of scope one that has none.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_BINS = 15  # as many as Guo et al. use


@dataclass(frozen=True)
class Answer:
    """What is true of one message, and what a classifier said of it."""

    truth: str | None  # None: out of scope
    best: str  # the best label, whether or not it was named
    score: float  # the best label's probability
    known: bool  # the best label was named; otherwise the answer was "unknown"

    @property
    def right(self) -> bool:
        """Whether the best label is the true one; never so out of scope."""
        return self.best == self.truth


@dataclass(frozen=True)
class Bin:
    """The answers whose score lies between two bounds."""

    low: float
    high: float
    count: int
    score: float  # their mean score
    accuracy: float  # the share of them whose best label is right


def accuracy(answers: Sequence[Answer]) -> float | None:
    """Of the messages in scope, the share whose best label is right, named or not."""
    return _share([answer.right for answer in answers if answer.truth is not None])


def overall_accuracy(answers: Sequence[Answer]) -> float | None:
    """Of all messages, the share answered right: in scope the true label named, out of scope "unknown".

    The measure of Larson et al. 2019 ("An Evaluation Dataset for Intent Classification and Out-of-Scope
    Prediction") with both kinds of message taken together.
    """
    return _share([answer.known and answer.right if answer.truth else not answer.known for answer in answers])


def macro_f1(answers: Sequence[Answer]) -> float | None:
    """The mean over the intents of F1 = 2 right / (true + said), on the messages in scope.

    As in `accuracy` the best label counts, named or not. An intent counts if it is true or said
    at least once.
    """
    inside = [answer for answer in answers if answer.truth is not None]
    right = Counter(answer.truth for answer in inside if answer.right)
    occurring = Counter(answer.truth for answer in inside)
    occurring.update(answer.best for answer in inside)  # true + said: the denominator of F1
    if not occurring:
        return None
    return sum(2 * right[intent] / count for intent, count in occurring.items()) / len(occurring)


def oos_recall(answers: Sequence[Answer]) -> float | None:
    """Of the messages out of scope, the share answered "unknown"."""
    return _share([not answer.known for answer in answers if answer.truth is None])


def oos_precision(answers: Sequence[Answer]) -> float | None:
    """Of the messages answered "unknown", the share that is out of scope; None where none could be."""
    if all(answer.truth is not None for answer in answers):
        return None
    return _share([answer.truth is None for answer in answers if not answer.known])


def in_scope_refused(answers: Sequence[Answer]) -> float | None:
    """Of the messages in scope, the share answered "unknown"."""
    return _share([not answer.known for answer in answers if answer.truth is not None])


def reliability(answers: Sequence[Answer], bins: int = _BINS) -> list[Bin]:
    """The answers by their score, in `bins` intervals of equal width; empty ones are left out."""
    found: list[Bin] = []
    for index in range(bins):
        # Right-closed as in Guo et al., but for the first, which takes the score 0 too.
        low, high = index / bins, (index + 1) / bins
        inside = [a for a in answers if low < a.score <= high or (index == 0 and a.score == 0)]
        if inside:
            score = sum(answer.score for answer in inside) / len(inside)
            right = sum(answer.right for answer in inside) / len(inside)
            found.append(Bin(low, high, len(inside), score, right))
    return found


def ece(answers: Sequence[Answer], bins: int = _BINS) -> float | None:
    """The expected calibration error: how far scores and accuracy lie apart, weighted over the bins.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3. Messages out of scope count
    too: whatever label is best there is wrong.
    """
    if not answers:
        return None
    return sum(bin.count * abs(bin.accuracy - bin.score) for bin in reliability(answers, bins)) / len(answers)


def confused(answers: Sequence[Answer], most: int = 10) -> list[tuple[str, str, int]]:
    """The pairs of a true and another best label that occur most often in scope, with how often."""
    pairs = Counter((a.truth, a.best) for a in answers if a.truth is not None and not a.right)
    return [(truth, best, count) for (truth, best), count in pairs.most_common(most)]


def _share(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None
