"""What is counted in replies."""

from dialogue_service.evaluation import measures


def test_distinct_n_counts_different_runs_among_all() -> None:
    assert measures.distinct(["a b", "A c"], 1) == 3 / 4
    assert measures.distinct(["a b a b"], 2) == 2 / 3
    assert measures.distinct(["", "a"], 2) == 0


def test_what_was_said_before_counts_within_a_conversation_only() -> None:
    talks = [["hi there you", "hi there you", "oh"], ["hi there you"]]
    assert measures.said_again(talks) == [False, True, False, False]
    assert measures.phrases_again(talks) == [False, True, False]


def test_loops_and_empty_replies() -> None:
    assert measures.loops("so it is what it was, so it is what it was")
    assert not measures.loops("so it is what it was")
    assert measures.empty(" ...!")
    assert not measures.empty("No.")


def test_a_share_of_nothing_is_none() -> None:
    assert measures.share([]) == 0
    assert measures.share([True, False]) == 0.5
