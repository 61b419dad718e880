"""The evaluation command on a made-up folder, from its arguments to what it prints."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from intent_service.evaluate.__main__ import main

MEASURES = ("accuracy", "macro_f1", "overall_accuracy", "in_scope_refused", "ece", "ms_per_message")
OUT_OF_SCOPE = ("oos_recall", "oos_precision")
TEXTS = {
    "weather": ["how is this weather", "is this weather", "weather", "you are weather", "hello weather"],
    "joke": ["joke", "this joke is how", "are you joke", "i am joke", "example joke"],
    "mood": ["i am sad", "i am happy", "are you sad", "you are happy", "happy"],
}


def write(file: Path, rows: list[tuple[str, str]]) -> None:
    file.write_text("\n".join(json.dumps({"text": text, "intent": intent}) for text, intent in rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "made-up"
    folder.mkdir()
    write(folder / "train.jsonl", [(text, intent) for intent, texts in TEXTS.items() for text in texts[:4]])
    write(folder / "test.jsonl", [(texts[0], intent) for intent, texts in TEXTS.items()])
    return folder


@pytest.fixture
def evaluate(tiny_encoder: Path, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def run(folder: Path, *more: str) -> dict[str, object]:
        assert main(["--data", str(folder), "--model", str(tiny_encoder), "--json", *more]) == 0
        result: dict[str, object] = json.loads(capsys.readouterr().out)
        return result

    return run


def test_zero_shot_without_messages_out_of_scope(evaluate, folder: Path) -> None:  # type: ignore[no-untyped-def]
    result = evaluate(folder)
    assert (result["data"], result["intents"]) == ("made-up", 3)
    assert (result["in_scope"], result["out_of_scope"]) == (3, 0)
    assert all(isinstance(result[name], float) for name in MEASURES)
    assert [result[name] for name in OUT_OF_SCOPE] == [None, None]


def test_messages_out_of_scope_are_measured(evaluate, folder: Path) -> None:  # type: ignore[no-untyped-def]
    write(folder / "oos_test.jsonl", [("x 1 y", "oos"), ("z 2", "oos")])
    result = evaluate(folder)
    assert (result["in_scope"], result["out_of_scope"]) == (3, 2)
    assert result["oos_recall"] in (0.0, 0.5, 1.0)


@pytest.mark.parametrize("how", [["--shots", "4"], ["--train"], ["--train", "--finetune-encoder"]])
def test_learning_from_the_training_messages(evaluate, folder: Path, how: list[str]) -> None:  # type: ignore[no-untyped-def]
    result = evaluate(folder, *how)
    assert result["accuracy"] == 1.0


def test_the_same_seed_gives_the_same_numbers(evaluate, folder: Path) -> None:  # type: ignore[no-untyped-def]
    results = [evaluate(folder, "--shots", "2", "--limit", "2", "--seed", "7") for _ in range(2)]
    for result in results:
        del result["ms_per_message"], result["preparation_s"]
    assert results[0] == results[1]
    assert results[0]["in_scope"] == 2


def test_a_catalogue_can_describe_the_intents(evaluate, folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    described = tmp_path / "described.yaml"
    described.write_text(
        "intents:\n"
        + "".join(
            f"  - label: {intent}\n    examples: [{', '.join(texts)}]\n" for intent, texts in TEXTS.items()
        )
    )
    result = evaluate(folder, "--catalog", str(described))
    assert result["classifier"] == "described.yaml"
    assert result["accuracy"] == 1.0


def test_people_get_tables_and_pictures(
    folder: Path, tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    charts = tmp_path / "new" / "charts"
    assert main(["--data", str(folder), "--model", str(tiny_encoder), "--charts", str(charts)]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (*MEASURES, *OUT_OF_SCOPE))
    for name in ("reliability.svg", "confusion.svg"):
        drawing = ElementTree.parse(charts / name).getroot()  # noqa: S314 - our own file
        assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
        assert len(drawing.findall("{http://www.w3.org/2000/svg}rect")) > 1


def test_an_nli_model_is_measured_too(
    folder: Path, tiny_nli: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", str(folder), "--model", str(tiny_nli), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["in_scope"] == 3


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        (["--shots", "9"], "there are 4 training messages of weather, not 9"),
        (["--catalog", "nowhere.yaml"], "nowhere.yaml:1: cannot be read"),
    ],
)
def test_what_is_wrong_is_said(
    folder: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str], more: list[str], wrong: str
) -> None:
    assert main(["--data", str(folder), "--model", str(tiny_encoder), *more]) == 2
    assert wrong in capsys.readouterr().err


def test_a_wrong_row_is_reported_with_its_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "oos_test.jsonl").write_text('\n{"text": "a"}\n')
    assert main(["--data", str(folder)]) == 2
    assert f'{folder / "oos_test.jsonl"}:2: missing "intent"' in capsys.readouterr().err
