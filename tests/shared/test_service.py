"""What both services have in common: health, information, metrics, the walls in front, the start."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ClassVar

import httpx
import pytest
from fastapi import FastAPI
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared import service
from shared.access import MAX_BODY_BYTES
from shared.contracts import Readiness, SlotStatus
from shared.settings import REPOSITORY, Port, ServiceSettings
from tests.servers import free_port, serving

START_S = 20.0
KEY = "correct-horse"


class ExampleSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="EXAMPLE_")
    service: ClassVar[str] = "example"

    port: Port = Field(default=9000, description="the TCP port to listen on, 1 to 65535.", examples=[9000])

    def limits(self) -> dict[str, Any]:
        return {"queue": 3}


def create_app(settings: ExampleSettings, serving_model: str | None = "a-model") -> FastAPI:
    async def readiness() -> Readiness:
        reasons = [] if serving_model else ["no model can answer yet"]
        status = SlotStatus(serving=serving_model)
        return Readiness(status="not-ready" if reasons else "ready", reasons=reasons, model=status)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        yield {"readiness": readiness}

    return service.create_app(settings, "An example.", lifespan=lifespan)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> ExampleSettings:
    for variable in ExampleSettings.variables():
        monkeypatch.delenv(variable, raising=False)
    return ExampleSettings()


@pytest.fixture
def client(settings: ExampleSettings) -> Iterator[httpx.Client]:
    with serving(create_app(settings)) as url, httpx.Client(base_url=url) as client:
        yield client


def test_it_is_live(client: httpx.Client) -> None:
    assert client.get("/health/live").json() == {"status": "live"}


def test_it_is_ready_when_a_model_serves(client: httpx.Client) -> None:
    answer = client.get("/health/ready")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ready"
    assert answer.json()["model"]["serving"] == "a-model"


def test_until_then_it_says_why_not_and_when_to_ask_again(settings: ExampleSettings) -> None:
    with serving(create_app(settings, serving_model=None)) as url:
        live, answer = httpx.get(f"{url}/health/live"), httpx.get(f"{url}/health/ready")
    assert live.status_code == 200
    assert answer.status_code == 503
    assert answer.json()["reasons"] == ["no model can answer yet"]
    assert int(answer.headers["Retry-After"]) >= 1


def test_information_names_service_version_model_and_limits(client: httpx.Client) -> None:
    information = client.get("/info").json()
    assert information.pop("version")
    assert information == {
        "service": "example",
        "model": "a-model",
        "limits": {"queue": 3, "max_body_bytes": MAX_BODY_BYTES},
    }


def test_metrics_are_in_prometheus_form(client: httpx.Client) -> None:
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "# TYPE http_requests_total counter" in answer.text


def test_what_the_walls_refuse_is_a_problem_with_a_request_id(settings: ExampleSettings) -> None:
    guarded = settings.model_copy(update={"api_key": KEY})
    with serving(create_app(guarded)) as url, httpx.Client(base_url=url) as client:
        no_key = client.get("/info", headers={"X-Request-ID": "find-me"})
        too_large = client.post(
            "/info", content=b"x" * (MAX_BODY_BYTES + 1), headers={"X-Request-ID": "find-me"}
        )
        allowed = client.get("/info", headers={"Authorization": f"Bearer {KEY}"})
        healthy = client.get("/health/ready")
    assert [answer.status_code for answer in (no_key, too_large, allowed, healthy)] == [401, 413, 200, 200]
    for refused in (no_key, too_large):
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["X-Request-ID"] == "find-me"


def _command(**environment: str) -> Any:
    inherited = {name: value for name, value in os.environ.items() if name not in ExampleSettings.variables()}
    code = "from shared.service import main; from tests.shared import test_service as t; "
    return partial(
        subprocess.Popen,
        [sys.executable, "-c", code + "main(t.ExampleSettings, t.create_app)"],
        cwd=REPOSITORY,
        env=inherited | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        (
            "EXAMPLE_PORT",
            "http",
            "EXAMPLE_PORT='http' is wrong: "
            "Input should be a valid integer, unable to parse string as an integer. "
            "Write the TCP port to listen on, 1 to 65535. For example EXAMPLE_PORT=9000\n",
        ),
        ("EXAMPLE_PROT", "9000", "EXAMPLE_PROT is not a setting. Did you mean EXAMPLE_PORT?\n"),
    ],
)
def test_a_wrong_variable_stops_the_start_with_one_line(variable: str, value: str, line: str) -> None:
    with _command(**{variable: value})() as process:
        said, complained = process.communicate(timeout=START_S)
    assert process.returncode == 2
    assert (said, complained) == ("", line)


def _wait_until_live(url: str, process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + START_S
    while True:
        try:
            httpx.get(f"{url}/health/live").raise_for_status()
            return
        except httpx.ConnectError:
            assert process.poll() is None
            assert time.monotonic() < until, "the service did not start"
            time.sleep(0.05)


@pytest.mark.parametrize(("key", "warned"), [("", True), (KEY, False)])
def test_it_serves_logs_json_and_ends_when_told_to(key: str, warned: bool) -> None:
    port = free_port()
    with _command(EXAMPLE_PORT=str(port), EXAMPLE_HOST="0.0.0.0", API_KEY=key)() as process:  # noqa: S104
        try:
            _wait_until_live(f"http://127.0.0.1:{port}", process)
            httpx.get(f"http://127.0.0.1:{port}/info", headers={"X-Request-ID": "find-me"})
            process.send_signal(signal.SIGTERM)
            said, logged = process.communicate(timeout=START_S)
        finally:
            process.kill()
    assert (process.returncode, said) == (0, "")
    lines = [json.loads(line) for line in logged.splitlines()]
    (request,) = (line for line in lines if line["message"] == "request")
    assert request["request_id"] == "find-me"
    assert request["status"] == (401 if key else 200)
    assert any("set API_KEY" in line["message"] for line in lines) == warned


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with _command(EXAMPLE_PORT=str(taken.getsockname()[1]))() as process:
            _, logged = process.communicate(timeout=START_S)
    assert process.returncode != 0
    assert "address already in use" in logged
