from collections.abc import Callable
from pathlib import Path

import pytest

from dialogue_service.training import trainer
from dialogue_service.training.__main__ import main
from dialogue_service.training.settings import TrainingSettings
from tests.dialogue_service.training.conftest import WriteRows

TinyRun = Callable[..., TrainingSettings]


def arguments(settings: TrainingSettings) -> list[str]:
    return [
        "--data", str(settings.data[0]), "--from-scratch", str(settings.from_scratch),
        "--output", str(settings.output), "--max-steps", "4", "--max-length", "32", "--valid-fraction", "0.4",
    ]  # fmt: skip


def test_a_run_from_the_command_line(tiny_run: TinyRun, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tiny_run()
    assert main(arguments(settings)) == 0
    assert "held-out loss" in capsys.readouterr().out
    assert (settings.output / "model.safetensors").exists()


def test_bad_data_stops_it_before_anything_is_made(
    tiny_run: TinyRun, write_rows: WriteRows, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = write_rows("bad.jsonl", [{"input": "a", "response": "b"}, {"input": "a"}])
    settings = tiny_run(data=(bad,))
    assert main(arguments(settings)) == 2
    assert capsys.readouterr().err == f'{bad}:2: missing "response" (or "turns")\n'
    assert not settings.output.exists()


def test_contradicting_options_exit_with_2(tiny_run: TinyRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments(tiny_run()), "--model", "x", "--seed", "-1"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_an_interrupted_run_says_how_to_go_on(
    tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    settings = tiny_run()
    monkeypatch.setattr(trainer, "_save", interrupt)
    assert main(arguments(settings)) == 130
    assert "--resume" in capsys.readouterr().err
    assert settings.checkpoints.exists()


def test_defaults_live_in_the_settings_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert f"({TrainingSettings.learning_rate})" in capsys.readouterr().out
