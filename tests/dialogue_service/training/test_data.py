import hashlib
import json
from pathlib import Path

import pytest

from dialogue_service.training.data import MAX_PROBLEMS, DataError, Dialogue, merge, read_file, read_files
from tests.dialogue_service.training.conftest import WriteRows


def test_input_and_response_become_two_turns(write_rows: WriteRows) -> None:
    path = write_rows("a.jsonl", [{"input": " hello ", "response": "hi\n", "topic": "ignored"}])
    file = read_file(path)
    assert file.dialogues == (Dialogue(("hello", "hi"), (False, True)),)
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_turns_learn_replies_or_all(write_rows: WriteRows) -> None:
    path = write_rows("a.jsonl", [{"turns": ["a", "b", "c", "d"]}])
    assert read_file(path).dialogues[0].learned == (False, True, False, True)
    assert read_file(path, learn="all").dialogues[0].learned == (False, True, True, True)


def test_a_json_list_reads_like_json_lines(tmp_path: Path, write_rows: WriteRows) -> None:
    rows = [{"input": "a", "response": "b"}, {"turns": ["c", "d"]}]
    listed = tmp_path / "list.json"
    listed.write_text("\ufeff" + json.dumps(rows, indent=2), encoding="utf-8")
    assert read_file(listed).dialogues == read_file(write_rows("lines.jsonl", rows)).dialogues


def test_feedback_learns_only_the_approved_last_turn(write_rows: WriteRows) -> None:
    before = ["hi", "hello", "bye"]
    rows = [
        {"id": "1-1", "turns": [*before, "see you"], "rating": "positive", "better_reply": None},
        {"id": "2-1", "turns": [*before, "what?"], "rating": "negative", "better_reply": "goodbye"},
        {"id": "3-1", "turns": [*before, "never"], "rating": "negative"},
        {"id": "4-1", "turns": [*before, "hm"], "rating": None},
    ]
    file = read_file(write_rows("feedback.jsonl", rows), learn="all")
    only_last = (False, False, False, True)
    assert file.dialogues == (
        Dialogue((*before, "see you"), only_last),
        Dialogue((*before, "goodbye"), only_last),
    )
    assert [dialogue.id for dialogue in file.dialogues] == ["1-1", "2-1"]
    assert [(thumb.turns[-1], thumb.up, thumb.id) for thumb in file.thumbs] == [
        ("see you", True, "1-1"),
        ("what?", False, "2-1"),
        ("goodbye", True, "2-1"),
        ("never", False, "3-1"),
    ]
    assert file.unrated == 2


def test_what_is_said_twice_counts_once_and_the_last_word_on_it_counts(write_rows: WriteRows) -> None:
    pair, other = ["hi", "hello"], ["hi", "go away"]
    first = write_rows(
        "first.jsonl",
        [
            {"turns": ["a", "b"]},
            {"turns": ["a", "b"]},
            {"id": "1-1", "turns": pair, "rating": "positive"},
            {"id": "2-1", "turns": other, "rating": "negative"},
        ],
    )
    second = write_rows(
        "second.jsonl",
        [
            {"turns": ["a", "b"]},
            {"id": "3-1", "turns": pair, "rating": "negative"},
            {"id": "4-1", "turns": other, "rating": "positive"},
        ],
    )
    dialogues, thumbs = merge(read_files([first, second]))
    assert [dialogue.turns for dialogue in dialogues] == [tuple(other), ("a", "b")]
    assert [(thumb.turns, thumb.up, thumb.id) for thumb in thumbs] == [
        (tuple(pair), False, "1-1"),
        (tuple(other), True, "2-1"),
    ]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('{"input": "a", ', "not JSON"),
        ("[1", "not JSON"),
        ("17", "must be an object"),
        ('{"input": "a"}', 'missing "response"'),
        ('{"text": "a"}', 'missing "input" and "response"'),
        ('{"input": 3, "response": "b"}', '"input" must be a text, not int'),
        ('{"input": "a", "response": "  "}', '"response" is empty'),
        ('{"input": "a", "response": "\\ud800"}', "lone surrogate"),
        ('{"turns": "a"}', '"turns" must be a list'),
        ('{"turns": ["a"]}', "at least 2 turns, not 1"),
        ('{"turns": ["a", null]}', "turn 2 must be a text"),
        ('{"turns": ["a", "b"], "rating": "good"}', '"rating" must be'),
        ('{"turns": ["a", "b"], "better_reply": ""}', '"better_reply" is empty'),
        ('{"turns": ["a", "b"], "rating": "positive", "id": 7}', '"id" must be a text'),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(write_rows: WriteRows, row: str, problem: str) -> None:
    path = write_rows("bad.jsonl", [{"input": "a", "response": "b"}, "", row])
    with pytest.raises(DataError) as caught:
        read_file(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert problem in str(caught.value)


def test_all_problems_of_all_files_are_told_up_to_a_bound(write_rows: WriteRows) -> None:
    few = write_rows("few.jsonl", ["{}", {"input": "a", "response": "b"}, "{}"])
    many = write_rows("many.jsonl", ["{}"] * (MAX_PROBLEMS + 5))
    with pytest.raises(DataError) as caught:
        read_files([few, many])
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines[:2]] == [f"{few}:1", f"{few}:3"]
    assert len(lines) == 2 + MAX_PROBLEMS + 1
    assert lines[-1] == f"{many}:{MAX_PROBLEMS}: stopped reading after {MAX_PROBLEMS} problems"


def test_rows_of_a_list_are_named_by_their_line(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text('[\n  {"input": "a", "response": "b"},\n\n  {"input": ""}\n]')
    with pytest.raises(DataError, match=r"list\.json:4: missing"):
        read_file(path)
    path.write_text('[\n  {"input": "a", "response": "b"},\n  {"input": }\n]')
    with pytest.raises(DataError, match=r"list\.json:3: not JSON"):
        read_file(path)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"[]", b'{"turns": ["a", "b"], "rating": null}\n'])
def test_a_file_without_anything_to_learn_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match="nothing to learn"):
        read_file(path)


def test_text_that_is_not_utf8_is_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"input": "a", "response": "b"}\n{"input": "caf\xe9", "response": "b"}\n')
    with pytest.raises(DataError, match=r"latin\.jsonl:2: not UTF-8"):
        read_file(path)
