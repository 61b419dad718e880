"""A folder becomes a version."""

from collections.abc import Callable
from pathlib import Path

import pytest

from shared.add_version import main
from shared.registry import About, Registry

Checkpoint = Callable[[str], Path]


def test_a_folder_becomes_a_version_with_the_scores_of_its_card(
    checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = checkpoint("mine")
    (model / "card.json").write_text('{"scores": {"after": {"perplexity": 9.5}}}')
    (model / "config.json").rename(tmp_path / "config.json")
    (model / "config.json").symlink_to(tmp_path / "config.json")  # as the hub's cache has them
    registry = tmp_path / "registry"
    assert main([str(model), str(registry), "--parent", "base"]) == 0
    assert "POST /models/mine/activate" in capsys.readouterr().out
    about = Registry(registry).versions()["mine"]
    assert isinstance(about, About)
    assert (about.parent, about.scores) == ("base", {"after": {"perplexity": 9.5}})
    assert (Registry(registry).folder("mine") / "config.json").read_bytes()

    assert main([str(model), str(registry)]) == 2
    assert "there is a version mine already" in capsys.readouterr().err
    assert main([str(model), str(registry), "--name", "other"]) == 0
    assert set(Registry(registry).versions()) == {"mine", "other"}


def test_what_is_no_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(tmp_path / "registry")]) == 2
    assert "holds no .safetensors" in capsys.readouterr().err
    assert not (tmp_path / "registry").exists()
