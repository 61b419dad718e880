"""What all tests share: no network for models, one event loop kind, real servers."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

# Read by huggingface_hub and torch at import, so they must come first.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.outside import REDIS_SERVERS, redis_program
from tests.servers import RedisServer


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True, scope="module")
def _collected() -> Iterator[None]:
    """A client left open is reported in the module that left it, not in a later one."""
    yield
    gc.collect()


@pytest.fixture(scope="session", params=REDIS_SERVERS)
def any_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisServer]:
    """Every kind of server that Parley supports, one after another."""
    with RedisServer(redis_program(request.param), tmp_path_factory.mktemp("any")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A bundled server that all tests use: do not stop it."""
    with RedisServer(redis_program("bundled"), tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The bundled server, emptied."""
    redis_server.empty()
    return redis_server.url


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A bundled server of the test's own, to be killed and started again."""
    with RedisServer(redis_program("bundled"), tmp_path) as server:
        yield server
