"""Requests are answered on the event loop: one that waits for a thread keeps all others waiting too."""

from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from tests.both import both

PATHS = {
    "dialogue": ("/memory", "/memory/export", "/feedback", "/models", "/training", "/info", "/metrics"),
    "intent": ("/models", "/training", "/info", "/metrics"),
}


def test_no_request_asks_for_one(
    two_models: tuple[Path, Path], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:

    async def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a thread was asked for")

    with both(*two_models, REDIS_URL=redis_url) as clients:
        # The framework's way into a thread, which it takes for each dependency that is not a coroutine.
        monkeypatch.setattr(anyio.to_thread, "run_sync", refuse)
        dialogue, intent = clients["dialogue"], clients["intent"]
        said = dialogue.post("/chat", json={"message": "hello"}).raise_for_status().json()
        dialogue.post("/chat/stream", json={"message": "hello"}).raise_for_status()
        vote = {"exchange_id": said["id"], "rating": "positive"}
        dialogue.post("/feedback", json=vote).raise_for_status()
        intent.post("/intent", json={"text": "hello"}).raise_for_status()
        intent.post("/intents/batch", json={"texts": ["hello"]}).raise_for_status()
        for name, paths in PATHS.items():
            for path in paths:
                clients[name].get(path).raise_for_status()
        dialogue.delete("/memory").raise_for_status()
