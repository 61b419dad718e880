"""The whole stack, running."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parley import Parley


@pytest.fixture(scope="session")
def parley(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parley]:
    """One that all tests talk to, each in conversations of its own."""
    with Parley(tmp_path_factory.mktemp("parley")) as running:
        yield running


@pytest.fixture
def own_parley(tmp_path: Path) -> Iterator[Parley]:
    """One to be killed."""
    with Parley(tmp_path) as running:
        yield running
