"""A small real model and the dialogue app around it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from dialogue_service.app import create_app
from dialogue_service.settings import DialogueSettings
from shared import settings
from tests import checkpoints
from tests.servers import serving, wait_until

Start = Callable[..., httpx.Client]

INTENT = {
    "label": "greeting",
    "score": 0.9,
    "ranking": [{"label": "greeting", "score": 0.9}, {"label": "thanks", "score": 0.1}],
    "model": "m",
}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DialoGPT's format and vocabulary, two small layers, random weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    checkpoints.gpt2_like(folder)
    return folder


@contextmanager
def service(*, ready: bool = True, **variables: Any) -> Iterator[httpx.Client]:
    """The dialogue service with these environment variables; yields a client of it once it is ready."""
    defaults = {
        "DIALOGUE_STANDIN": "",
        "DIALOGUE_REGISTRY": "/no/versions",
        "DIALOGUE_REPLY_TOKENS": 8,
        "DIALOGUE_INTENT_URL": "http://127.0.0.1:9",  # the discard port: nobody listens there
    }
    with pytest.MonkeyPatch.context() as environment:
        for name, value in (defaults | variables).items():
            environment.setenv(name, str(value))
        app = create_app(settings.load(DialogueSettings))
    with serving(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        if ready:
            wait_until(lambda: client.get("/health/ready").status_code == 200)
        yield client


@pytest.fixture
def start(redis_url: str, tiny_model: Path) -> Iterator[Start]:
    """Starts the dialogue service with settings such as DIALOGUE_DEADLINE="1", on an empty memory."""
    with ExitStack() as stack:
        usual = {"REDIS_URL": redis_url, "DIALOGUE_MODEL": tiny_model}
        yield lambda **variables: stack.enter_context(service(**usual | variables))


@pytest.fixture
def client(start: Start) -> httpx.Client:
    """The service with its defaults."""
    return start()


@pytest.fixture(scope="session")
def intents() -> Iterator[str]:
    """An intent service that knows "forget me", for which it has a fixed reply."""
    app = FastAPI()

    @app.post("/intent")
    async def intent(body: dict[str, str]) -> dict[str, object]:
        return INTENT | {"reply": "DELETE /memory does that."} if body["text"] == "forget me" else INTENT

    with serving(app) as url:
        yield url
