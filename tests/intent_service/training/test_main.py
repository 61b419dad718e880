"""The training command, from its arguments to a folder that the service serves."""

import json
from pathlib import Path

import httpx
import pytest

from intent_service.classifiers import load
from intent_service.classifiers.trained import Head, TrainedClassifier
from intent_service.training.__main__ import main
from tests.intent_service.conftest import Start

CATALOG = """
intents:
  - label: weather
    examples: [how is this weather, is this weather, you are weather]
  - label: joke
    examples: [this joke is how, are you joke, i am joke]
    replies: [A fixed joke.]
"""


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    file = tmp_path / "intents.yaml"
    file.write_text(CATALOG)
    return file


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        *({"text": text, "intent": "mood"} for text in ("i am sad", "i am happy", "are you sad")),
        {"turns": ["hello", "Hi!", "happy you", "..."], "correct_intent": "mood"},
        {"turns": ["hello", "Hi!"], "rating": "positive"},
    ]
    file = tmp_path / "more.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


def train(output: Path, catalog: Path, data: Path, encoder: Path, *more: str) -> None:
    options = ["--output", str(output), "--catalog", str(catalog), "--data", str(data)]
    assert main([*options, "--encoder", str(encoder), *more]) == 0


def test_catalogue_rows_and_feedback_are_learned_and_the_folder_has_its_card(
    tmp_path: Path, catalog: Path, data: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "head"
    train(output, catalog, data, tiny_encoder)
    assert "Serve it with INTENT_MODEL=" in capsys.readouterr().out
    card = json.loads((output / "card.json").read_text())
    assert card["intents"] == ["weather", "joke", "mood"]
    assert card["examples"] == 10
    assert card["scores"]["measured_by"] == "5-fold cross-validation"
    assert [file["file"] for file in card["data"]] == ["more.jsonl", "intents.yaml"]
    assert card["encoder"] == tiny_encoder.name
    assert f"accuracy | {card['scores']['accuracy']}" in (output / "README.md").read_text()
    assert Head.load(output).labels == ("weather", "joke", "mood")


def test_the_folder_is_served(
    tmp_path: Path, catalog: Path, data: Path, tiny_encoder: Path, start: Start
) -> None:
    output = tmp_path / "head"
    train(output, catalog, data, tiny_encoder)
    client: httpx.Client = start(INTENT_MODEL=output, INTENT_CATALOG=catalog)
    answer = client.post("/intent", json={"text": "are you joke"}).json()
    assert answer["model"] == "head"
    assert answer["ranking"][0]["label"] == "joke"
    other = client.post("/intent", json={"text": "hello", "labels": ["greeting", "thanks"]}).json()
    assert {ranked["label"] for ranked in other["ranking"]} == {"greeting", "thanks"}


def test_a_fine_tuned_encoder_lies_in_the_folder(
    tmp_path: Path, catalog: Path, data: Path, tiny_encoder: Path
) -> None:
    output = tmp_path / "head"
    train(output, catalog, data, tiny_encoder, "--finetune-encoder", "--steps", "2")
    assert (output / "encoder" / "model.safetensors").is_file()
    assert isinstance(load(output, "{}"), TrainedClassifier)
    assert json.loads((output / "card.json").read_text())["encoder_fine_tuned"]


def test_a_finished_folder_is_not_overwritten(
    tmp_path: Path, catalog: Path, data: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "head"
    train(output, catalog, data, tiny_encoder)
    assert main(["--output", str(output)]) == 2
    assert "already holds a trained model" in capsys.readouterr().err


def test_every_mistake_is_reported_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong, also = tmp_path / "wrong.jsonl", tmp_path / "also.jsonl"
    wrong.write_text('{"text": "a"}\n')
    also.write_text('{"text": "a", "intent": "b"}\n{\n')
    assert main(["--output", str(tmp_path / "head"), "--data", str(wrong), str(also)]) == 2
    said = capsys.readouterr().err
    assert f'{wrong}:1: missing "intent"' in said
    assert f"{also}:2: not JSON" in said
    assert not (tmp_path / "head").exists()


def test_contradictions_are_reported_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--no-catalog", "--epochs", "0", "--most-refused", "2", "--seed", "-1", "--steps", "0"]
    assert main(["--output", str(tmp_path), *options]) == 2
    said = capsys.readouterr().err
    for problem in ("nothing to learn from", "--epochs", "--most-refused", "--seed", "--steps"):
        assert problem in said


def test_an_intent_of_data_that_looks_like_one_of_the_catalogue_is_refused(
    tmp_path: Path, catalog: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "a", "intent": "joke_"}\n')
    assert main(["--output", str(tmp_path / "head"), "--catalog", str(catalog), "--data", str(data)]) == 2
    assert '"joke" is there already' in capsys.readouterr().err
