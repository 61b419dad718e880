"""The fit of an NLI model's rule: on made-up scores, and as a command with a real small model."""

import json
import re
from pathlib import Path

import pytest
import torch

from intent_service.classifiers.nli import BY_HAND
from intent_service.examples import Example
from intent_service.training import nli_rule
from intent_service.training.nli_rule import main

LINE = re.compile(r"^INTENT_NLI_KNOWN=(\S+) INTENT_NLI_LEAD=(\S+)$", re.MULTILINE)
INSIDE = [("how is this weather", "weather"), ("tell me a joke", "joke"), ("is this joke", "joke")]
STRANGE = [("x 1 y", "oos"), ("z 2", "oos"), ("are you happy", "oos")]


def write(file: Path, rows: list[tuple[str, str]]) -> None:
    file.write_text("\n".join(json.dumps({"text": text, "intent": intent}) for text, intent in rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "valid.jsonl", INSIDE)
    write(tmp_path / "oos_valid.jsonl", STRANGE)
    return tmp_path


@pytest.mark.parametrize(
    ("inside", "strange"),
    [
        ([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], [[0.4, 0.3, 0.3], [0.2, 0.3, 0.5]]),  # by score
        ([[0.5, 0.3, 0.2], [0.3, 0.6, 0.1]], [[0.52, 0.48, 0.0], [0.45, 0.1, 0.45]]),  # by lead
        ([[0.6, 0.2, 0.2], [0.5, 0.3, 0.2]], [[0.49, 0.51, 0.0], [0.38, 0.31, 0.31]]),  # by lead
        ([[0.5, 0.2, 0.3], [0.3, 0.2, 0.5]], [[0.52, 0.48, 0.0], [0.4, 0.1, 0.15]]),  # by both together
        ([[0.9], [0.7]], [[0.1], [0.3]]),  # a single intent
    ],
)
def test_what_can_be_separated_is(inside: list[list[float]], strange: list[list[float]]) -> None:
    rule = nli_rule.fit(torch.tensor(inside + strange), torch.tensor([True, True, False, False]))
    labels = ["weather", "joke", "mood"][: len(inside[0])]
    assert [rule.verdict(labels, row).known for row in inside + strange] == [True, True, False, False]
    assert rule.sure == BY_HAND.sure


def test_nothing_is_refused_where_that_would_not_help() -> None:
    scores = torch.tensor([[0.4, 0.6], [0.2, 0.8]])
    rule = nli_rule.fit(scores, torch.tensor([True, False]))  # the stranger looks the surer of the two
    assert (rule.known, rule.lead) == (0, 0)


def test_of_both_kinds_as_many_as_allowed_and_train_stands_in_for_valid(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [*INSIDE, *STRANGE])
    intents, rows = nli_rule.read(tmp_path, 2)
    assert (intents, [row.in_scope for row in rows]) == (["weather", "joke"], [True, True, False, False])
    write(tmp_path / "valid.jsonl", [("happy", "mood"), ("fish", "oos")])
    intents, rows = nli_rule.read(tmp_path, 2)
    assert (intents, rows) == (
        ["weather", "joke", "mood"],
        [Example("happy", "mood"), Example("fish", "oos")],
    )


def test_the_command_prints_the_settings_to_copy(
    folder: Path, tiny_nli: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", str(folder), "--model", str(tiny_nli)]) == 0
    said = capsys.readouterr().out
    found = LINE.search(said)
    assert found
    assert all(0 <= float(number) <= 1 for number in found.groups())
    assert "6 messages, 2 intents" in said


def test_the_model_and_hypothesis_in_use_are_the_default(
    folder: Path, tiny_nli: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTENT_MODEL", str(tiny_nli))
    said = []
    for hypothesis in ("This example is {}.", "{} are happy"):
        monkeypatch.setenv("INTENT_HYPOTHESIS", hypothesis)
        assert main(["--data", str(folder)]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] != said[1]


def test_without_messages_out_of_scope_there_is_nothing_to_fit(
    folder: Path, tiny_nli: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "oos_valid.jsonl").unlink()
    assert main(["--data", str(folder), "--model", str(tiny_nli)]) == 2
    assert "oos_valid.jsonl: there must be messages out of scope" in capsys.readouterr().err


def test_an_encoder_is_refused(folder: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(folder), "--model", str(tiny_encoder)]) == 2
    assert "no NLI model" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["0", "-3", "many"])
def test_a_limit_is_a_count(folder: Path, limit: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--data", str(folder), "--limit", limit])
    assert ended.value.code == 2
