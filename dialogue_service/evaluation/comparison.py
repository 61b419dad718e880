"""A candidate beside the model in service, measure by measure, and what the gate says of it."""

import math
import random
import statistics
from collections.abc import Sequence

from dialogue_service.evaluation import measures
from dialogue_service.evaluation.scores import Likelihoods, Scores
from shared.gate import Measure, Verdict, Z

_RESAMPLES = 200
_SEED = 20270114


def verdict(before: Scores, after: Scores, method: str, against: str) -> Verdict:
    """What the gate says; a candidate of method kto must agree better with thumbs, another one must find
    approved replies more probable."""
    compared = [*_votes(before, after, method), *_small_talk(before, after)]
    return Verdict(against, tuple(compared))


def agreement(up: Sequence[float], down: Sequence[float]) -> float:
    """How often a reply with thumbs up is more probable than one with thumbs down; 0.5 is chance.

    Over all such pairs, ties count half: the area under the ROC curve (Mann and Whitney 1947).
    """
    wins = sum((high > low) + 0.5 * (high == low) for high in up for low in down)
    return wins / (len(up) * len(down))


def _votes(before: Scores, after: Scores, method: str) -> list[Measure]:
    kto = method == "kto"
    noise = Z * _error_of_likelihood(before.approved, after.approved)
    old, new = before.approved.perplexity, after.approved.perplexity
    compared = [
        Measure(
            name="perplexity of approved replies",
            said=f"on {len(before.approved.means)} held-out replies with thumbs up or corrected",
            before=old,
            after=new,
            better="lower",
            aim=not kto,
            condition=f"at most 5 % and {Z} standard errors higher"
            if kto
            else f"lower by over {Z} standard errors",
            bound=old * (math.exp(noise) * 1.05 - 1) if kto else old * (1 - math.exp(-noise)),
        )
    ]
    if before.up and before.down:
        compared.append(
            Measure(
                name="agreement with thumbs",
                said=f"over {len(before.up)} held-out replies with thumbs up and {len(before.down)} down",
                before=agreement(before.up, before.down),
                after=agreement(after.up, after.down),
                better="higher",
                aim=kto,
                condition=f"higher by over {Z} standard errors"
                if kto
                else f"at most {Z} standard errors lower",
                bound=Z * _error_of_agreement(before, after),
            )
        )
    return compared


def _small_talk(before: Scores, after: Scores) -> list[Measure]:
    old, new = before.small_talk.perplexity, after.small_talk.perplexity
    count = len(before.all_replies)
    compared = [
        Measure(
            name="perplexity of small talk",
            said="on small talk as it should go",
            before=old,
            after=new,
            better="lower",
            condition="at most 3 % higher",
            bound=0.03 * old,
        )
    ]
    for length in (1, 2):
        old, new = (measures.distinct(scores.all_replies, length) for scores in (before, after))
        compared.append(
            Measure(
                name=f"distinct-{length}",
                said=f"different {'words' if length == 1 else 'pairs of words'} in {count} replies",
                before=old,
                after=new,
                better="higher",
                condition="at most 20 % lower",
                bound=0.2 * old,
            )
        )
    for name, said, most, rate in (
        ("repetition", "replies that repeat an earlier one or go in circles", 0.05, _repetition),
        ("empty", "replies without a word", 0.02, _empty),
    ):
        compared.append(
            Measure(
                name=name,
                said=f"{said}, of {count}",
                before=rate(before),
                after=rate(after),
                better="lower",
                condition=f"at most {most} higher",
                bound=most,
            )
        )
    return compared


def _repetition(scores: Scores) -> float:
    again = measures.said_again(scores.replies)
    loops = [measures.loops(reply) for reply in scores.all_replies]
    return measures.share([either or other for either, other in zip(again, loops, strict=True)])


def _empty(scores: Scores) -> float:
    return measures.share([measures.empty(reply) for reply in scores.all_replies])


def _error_of_likelihood(before: Likelihoods, after: Likelihoods) -> float:
    """Standard error of the difference in nats per token, the replies being drawn (a ratio estimator)."""
    gains = [new - old for old, new in zip(before.means, after.means, strict=True)]
    tokens = before.tokens
    mean = sum(gain * count for gain, count in zip(gains, tokens, strict=True)) / sum(tokens)
    squares = sum((count * (gain - mean)) ** 2 for gain, count in zip(gains, tokens, strict=True))
    return math.sqrt(squares) / sum(tokens)


def _error_of_agreement(before: Scores, after: Scores) -> float:
    """Standard error of the difference, the voted replies being drawn (bootstrap, both models alike)."""
    draw = random.Random(_SEED)  # noqa: S311 - a seeded draw, no secret
    gains = []
    for _ in range(_RESAMPLES):
        up = draw.choices(range(len(before.up)), k=len(before.up))
        down = draw.choices(range(len(before.down)), k=len(before.down))
        old, new = (
            agreement([scores.up[index] for index in up], [scores.down[index] for index in down])
            for scores in (before, after)
        )
        gains.append(new - old)
    return statistics.pstdev(gains)
