import json
from pathlib import Path

import pytest

from intent_service.evaluate import data
from intent_service.examples import DataFault


def write(file: Path, *rows: tuple[str, str]) -> None:
    lines = [json.dumps({"text": text, "intent": intent}) for text, intent in rows]
    file.write_text("\n".join(lines) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "train.jsonl", *((f"a{i}", "a") for i in range(4)), ("b0", "b"), ("b1", "b"))
    write(tmp_path / "test.jsonl", ("a9", "a"), ("b9", "b"))
    return tmp_path


def test_the_intents_are_those_of_the_rows(folder: Path) -> None:
    dataset = data.load(folder)
    assert dataset.intents == ("a", "b")
    assert [intent.label for intent in dataset.catalog.intents] == ["a", "b"]
    assert (len(dataset.train), len(dataset.test)) == (6, 2)


@pytest.mark.parametrize("name", ["oos_test.jsonl", "oos.jsonl"])
def test_messages_out_of_scope_join_the_test(folder: Path, name: str) -> None:
    write(folder / name, ("1+1", "oos"))
    dataset = data.load(folder)
    assert [example.in_scope for example in dataset.test] == [True, True, False]
    assert dataset.intents == ("a", "b")


def test_labels_json_says_which_intents_there_are(folder: Path) -> None:
    (folder / "labels.json").write_text('{"intents": [{"intent": "b"}, {"intent": "c"}, {"intent": "a"}]}')
    assert data.load(folder).intents == ("b", "c", "a")


def test_shots_are_drawn_by_seed(folder: Path) -> None:
    dataset = data.load(folder)
    first = dataset.shots(2, seed=1)
    assert first == dataset.shots(2, seed=1)
    assert [example.intent for example in first] == ["a", "a", "b", "b"]
    assert any(dataset.shots(2, seed=seed) != first for seed in range(2, 9))
    with pytest.raises(DataFault, match="there are 2 training messages of b, not 3"):
        dataset.shots(3, seed=1)


def test_a_limit_draws_from_the_test(folder: Path) -> None:
    assert len(data.load(folder, limit=1).test) == 1
    assert data.load(folder, limit=99).test == data.load(folder).test


@pytest.mark.parametrize(
    ("labels", "wrong"),
    [
        ("{", "labels.json:1: not JSON"),
        ("[]", "labels.json:1: must be"),
        ('{"intents": [{"intent": "a"}]}', "train has the intent b, which labels.json has not"),
        ('{"intents": [{"intent": "a"}, {"intent": "b"}, {"intent": "a"}]}', "the intent a"),
    ],
)
def test_wrong_labels_are_refused(folder: Path, labels: str, wrong: str) -> None:
    (folder / "labels.json").write_text(labels)
    with pytest.raises(DataFault, match=wrong):
        data.load(folder)


def test_a_folder_without_test_is_refused(folder: Path) -> None:
    (folder / "test.jsonl").unlink()
    with pytest.raises(DataFault, match="no such file"):
        data.load(folder)
    write(folder / "test.jsonl", ("1+1", "oos"))
    with pytest.raises(DataFault, match="in scope"):
        data.load(folder)
