"""The bundled model, and the intent app around a model."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from intent_service import bundled, catalog
from intent_service.app import create_app
from intent_service.catalog import Catalog
from intent_service.classifiers.embedding import EmbeddingClassifier
from intent_service.settings import IntentSettings
from shared import settings
from tests import checkpoints
from tests.servers import serving, wait_until

Start = Callable[..., httpx.Client]


@contextmanager
def _service(ready: bool, variables: dict[str, object]) -> Iterator[httpx.Client]:
    with pytest.MonkeyPatch.context() as environment:
        for name, value in ({"INTENT_REGISTRY": "/no/versions"} | variables).items():
            environment.setenv(name, str(value))
        app = create_app(settings.load(IntentSettings))
    with serving(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        if ready:
            wait_until(lambda: client.get("/health/ready").status_code == 200)
        yield client


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the service with settings such as INTENT_MODEL=folder."""
    with ExitStack() as stack:
        yield lambda *, ready=True, **variables: stack.enter_context(_service(ready, variables))


@pytest.fixture(scope="session")
def client() -> Iterator[httpx.Client]:
    """The service as it comes, with the bundled model."""
    with _service(True, {}) as client:
        yield client


@pytest.fixture(scope="session")
def minilm() -> Path:
    folder = bundled.folder()
    assert folder is not None
    return folder


@pytest.fixture(scope="session")
def minilm_classifier(minilm: Path) -> EmbeddingClassifier:
    return EmbeddingClassifier.load(minilm)


@pytest.fixture(scope="session")
def shipped() -> Catalog:
    return catalog.load(catalog.SHIPPED)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.bert_encoder(tmp_path_factory.mktemp("models") / "tiny-encoder")


@pytest.fixture(scope="session")
def tiny_nli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.nli(tmp_path_factory.mktemp("models") / "tiny-nli")
