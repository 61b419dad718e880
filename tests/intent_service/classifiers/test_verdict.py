import pytest

from intent_service.classifiers.verdict import Rule

RULE = Rule(known=0.3, lead=0.1, sure=0.6)


@pytest.mark.parametrize(
    ("scores", "known", "sure"),
    [
        ([0.7, 0.2], True, True),
        ([0.5, 0.2], True, False),
        ([0.29, 0.0], False, False),
        ([0.45, 0.4], False, False),
        ([0.62, 0.61], False, False),  # sure of neither, however high
        ([0.9], True, True),
        ([0.1], False, False),
    ],
)
def test_a_score_needs_height_and_lead(scores: list[float], known: bool, sure: bool) -> None:
    verdict = RULE.verdict([str(index) for index in range(len(scores))], scores)
    assert (verdict.known, verdict.sure) == (known, sure)


def test_the_ranking_is_best_first() -> None:
    verdict = RULE.verdict(["a", "b", "c"], [0.2, 0.5, 0.3])
    assert [(ranked.label, ranked.score) for ranked in verdict.ranking] == [
        ("b", 0.5),
        ("c", 0.3),
        ("a", 0.2),
    ]
