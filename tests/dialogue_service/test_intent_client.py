"""The intent service as the dialogue service meets it: well, away, slow, wrong."""

import asyncio
import logging
import socket
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from dialogue_service.intent_client import IntentClient
from shared.telemetry import request_id
from tests.servers import serving

pytestmark = pytest.mark.anyio

INTENT = {"label": "greeting", "score": 0.9, "ranking": [{"label": "greeting", "score": 0.9}], "model": "m"}
GONE_WRONG = {
    "/500": Response("oops", 500),
    "/503": Response('{"status": 503}', 503, media_type="application/problem+json"),
    "/html": Response("<p>not JSON</p>"),
    "/shape": Response('{"label": 7}', media_type="application/json"),
    "/redirect": Response(status_code=307, headers={"Location": "/elsewhere"}),
}


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    app = FastAPI()

    @app.post("/intent")
    async def well(request: Request) -> dict[str, object]:
        assert await request.json() == {"text": "hi"}
        return INTENT | {"reply": request.headers.get("X-Request-ID")}

    @app.post("/slow/intent")
    async def slow() -> dict[str, object]:
        await asyncio.sleep(5)
        return INTENT

    for path, answer in GONE_WRONG.items():
        app.add_api_route(
            f"{path}/intent", lambda answer=answer: answer, methods=["POST"], response_model=None
        )
    with serving(app) as url:
        yield url


async def classify(base_url: str, timeout_s: float = 5.0) -> object:
    async with httpx.AsyncClient(base_url=base_url) as http:
        return await IntentClient(http, timeout_s).classify("hi")


async def test_the_intent_arrives_and_the_request_id_travels(service: str) -> None:
    request_id.set("abc")
    async with httpx.AsyncClient(base_url=service) as http:
        intent = await IntentClient(http, 5).classify("hi")
    assert intent is not None
    assert (intent.label, intent.score, intent.reply) == ("greeting", 0.9, "abc")


@pytest.mark.parametrize("path", GONE_WRONG)
async def test_a_wrong_answer_is_no_intent(service: str, path: str) -> None:
    assert await classify(service + path) is None


async def test_a_slow_answer_is_no_intent(service: str) -> None:
    assert await classify(service + "/slow", 0.05) is None


async def test_nobody_listening_is_no_intent() -> None:
    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        assert await classify(f"http://127.0.0.1:{taken.getsockname()[1]}") is None


async def test_an_outage_is_told_once_and_its_end_too(service: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dialogue_service.intent_client")
    async with httpx.AsyncClient(base_url=service) as http:
        client = IntentClient(http, 5)
        http.base_url = httpx.URL(service + "/500")
        for _ in range(3):
            await client.classify("hi")
        http.base_url = httpx.URL(service)
        await client.classify("hi")
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "status 500" in caplog.messages[0]
    assert "hi" not in caplog.messages[0].split()
