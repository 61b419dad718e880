"""The order of candidates, and what is never preferred."""

from dataclasses import replace

import pytest

from dialogue_service.generation.candidate import OPENING, Candidate
from dialogue_service.generation.ranking import best

MESSAGE = "I baked bread this morning."
TURNS = ["Hi there!", "Hello, what did you do today?", MESSAGE]


def candidate(
    text: str, *, nats: float = 1.0, alone: float = 2.0, tokens: int = 8, finished: bool = True
) -> Candidate:
    """`nats` and `alone` are lost per token, with and without the conversation."""
    opening = min(tokens, OPENING)
    return Candidate(
        text, tuple(range(tokens)), -nats * tokens, -nats * opening, -alone * opening, finished=finished
    )


def said(*candidates: Candidate, turns: list[str] = TURNS) -> str:
    """What is chosen, the same in either order."""
    chosen = {best(order, turns) for order in (candidates, candidates[::-1])}
    assert len(chosen) == 1
    (one,) = chosen
    assert one is not None
    return one.text


GOOD = candidate("Was it rye or wheat?", nats=3.0)


def test_the_more_probable_reply_is_said() -> None:
    assert said(candidate("Well done.", nats=1.0), candidate("I see it.", nats=1.5)) == "Well done."


def test_a_specific_reply_beats_a_bland_one_that_is_more_probable() -> None:
    bland = candidate("I don't know.", nats=1.0, alone=0.5)
    assert said(bland, candidate("Was it rye or wheat?", nats=1.2, alone=4.0)) == "Was it rye or wheat?"


def test_what_the_model_is_not_sure_of_is_not_said_for_being_specific() -> None:
    honest = candidate("You haven't told me.", nats=0.2, alone=0.3)
    assert said(honest, candidate("Your name is Bob.", nats=0.6, alone=4.0)) == honest.text


def test_a_faulty_reply_does_not_say_how_sure_the_others_must_be() -> None:
    echo = candidate(MESSAGE, nats=0.1)
    bland = candidate("I don't know.", nats=1.0, alone=0.5)
    assert said(echo, bland, candidate("Was it rye or wheat?", nats=1.2, alone=4.0))[:3] == "Was"


def test_what_people_are_known_to_like_is_said() -> None:
    plain = candidate("Nice, I like bread.", nats=1.0)
    asking = candidate("Was it rye or wheat?", nats=1.8)
    assert said(plain, asking) == plain.text
    assert said(replace(plain, liking=-3.0), replace(asking, liking=3.0)) == asking.text
    assert said(replace(plain, liking=3.0), replace(asking, liking=-1000.0)) == plain.text


def test_nonsense_is_not_said_for_being_rare() -> None:
    assert (
        said(candidate("Nice, I like bread.", nats=1.0), candidate("Rye the of.", nats=5.0, alone=6.0))[0]
        == "N"
    )


@pytest.mark.parametrize("sure", [0.1, 1.0, 10.0], ids=["sure model", "usual model", "unsure model"])
def test_a_longer_reply_is_not_passed_over_for_its_length(sure: float) -> None:
    short = candidate("Well done.", nats=sure, alone=2.0, tokens=8)
    longer = candidate("Well done, was it a new recipe?", nats=sure * 0.8, alone=2.0, tokens=12)
    assert longer.logprob < short.logprob
    assert said(short, longer) == longer.text


def test_words_that_cost_more_than_they_say_are_not_worth_their_length() -> None:
    rambling = candidate("Well done it of and a so", nats=1.0, tokens=40)
    assert said(candidate("Well done.", nats=1.0), rambling) == "Well done."


@pytest.mark.parametrize(
    "faulty",
    [
        candidate("It is the", finished=False),
        candidate("Hello - what did you do today?!"),
        candidate("I baked bread, this morning..."),
        candidate("I like it so much, I like it so much."),
        candidate("No no no no no no"),
        candidate(""),
        candidate("..."),
    ],
    ids=["cut off", "own turn", "echo", "loop", "one word over and over", "empty", "no word"],
)
def test_a_faulty_reply_is_left_out(faulty: Candidate) -> None:
    assert said(faulty, GOOD) == GOOD.text


@pytest.mark.parametrize(
    ("fine", "turns"),
    [
        (candidate("I like bread.", finished=False), TURNS),
        (candidate('She said "yes!"', finished=False), TURNS),
        (candidate("I don't know"), TURNS),
        (candidate("Good night!"), ["Good night."]),
        (candidate("Hi there!"), TURNS),
    ],
    ids=["cut to whole sentences", "quoted", "without a full stop", "greeting back", "what the person said"],
)
def test_what_only_resembles_a_fault_is_none(fine: Candidate, turns: list[str]) -> None:
    assert said(fine, GOOD, turns=turns) == fine.text


def test_a_phrase_that_was_said_before_counts_against_a_reply() -> None:
    again = candidate("What did you do after that?", nats=1.0)
    assert said(again, candidate("How did it taste, then?", nats=1.2)) == "How did it taste, then?"
    assert (
        said(again, candidate("How did it taste, then?", nats=1.2), turns=["Hi", "Hello", MESSAGE])
        == again.text
    )


def test_a_faulty_reply_is_better_than_none() -> None:
    assert said(candidate("It is the", finished=False), candidate("")) == "It is the"
    assert said(candidate(":)"), candidate("It is the", nats=2.0, finished=False)) == ":)"


@pytest.mark.parametrize("candidates", [[], [candidate("")], [candidate(""), candidate("  ")]])
def test_there_is_no_best_of_nothing(candidates: list[Candidate]) -> None:
    assert best(candidates, TURNS) is None


def test_a_conversation_may_be_empty() -> None:
    assert best([GOOD], []) is GOOD
