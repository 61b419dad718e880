import json
from pathlib import Path

import pytest

from intent_service import examples
from intent_service.examples import DataFault, Example


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def test_rows_are_read(file: Path) -> None:
    file.write_text('{"text": "Hi", "intent": "greeting"}\n\n{"text": "1+1", "intent": "oos"}\n')
    assert examples.read(file) == [Example("Hi", "greeting"), Example("1+1", "oos")]
    assert [example.in_scope for example in examples.read(file)] == [True, False]


def test_of_feedback_the_corrected_intents_are_read(file: Path) -> None:
    rows = [
        {"turns": ["Hi", "Hello!", "See you", "Bye!"], "correct_intent": "goodbye", "rating": "negative"},
        {"turns": ["Thanks", "Welcome"], "correct_intent": None, "rating": "positive"},
        {"turns": ["Thanks", "Welcome"]},
        {"turns": ["1+1=?", "2"], "correct_intent": "unknown"},
    ]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    assert examples.read(file) == [Example("See you", "goodbye"), Example("1+1=?", "oos")]


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ("{", "2: not JSON (Expecting property name enclosed in double quotes, column 2)"),
        ("[]", '2: a row must be an object with "text" and "intent", or with "turns"'),
        ('{"text": "a"}', '2: missing "intent" (or "turns")'),
        ('{"text": 1, "intent": "a"}', '2: "text": Input should be a valid string'),
        ('{"text": " ", "intent": "a"}', '2: "text": must not be blank'),
        ('{"text": "a", "intent": ""}', "2: the intent: String should have at least 1 character"),
        ('{"turns": ["a"], "correct_intent": "a"}', '2: "turns" must be a list that ends with the message'),
        ('{"turns": [1, 2], "correct_intent": "a"}', "2: the last turn but one: Input should be a valid"),
    ],
)
def test_a_mistake_is_reported_with_its_line(file: Path, row: str, wrong: str) -> None:
    file.write_text(f'{{"text": "Hi", "intent": "greeting"}}\n{row}\n')
    with pytest.raises(DataFault) as caught:
        examples.read(file)
    assert str(caught.value).startswith(f"{file}:{wrong}")


def test_all_mistakes_are_reported_up_to_a_bound(file: Path) -> None:
    file.write_text("[]\n" * 30)
    with pytest.raises(DataFault) as caught:
        examples.read(file)
    assert len(str(caught.value).splitlines()) == examples.MAX_PROBLEMS


def test_a_file_without_examples_is_refused(file: Path) -> None:
    file.write_text('{"turns": ["a", "b"]}\n')
    with pytest.raises(DataFault, match="1: there is no message with an intent in it"):
        examples.read(file)


def test_a_file_that_cannot_be_read_is_refused(file: Path) -> None:
    with pytest.raises(DataFault, match="1: cannot be read"):
        examples.read(file)
    file.write_bytes(b"\xff")
    with pytest.raises(DataFault, match="1: is not UTF-8 text"):
        examples.read(file)


def test_a_separator_inside_a_text_is_no_line_break(file: Path) -> None:
    file.write_text('{"text": "a\u2028b", "intent": "x"}\n', encoding="utf-8")
    assert examples.read(file) == [Example("a\u2028b", "x")]
