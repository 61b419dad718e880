import pytest
import torch

from intent_service.classifiers.calibration import Calibration, features

SIMPLE = Calibration(scale=10.0, bias=-5.0, best=10.0, lead=5.0, known=0.5)


def test_the_features_are_best_lead_and_distance_to_none() -> None:
    similarities = torch.tensor([[0.1, 0.9, 0.5, 0.3, 0.3, 0.2]])
    found = features(similarities, torch.tensor([0.6]))
    assert found[0].tolist() == pytest.approx([0.9, 0.9 - (0.5 + 0.3 + 0.3 + 0.2) / 4, 0.3])


def test_a_single_intent_leads_over_nothing() -> None:
    assert features(torch.tensor([[0.4]]))[0].tolist() == pytest.approx([0.4, 0.4, 0.0])


def test_scores_add_up_to_the_probability_of_being_in_scope() -> None:
    similarities = torch.tensor([[0.9, 0.1], [0.2, 0.1]])
    scores = SIMPLE.scores(similarities)
    assert torch.allclose(scores.sum(dim=1), SIMPLE.in_scope(similarities))
    assert SIMPLE.in_scope(similarities)[0] > 0.99 > 0.1 > SIMPLE.in_scope(similarities)[1]


def test_only_a_likely_message_is_known_and_only_a_high_score_is_sure() -> None:
    similarities = torch.tensor([[0.9, 0.1], [0.55, 0.5], [0.2, 0.1]])
    verdicts = SIMPLE.verdicts(["a", "b"], similarities, sure=0.8)
    assert [(verdict.known, verdict.sure) for verdict in verdicts] == [
        (True, True),
        (True, False),
        (False, False),
    ]
    assert [ranked.label for ranked in verdicts[0].ranking] == ["a", "b"]


def test_being_like_what_is_out_of_scope_counts_against_it() -> None:
    wary = Calibration(scale=10.0, bias=-5.0, best=10.0, lead=5.0, known=0.5, over_none=20.0)
    similarities = torch.tensor([[0.8, 0.2], [0.8, 0.2]])
    near, far = wary.in_scope(similarities, torch.tensor([0.9, 0.1])).tolist()
    assert near < far


@pytest.mark.parametrize("kind", ["names", "examples"])
def test_the_shipped_numbers_make_sense(kind: str) -> None:
    shipped = Calibration.shipped(kind)
    assert shipped.scale > 1
    assert shipped.best > 0
    assert 0 < shipped.known < 1


def test_what_is_recorded_makes_the_same() -> None:
    assert Calibration(**SIMPLE.recorded()) == SIMPLE
