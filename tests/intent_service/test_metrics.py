"""Every measure against values computed by hand."""

import pytest

from intent_service import metrics
from intent_service.metrics import Answer

ANSWERS = [
    Answer("a", "a", 0.9, True),
    Answer("a", "a", 0.8, False),  # right, but refused
    Answer("a", "b", 0.7, True),
    Answer("b", "b", 0.6, True),
    Answer("b", "a", 0.2, False),
    Answer(None, "a", 0.5, True),
    Answer(None, "b", 0.1, False),
    Answer(None, "b", 0.3, False),
]
IN_SCOPE = [answer for answer in ANSWERS if answer.truth]


def test_accuracy_counts_the_best_label_in_scope() -> None:
    assert metrics.accuracy(ANSWERS) == 3 / 5


def test_overall_accuracy_counts_what_was_answered() -> None:
    assert metrics.overall_accuracy(ANSWERS) == (2 + 2) / 8


def test_macro_f1_is_the_mean_over_the_intents() -> None:
    # a: 2 right, 3 true, 3 said; b: 1 right, 2 true, 2 said
    assert metrics.macro_f1(ANSWERS) == pytest.approx((2 * 2 / 6 + 2 * 1 / 4) / 2)


def test_macro_f1_counts_an_intent_that_is_only_said() -> None:
    assert metrics.macro_f1([Answer("a", "a", 1, True), Answer("a", "b", 1, True)]) == pytest.approx(1 / 3)


def test_recall_and_precision_out_of_scope() -> None:
    assert metrics.oos_recall(ANSWERS) == 2 / 3
    assert metrics.oos_precision(ANSWERS) == 2 / 4
    assert metrics.in_scope_refused(ANSWERS) == 2 / 5


def test_what_cannot_be_measured_is_none() -> None:
    assert metrics.oos_recall(IN_SCOPE) is None
    assert metrics.oos_precision(IN_SCOPE) is None
    assert metrics.in_scope_refused(IN_SCOPE) == 2 / 5
    for measure in (metrics.accuracy, metrics.overall_accuracy, metrics.macro_f1, metrics.ece):
        assert measure([]) is None


def test_precision_is_none_where_nothing_was_refused() -> None:
    assert metrics.oos_precision([Answer(None, "a", 1, True)]) is None


def test_calibration_error_is_the_weighted_gap_of_the_bins() -> None:
    # Two bins: (0, 0.5] holds 0.2 0.5 0.1 0.3, none right; (0.5, 1] holds 0.9 0.8 0.7 0.6, three right.
    assert metrics.ece(ANSWERS, bins=2) == pytest.approx((4 * abs(0 - 0.275) + 4 * abs(0.75 - 0.75)) / 8)


def test_a_score_on_a_bound_is_in_the_lower_bin() -> None:
    bins = metrics.reliability([Answer("a", "a", score, True) for score in (0.0, 0.5, 1.0)], bins=2)
    assert [(bin.low, bin.high, bin.count) for bin in bins] == [(0.0, 0.5, 2), (0.5, 1.0, 1)]


def test_scores_that_mean_what_they_say_have_no_error() -> None:
    answers = [Answer("a", "a" if index < 6 else "b", 0.6, True) for index in range(10)]
    assert metrics.ece(answers) == pytest.approx(0)


def test_the_most_confused_come_first() -> None:
    more = [*ANSWERS, Answer("a", "b", 0.5, True)]
    assert metrics.confused(more) == [("a", "b", 2), ("b", "a", 1)]
    assert metrics.confused(more, most=1) == [("a", "b", 2)]
