"""With API_KEY set, every route of both services is closed but /health/*. The routes are the apps' own."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import dialogue_service.app
import intent_service.app
from dialogue_service.settings import DialogueSettings
from intent_service.settings import IntentSettings
from tests import checkpoints
from tests.both import both
from tests.servers import RedisServer

KEY = "correct-horse-battery-staple"
APPS = {
    "dialogue": dialogue_service.app.create_app(DialogueSettings.model_construct()),
    "intent": intent_service.app.create_app(IntentSettings.model_construct()),
}
ROUTES = [
    (service, method, route.path)
    for service, app in APPS.items()
    for route in iter_route_contexts(app.routes)
    for method in sorted(route.methods or ["WEBSOCKET"])
]
WITHOUT = [{}, {"Authorization": "Bearer"}, {"Authorization": f"Bearer {KEY[:-1]}"}, {"Authorization": KEY}]


@pytest.fixture(scope="module")
def services(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, httpx.Client]]:
    folder = tmp_path_factory.mktemp("models")
    models: tuple[Path, Path] = (
        checkpoints.gpt2_like(folder / "talker"),
        checkpoints.bert_encoder(folder / "finder"),
    )
    with both(*models, REDIS_URL=redis_server.url, API_KEY=KEY) as clients:
        yield clients


def test_all_kinds_of_routes_are_found() -> None:
    paths = {path for _, _, path in ROUTES}
    assert {"/", "/docs", "/openapi.json", "/metrics", "/chat/ws", "/memory/export", "/intent"} <= paths
    assert ("dialogue", "WEBSOCKET", "/chat/ws") in ROUTES


@pytest.mark.parametrize(("service", "method", "path"), ROUTES)
def test_only_health_is_open(services: dict[str, httpx.Client], service: str, method: str, path: str) -> None:
    url = services[service].base_url.join(path.replace("{", "").replace("}", ""))
    for headers in WITHOUT:
        if method == "WEBSOCKET":
            address = str(url).replace("http", "ws")
            with pytest.raises(InvalidStatus) as refusal, connect(address, additional_headers=headers):
                pytest.fail("it was let in")
            assert refusal.value.response.status_code == 401
            continue
        answer = httpx.request(method, url, headers=headers)
        if path.startswith("/health/"):
            assert answer.status_code == 200
        else:
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert not answer.content or answer.json()["type"] == "urn:parley:problem:unauthorized"


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/metrics", "/memory", "/info"])
def test_with_the_key_they_are_not(services: dict[str, httpx.Client], path: str) -> None:
    assert services["dialogue"].get(path).status_code == 200


def test_the_dialogue_service_sends_the_key_to_the_intent_service(services: dict[str, httpx.Client]) -> None:
    answer = services["dialogue"].post("/chat", json={"message": "Good morning!"}).raise_for_status().json()
    assert answer["intent"]
    assert answer["degraded"] == []
    url = str(services["dialogue"].base_url).replace("http", "ws") + "/chat/ws"
    with connect(url, additional_headers={"Authorization": f"Bearer {KEY}"}) as socket:
        socket.send(json.dumps({"message": "Good morning!"}))
        assert json.loads(socket.recv(timeout=30))["data"]["intent"]
