"""Words on their way out."""

import pytest

from dialogue_service.generation.text import Stream, whole_sentences


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("I like it. It is", "I like it."),
        ('He said "no!" and', 'He said "no!"'),
        ("no end in sight", "no end in sight"),
        ("It costs 3.50 and", "It costs 3.50 and"),
        ("Really? Yes! Well", "Really? Yes!"),
        ("Done.", "Done."),
    ],
)
def test_an_unfinished_sentence_is_left_out(text: str, whole: str) -> None:
    assert whole_sentences(text) == whole


@pytest.mark.parametrize(
    ("states", "pieces"),
    [
        (["Hi", "Hi there", "Hi there!"], ["Hi", " there", "!"]),
        (["  ", "  Hi", "  Hi \n", "  Hi \nyou ", "  Hi \nyou  "], ["Hi", " \nyou"]),
        (["Gr\ufffd", "Grü", "Grü\ufffd\ufffd", "Grüß"], ["Gr", "ü", "ß"]),
        (["a \ufffd", "a é"], ["a", " é"]),
        (["", " ", "\n"], []),
        (["don 't", "don't", "don't go"], ["don 't"]),  # what was said cannot be taken back
    ],
)
def test_the_pieces_joined_are_the_reply(states: list[str], pieces: list[str]) -> None:
    said: list[str] = []
    stream = Stream(said.append)
    for state in states:
        stream.show(state)
    assert stream.end(states[-1]) == "".join(said)
    assert said == pieces


def test_what_never_becomes_a_character_is_said_at_the_end() -> None:
    said: list[str] = []
    stream = Stream(said.append)
    stream.show("a\ufffd")
    assert stream.end("a\ufffd") == "a\ufffd"
    assert said == ["a", "\ufffd"]
