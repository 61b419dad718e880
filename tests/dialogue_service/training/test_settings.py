from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dialogue_service.training.settings import SettingsError, TrainingSettings

TinyRun = Callable[..., TrainingSettings]


def test_sound_settings_pass(tiny_run: TinyRun) -> None:
    tiny_run().check()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"from_scratch": None}, "exactly one of --model"),
        ({"model": "some/model"}, "exactly one of --model"),
        ({"data": ()}, "--data needs"),
        ({"data": (Path("nowhere.jsonl"),)}, "nowhere.jsonl: no such file"),
        ({"about": Path("nowhere.json")}, "nowhere.json: no such file"),
        ({"valid_data": (), "valid_fraction": 0.0}, "nothing to measure on"),
        ({"valid_fraction": 1.0}, "--valid-fraction must lie in [0, 1)"),
        ({"epochs": 0.0}, "--epochs must be greater than 0"),
        ({"max_steps": 0}, "--max-steps must be at least 1"),
        ({"learning_rate": -1.0}, "--learning-rate must be greater than 0"),
        ({"learning_rate": float("nan")}, "--learning-rate must be greater than 0"),
        ({"tokens_per_batch": 16}, "must hold one dialogue"),
        ({"max_length": 4}, "--max-length must be at least 8"),
        ({"seed": -1}, "--seed must not be negative"),
        ({"resume": True}, "nothing to resume"),
        ({"beta": 0.0}, "--beta must be greater than 0"),
        ({"patience": 0}, "--patience must be greater than 0"),
        ({"lora": -1}, "--lora must be a rank"),
        ({"method": "kto"}, "need a --model to begin with"),
        ({"output": None}, "exactly one of an output folder and a registry"),
    ],
)
def test_each_contradiction_is_named(tiny_run: TinyRun, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        tiny_run(**options).check()
    assert problem in str(caught.value)


def test_all_problems_are_told_at_once(tiny_run: TinyRun) -> None:
    with pytest.raises(SettingsError) as caught:
        tiny_run(epochs=-1.0, seed=-1, model="x").check()
    assert len(str(caught.value).splitlines()) == 3


def test_neither_a_finished_nor_an_unfinished_model_is_overwritten(tiny_run: TinyRun) -> None:
    settings = tiny_run()
    settings.checkpoints.mkdir(parents=True)
    settings.check()
    settings.note.write_text("{}")
    with pytest.raises(SettingsError, match="--resume"):
        settings.check()
    settings.note.unlink()
    (settings.output / "card.json").write_text("{}")
    with pytest.raises(SettingsError, match="already holds a trained model"):
        settings.check()


def test_what_is_recorded_names_no_folder(tiny_run: TinyRun, tmp_path: Path) -> None:
    recorded = tiny_run(from_scratch=None, model=str(tmp_path)).recorded()
    assert recorded["data"] == ["pairs.jsonl"]
    assert "epochs" not in recorded, "max_steps stands instead of it"
    assert recorded["model"] == tmp_path.name
    assert str(tmp_path) not in str(recorded)


def test_wider_models_take_smaller_steps_and_lora_larger_ones(tiny_run: TinyRun) -> None:
    usual = tiny_run(learning_rate=None)
    assert usual.peak_rate(1024) == pytest.approx(usual.peak_rate(256) / 4)
    assert tiny_run(learning_rate=None, lora=4).peak_rate(256) == pytest.approx(10 * usual.peak_rate(256))
    assert tiny_run(learning_rate=0.5, lora=4).peak_rate(1024) == 0.5
