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
from shared.model_slot import ModelSlot
from shared.settings import REPOSITORY, Port, ServiceSettings
from shared.worker import Worker
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

    slot: ModelSlot[Any] = ModelSlot(Worker("loader", 1), lambda _: None, lambda _: None, "EXAMPLE_MODEL")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        yield {"readiness": readiness, "slot": slot}

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


PAGE = "https://my.page"


def test_pages_of_other_sites_may_not_call(client: httpx.Client) -> None:
    own = str(client.base_url).rstrip("/")
    asking = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    for refused in (client.options("/info", headers=asking), client.get("/info", headers={"Origin": PAGE})):
        assert refused.status_code == 403
        assert refused.json()["type"] == "urn:parley:problem:foreign-origin"
        assert not [name for name in refused.headers if name.startswith("access-control")]
    assert client.get("/info", headers={"Origin": own}).status_code == 200


@pytest.mark.parametrize("key", [None, KEY])
def test_pages_of_sites_that_are_named_may(settings: ExampleSettings, key: str | None) -> None:
    opened = settings.model_copy(update={"api_key": key, "cors_origins": PAGE})
    asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "Authorization"}
    with serving(create_app(opened)) as url, httpx.Client(base_url=url) as client:
        allowed = client.options("/info", headers=asking | {"Origin": PAGE})
        refused = client.options("/info", headers=asking | {"Origin": "https://evil.example"})
        answer = client.get("/info", headers={"Origin": PAGE})
    assert allowed.status_code == 200
    assert allowed.headers["Access-Control-Allow-Origin"] == PAGE
    assert allowed.headers["Access-Control-Allow-Headers"] == "Authorization"
    assert "Access-Control-Allow-Credentials" not in allowed.headers
    assert refused.status_code == 403
    assert answer.status_code == (401 if key else 200)
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE  # else the page could not read why
    assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize(("key", "status"), [(None, 403), (KEY, 200)])
def test_a_name_that_anybody_may_have_registered_needs_a_key(
    settings: ExampleSettings, key: str | None, status: int
) -> None:
    headers = {"Host": "rebound.example"} | ({"Authorization": f"Bearer {key}"} if key else {})
    with serving(create_app(settings.model_copy(update={"api_key": key}))) as url:
        assert httpx.get(f"{url}/info", headers=headers).status_code == status
        assert httpx.get(f"{url}/health/live", headers=headers).status_code == 200


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


@pytest.mark.parametrize(
    ("host", "key", "warned"),
    [("0.0.0.0", "", True), ("0.0.0.0", KEY, False), ("127.0.0.1", "", False)],  # noqa: S104
)
def test_it_serves_logs_json_and_ends_when_told_to(host: str, key: str, warned: bool) -> None:
    port = free_port()
    with _command(EXAMPLE_PORT=str(port), EXAMPLE_HOST=host, API_KEY=key)() as process:
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
    warnings = [line["message"] for line in lines if line["level"] == "warning"]
    assert len(warnings) == warned
    assert all("EVERYONE" in line and "(EXAMPLE_HOST=0.0.0.0)" in line for line in warnings)
    assert all("set API_KEY, for example by API_KEY=$(" in line for line in warnings)


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with _command(EXAMPLE_PORT=str(taken.getsockname()[1]))() as process:
            _, logged = process.communicate(timeout=START_S)
    assert process.returncode != 0
    assert "address already in use" in logged
