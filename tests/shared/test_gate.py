"""The rule and what it says."""

from typing import Any

import pytest

from shared.gate import Measure, Verdict

AIM: dict[str, Any] = {
    "name": "agreement",
    "said": "of pairs",
    "before": 0.5,
    "after": 0.7,
    "better": "higher",
    "condition": "higher by over 0.1",
    "bound": 0.1,
    "aim": True,
}
GUARD: dict[str, Any] = {
    "name": "perplexity",
    "said": "of a token",
    "before": 10.0,
    "after": 10.2,
    "better": "lower",
    "condition": "at most 3 % higher",
    "bound": 0.3,
}


def verdict(*measures: dict[str, Any]) -> Verdict:
    return Verdict("old", [Measure(**measure) for measure in measures])


@pytest.mark.parametrize(
    ("aim", "guard", "promoted"),
    [
        ({}, {}, True),
        ({"after": 0.6}, {}, False),  # a gain no larger than noise
        ({"after": 0.4}, {}, False),
        ({}, {"after": 10.29}, True),
        ({}, {"after": 10.4}, False),
        ({}, {"after": 9.0}, True),
        ({}, {"after": 99.0, "bound": None}, True),  # shown only
    ],
)
def test_better_where_it_should_be_and_nowhere_worse(
    aim: dict[str, Any], guard: dict[str, Any], promoted: bool
) -> None:
    assert verdict(AIM | aim, GUARD | guard).promoted is promoted


def test_without_an_aim_nothing_is_promoted() -> None:
    assert not verdict(GUARD).promoted


def test_rule_and_verdict_are_sentences_with_the_numbers() -> None:
    good = verdict(AIM, GUARD)
    assert good.rule == "Promoted if agreement is higher by over 0.1, and perplexity is at most 3 % higher."
    assert good.why == "Promoted: agreement 0.5 → 0.7, and nothing else is worse than tolerated."
    bad = verdict(AIM | {"after": 0.55}, GUARD | {"after": 12.0})
    assert bad.why == (
        "Not promoted: agreement 0.5 → 0.55 (it must be higher by over 0.1); "
        "perplexity 10 → 12 (it must be at most 3 % higher)."
    )
    assert bad.recorded()["measures"] == {
        "agreement": {"before": 0.5, "after": 0.55, "holds": False},
        "perplexity": {"before": 10.0, "after": 12.0, "holds": False},
    }
