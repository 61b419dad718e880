"""The Postman collection: newman runs it against both services, and no route may be missing from it."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

import dialogue_service.app
import intent_service.app
from dialogue_service.settings import DialogueSettings
from intent_service.settings import IntentSettings
from shared import settings
from tests import checkpoints
from tests.outside import need
from tests.servers import serving, wait_until
from tools import openapi

ROOT = Path(__file__).resolve().parents[1]
COLLECTION = ROOT / "postman_collection.json"
NEWMAN = ROOT / "node_modules" / ".bin" / "newman"
_RUN_S = 120
_KEY = "a-secret-for-this-test"


@dataclass(frozen=True)
class Stack:
    """Where both services listen."""

    dialogue: str
    intent: str


@pytest.fixture(params=["", _KEY], ids=["open", "with-key"])
def stack(
    request: pytest.FixtureRequest, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stack]:
    """Both services, ready: the bundled classifier, and a small model with random weights that talks."""
    checkpoints.gpt2_like(tmp_path)
    with ExitStack() as running:
        monkeypatch.setenv("API_KEY", request.param)
        monkeypatch.setenv("INTENT_REGISTRY", str(tmp_path / "versions"))
        monkeypatch.setenv("DIALOGUE_REGISTRY", str(tmp_path / "versions"))
        intent = running.enter_context(serving(intent_service.app.create_app(settings.load(IntentSettings))))
        # One after the other: transformers cannot load two models at once in one process.
        _wait_ready(intent)
        monkeypatch.setenv("DIALOGUE_MODEL", str(tmp_path))
        monkeypatch.setenv("DIALOGUE_STANDIN", "")
        monkeypatch.setenv("DIALOGUE_INTENT_URL", intent)
        monkeypatch.setenv("DIALOGUE_INTENT_TIMEOUT", "30")  # a busy machine must not look degraded
        monkeypatch.setenv("REDIS_URL", redis_url)
        app = dialogue_service.app.create_app(settings.load(DialogueSettings))
        dialogue = running.enter_context(serving(app))
        _wait_ready(dialogue)
        yield Stack(dialogue, intent)


def _wait_ready(url: str) -> None:
    wait_until(lambda: httpx.get(f"{url}/health/ready").status_code == 200, 60)


def newman(stack: Stack, *more: str) -> "subprocess.CompletedProcess[str]":
    need(NEWMAN.exists(), "newman (npm ci)")
    variables = {"dialogue": stack.dialogue, "intent": stack.intent, "api_key": _KEY}
    given = [part for name, value in variables.items() for part in ("--env-var", f"{name}={value}")]
    command = [str(NEWMAN), "run", str(COLLECTION), *given, "--color", "off", *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=_RUN_S, cwd=ROOT, check=False)


def test_every_assertion_holds_twice_on_a_used_memory(stack: Stack) -> None:
    headers = {"Authorization": f"Bearer {_KEY}"}
    for conversation in ("postman", "default"):
        said = {"message": "Hi!", "conversation": conversation}
        httpx.post(f"{stack.dialogue}/chat", json=said, headers=headers, timeout=60).raise_for_status()
    run = newman(stack, "--iteration-count", "2")
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr
    left = httpx.get(f"{stack.dialogue}/memory", headers=headers).json()["exchanges"]
    assert [exchange["message"] for exchange in left] == ["Hi!"]


def test_wrong_answers_fail_the_run() -> None:
    with serving(FastAPI()) as nothing_there:
        assert newman(Stack(nothing_there, nothing_there)).returncode == 1


def _requests(item: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The method and the URL of every request, with {} for what is filled in."""
    for inner in item.get("item", []):
        yield from _requests(inner)
    if "request" in item:
        path = item["request"]["url"]["raw"].partition("?")[0]
        service, _, rest = path.partition("}}")
        yield item["request"]["method"], service.strip("{") + re.sub(r"\{\{.*?\}\}", "{}", rest)


def test_every_route_has_a_request() -> None:
    tried = set(_requests(json.loads(COLLECTION.read_text("utf-8"))))
    routes = {
        (method.upper(), file.stem + re.sub(r"\{.*?\}", "{}", path))
        for file, text in openapi.documents().items()
        for path, operations in json.loads(text)["paths"].items()
        for method in operations
    }
    assert routes - tried == set()
