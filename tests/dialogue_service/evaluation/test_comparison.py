"""What the gate says of scores that are known."""

from dataclasses import replace
from typing import Any

import pytest

from dialogue_service.evaluation import comparison, small_talk
from dialogue_service.evaluation.comparison import agreement
from dialogue_service.evaluation.scores import Likelihoods, Scores

SAID = tuple(
    tuple(f"reply {talk} {turn} is about something else" for turn in range(len(turns) // 2))
    for talk, turns in enumerate(small_talk.conversations())
)
OLD = Scores(
    approved=Likelihoods((-1.0, -1.2, -0.8, -1.1, -0.9), (5, 6, 4, 7, 5)),
    small_talk=Likelihoods((-2.0,) * 20, (10,) * 20),
    up=(-1.0, -1.4, -1.2, -0.9, -1.3, -1.1),
    down=(-1.0, -1.3, -1.1, -1.2, -0.9, -1.4),
    replies=SAID,
)
LIKES = replace(OLD, up=tuple(up + 0.6 for up in OLD.up))
SAYS = replace(OLD, approved=Likelihoods(tuple(m + 0.3 for m in OLD.approved.means), OLD.approved.tokens))


def verdict(after: Scores, method: str = "kto") -> Any:
    return comparison.verdict(OLD, after, method, "old")


def test_agreement_is_the_share_of_pairs_in_the_right_order() -> None:
    assert agreement([-1.0, -2.0], [-3.0, -1.5]) == 0.75
    assert agreement([-1.0], [-1.0]) == 0.5


def test_perplexity_is_of_a_token() -> None:
    assert Likelihoods((-1.0, -2.0), (3, 1)).perplexity == pytest.approx(2.718281828 ** (5 / 4))


def test_the_same_model_is_not_promoted() -> None:
    for method in ("sft", "kto"):
        assert not verdict(OLD, method).promoted


@pytest.mark.parametrize(("after", "method"), [(LIKES, "kto"), (SAYS, "sft")])
def test_what_has_learned_its_task_is_promoted(after: Scores, method: str) -> None:
    assert verdict(after, method).promoted
    assert not verdict(after, "sft" if method == "kto" else "kto").promoted  # it was to learn something else


def test_a_gain_that_one_reply_makes_is_noise() -> None:
    means = (-0.1, *OLD.approved.means[1:])
    lucky = replace(OLD, approved=Likelihoods(means, OLD.approved.tokens))
    assert not verdict(lucky, "sft").promoted
    swapped = replace(OLD, up=(-0.1, *OLD.up[1:]))
    assert agreement(swapped.up, swapped.down) > agreement(OLD.up, OLD.down)
    assert not verdict(swapped, "kto").promoted


def _all(reply: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(reply for _ in own) for own in SAID)


@pytest.mark.parametrize(
    ("worse", "where"),
    [
        ({"small_talk": Likelihoods((-2.04,) * 20, (10,) * 20)}, {"perplexity of small talk"}),
        ({"approved": Likelihoods((-1.3,) * 5, OLD.approved.tokens)}, {"perplexity of approved replies"}),
        ({"replies": _all("the same again")}, {"distinct-1", "distinct-2", "repetition"}),
        ({"replies": _all("")}, {"distinct-1", "distinct-2", "repetition", "empty"}),
    ],
)
def test_what_is_worse_elsewhere_is_not_promoted(worse: dict[str, Any], where: set[str]) -> None:
    judged = verdict(replace(LIKES, **worse))
    assert not judged.promoted
    assert {m.name for m in judged.measures if not m.holds} == where


def test_the_set_of_small_talk_is_whole() -> None:
    talks = small_talk.conversations()
    assert len(talks) >= 20
    assert all(len(turns) % 2 == 0 and all(turn.strip() for turn in turns) for turns in talks)
    assert len({turns[0] for turns in talks}) == len(talks)
