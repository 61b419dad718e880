"""What all tests share: no network for models, one event loop kind, real servers."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

# Read by huggingface_hub and torch at import, so they must come first.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import httpx
import pytest
import torch

from tests import checkpoints
from tests.both import both
from tests.collector import Collector, collecting
from tests.outside import REDIS_SERVERS, redis_program
from tests.servers import RedisServer


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def threads() -> Iterator[None]:
    """Sets the number of torch's threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


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


@pytest.fixture(scope="session")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Small ones for both services: one that talks, one that finds intents."""
    folder = tmp_path_factory.mktemp("two")
    return checkpoints.gpt2_like(folder / "talker"), checkpoints.bert_encoder(folder / "finder")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Takes traces."""
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def observed(
    two_models: tuple[Path, Path], redis_server: RedisServer, collector: Collector
) -> Iterator[dict[str, httpx.Client]]:
    """Both services, which send their traces to the collector."""
    redis_server.empty()
    to = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    with both(*two_models, REDIS_URL=redis_server.url, **to) as clients:
        yield clients
