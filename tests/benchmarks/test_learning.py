"""The simulated person is honest: its taste decides its votes and its comparisons, and chance is a half."""

import json
from pathlib import Path

import pytest

from benchmarks import learning
from benchmarks.learning import likes, preferred, voted
from dialogue_service.training.data import read_file


@pytest.mark.parametrize(
    ("reply", "liked"),
    [
        ("Nice! What do you like most about it?", True),
        ("Why? ", True),
        ("That sounds lovely.", False),
        ("Why? I see.", False),
        (" ".join(["so"] * 11) + " why?", True),
        (" ".join(["so"] * 12) + " why?", False),
    ],
)
def test_the_person_likes_short_replies_that_ask_something(reply: str, liked: bool) -> None:
    assert likes(reply) is liked


def test_a_tie_counts_half() -> None:
    ask, tell = "And you?", "I see."
    assert preferred([ask, tell, ask, tell], [ask, tell, ask, tell]) == 0.5
    assert preferred([ask, ask], [tell, tell]) == 1.0
    assert preferred([tell, ask], [ask, ask]) == 0.25


def test_votes_are_what_the_training_reads(tmp_path: Path) -> None:
    file = tmp_path / "votes.jsonl"
    file.write_text(voted([("hello",), ("a", "b", "c")], ["And you?", "I see."]))
    thumbs = read_file(file).thumbs
    assert [(thumb.turns, thumb.up) for thumb in thumbs] == [
        (("hello", "And you?"), True),
        (("a", "b", "c", "I see."), False),
    ]
    assert len({thumb.id for thumb in thumbs}) == 2


def test_without_the_data_it_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(learning, "REPORT", tmp_path / "learning.md")
    assert learning.main(["--data", str(tmp_path)]) == 0
    assert "DATA=" in capsys.readouterr().err
    assert not learning.REPORT.exists()


def test_a_small_run_writes_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for corpus in learning.CORPORA:
        (tmp_path / corpus).mkdir()
        rows = [{"turns": [f"I like {corpus} number {n}", "So do I."]} for n in range(8)]
        (tmp_path / corpus / "valid.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(learning, "REPORT", tmp_path / "learning.md")
    few = ["--data", str(tmp_path), "--votes", "0", "8", "--seeds", "1", "--prompts", "4"]
    assert learning.main(few) == 0
    report = learning.REPORT.read_text()
    assert "| kto | 0 | **" in report
    assert "| sft | 8 | refused: too few votes |" in report
