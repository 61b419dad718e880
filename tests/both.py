"""Both services in this process, over real HTTP: what is seen from outside when they work together."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import dialogue_service.app
import intent_service.app
from dialogue_service.settings import DialogueSettings
from intent_service.settings import IntentSettings
from shared import settings
from tests.servers import serving, wait_until


@contextmanager
def both(model: Path, encoder: Path, **variables: Any) -> Iterator[dict[str, httpx.Client]]:
    """A client of each, by name, once both are ready; `variables` are settings of either, or of both."""
    usual = {"DIALOGUE_MODEL": model, "DIALOGUE_STANDIN": "", "INTENT_MODEL": encoder}
    usual |= {"DIALOGUE_REPLY_TOKENS": 8, "DIALOGUE_INTENT_TIMEOUT": 30}
    usual |= {"DIALOGUE_REGISTRY": "/no/versions", "INTENT_REGISTRY": "/no/versions"}
    key = {"Authorization": f"Bearer {variables['API_KEY']}"} if "API_KEY" in variables else {}
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as environment:
            for name, value in (usual | variables).items():
                environment.setenv(name, str(value))
            intent = intent_service.app.create_app(settings.load(IntentSettings))
            intent_url = stack.enter_context(serving(intent))
            environment.setenv("DIALOGUE_INTENT_URL", intent_url)
            dialogue = dialogue_service.app.create_app(settings.load(DialogueSettings))
        urls = {"intent": intent_url, "dialogue": stack.enter_context(serving(dialogue))}
        clients = {
            name: stack.enter_context(httpx.Client(base_url=url, timeout=60, headers=key))
            for name, url in urls.items()
        }
        wait_until(lambda: all(c.get("/health/ready").status_code == 200 for c in clients.values()), 60)
        yield clients
