"""A small real model for the tests of what both services share."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoints import gpt2_like


@pytest.fixture(scope="session")
def _checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpt2_like(tmp_path_factory.mktemp("checkpoints") / "gpt2", vocab=None)


@pytest.fixture
def checkpoint(_checkpoint: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes a folder of that name with a complete tiny GPT-2 to use and to break."""
    return lambda name: Path(shutil.copytree(_checkpoint, tmp_path / name))
