import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from dialogue_service.training.settings import TrainingSettings
from dialogue_service.training.trainer import run

PAIRS = [
    {"input": "hello", "response": "hi there friend"},
    {"input": "thanks", "response": "you are welcome"},
    {"input": "bye", "response": "see you soon"},
]

SHAPE = {
    **{"vocab_size": 300, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2},
    **dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0),
}

WriteRows = Callable[[str, Iterable[Any]], Path]
Tune = Callable[..., TrainingSettings]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def write_rows(tmp_path: Path) -> WriteRows:
    """Write rows as JSON Lines; a row that is a text is written as it is."""

    def write(name: str, rows: Iterable[Any]) -> Path:
        path = tmp_path / name
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def tiny_run(tmp_path: Path, write_rows: WriteRows) -> Callable[..., TrainingSettings]:
    """Settings of a run from scratch that takes about a second; options override them."""
    sizes = tmp_path / "tiny.json"
    sizes.write_text(json.dumps(SHAPE))

    def settings(name: str = "tiny", **options: Any) -> TrainingSettings:
        data = write_rows("pairs.jsonl", PAIRS)
        defaults: dict[str, Any] = {
            "data": (data,),
            "valid_data": (data,),
            "from_scratch": sizes,
            "output": tmp_path / name,
            "max_steps": 8,
            "checkpoint_every": 4,
            "learning_rate": 5e-3,
            "max_length": 32,
            "tokens_per_batch": 32,
            "seed": 7,
        }
        return TrainingSettings(**defaults | options)

    return settings


def votes(count: int) -> list[dict[str, Any]]:
    """As many votes: for "no", against "yes". The messages are words that the tiny model knows."""
    words = ("hello", "thanks", "bye", "hi", "friend", "soon", "see", "you", "welcome", "there")
    return [
        {
            "id": f"{number}-1",
            "turns": [f"{words[number % 10]} {words[number // 10 % 10]}", "no" if number % 2 else "yes"],
            "rating": "positive" if number % 2 else "negative",
        }
        for number in range(count)
    ]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model to fine-tune; it says what PAIRS say, and a little "yes" and "no"."""
    folder = tmp_path_factory.mktemp("models")
    data, sizes = folder / "pairs.jsonl", folder / "tiny.json"
    rows = [*PAIRS, *({"turns": row["turns"]} for row in votes(20))]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes.write_text(json.dumps(SHAPE))
    run(
        TrainingSettings(
            data=(data,),
            valid_data=(data,),
            from_scratch=sizes,
            output=folder / "base",
            max_steps=30,
            learning_rate=5e-3,
            max_length=32,
            tokens_per_batch=128,
        )
    )
    return folder / "base"


@pytest.fixture
def tune(base: Path, tmp_path: Path, write_rows: WriteRows) -> Tune:
    """Settings of a run that tunes the tiny model on 120 votes; options override them."""

    def settings(name: str = "tuned", **options: Any) -> TrainingSettings:
        data = write_rows("votes.jsonl", votes(120))
        defaults: dict[str, Any] = {
            "data": (data,),
            "model": str(base),
            "output": tmp_path / name,
            "method": "kto",
            "epochs": 2.0,
            "learning_rate": 1e-3,
            "max_length": 32,
            "seed": 3,
        }
        return TrainingSettings(**defaults | options)

    return settings
