"""Training jobs over real HTTP, each in a real process that only does as it is told."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from fastapi import FastAPI, Response
from pydantic import Field

from shared import models_api, problems, training_api
from shared.contracts import Activate, Request, TrainingJob
from shared.jobs import MAX_JOBS, Jobs
from shared.model_slot import ModelSlot, Source
from shared.problems import TooLittleFeedback
from shared.registry import Registry
from shared.settings import REPOSITORY
from shared.training_api import JobsDep, accepted
from shared.versions import Versions
from shared.worker import Worker
from tests import jobs
from tests.servers import all_ended, serving, wait_until

ENDED = ("succeeded", "failed", "cancelled", "interrupted")


class Told(Request):
    activate: Activate = "if_better"
    told: dict[str, Any] = Field(default_factory=dict)


def create_app(folder: Path, module: str = "tests.jobs") -> FastAPI:
    """Versions, jobs and their routes; a model here is a folder's name."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        with Worker("loader", capacity=2) as loader:
            slot: ModelSlot[str] = ModelSlot(loader, _load, len, "A_SETTING")
            configured = Source(str(folder / "base"))
            registry = folder / "registry"
            async with (
                Versions(slot, Registry(registry), configured) as versions,
                Jobs(registry, module, versions) as running,
            ):
                yield {"jobs": running, "versions": versions}

    app = FastAPI(lifespan=lifespan)
    problems.install(app)
    app.include_router(models_api.router)
    app.include_router(training_api.router)

    @app.post("/training", status_code=202)
    async def start(body: Told, running: JobsDep, response: Response) -> TrainingJob:
        async def prepare(job: Path, name: str) -> None:
            if body.told.get("refused"):
                raise TooLittleFeedback("Three more.")
            told = {"registry": str(folder / "registry"), "model": str(folder / "base")} | body.told
            jobs.write(job, name, **told)

        return accepted(await running.start("test", body.activate, prepare), response)

    return app


def _load(folder: Path) -> str:
    text = (folder / "model.safetensors").read_text()
    if text == "broken":
        raise ValueError("it is broken")
    return text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.safetensors").write_text("weights")
    return tmp_path


Start = Callable[..., httpx.Client]


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def serve(module: str = "tests.jobs") -> httpx.Client:
            url = stack.enter_context(serving(create_app(folder, module)))
            client = stack.enter_context(httpx.Client(base_url=url, timeout=30))
            wait_until(lambda: client.get("/models").json()["serving"])
            return client

        yield serve


@pytest.fixture
def client(start: Start) -> httpx.Client:
    return start()


def begin(client: httpx.Client, activate: Activate = "if_better", **told: Any) -> dict[str, Any]:
    answer = client.post("/training", json={"activate": activate, "told": told})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["Location"] == f"/training/{job['id']}"
    return job


def state(client: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/training/{job['id']}").raise_for_status().json()
    return found


def end(client: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    wait_until(lambda: state(client, job)["ended"], 60)
    return state(client, job)


def run(client: httpx.Client, activate: Activate = "if_better", **told: Any) -> dict[str, Any]:
    return end(client, begin(client, activate, **told))


def processes() -> list[psutil.Process]:
    """Those of jobs that this process has started."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "--job" in child.cmdline()]


@pytest.mark.parametrize(
    ("activate", "promoted", "serves"),
    [
        ("if_better", True, True),
        ("if_better", False, False),
        (True, False, True),
        (False, True, False),
    ],
)
def test_what_the_gate_promotes_is_put_into_service_if_that_was_asked_for(
    client: httpx.Client, activate: Activate, promoted: bool, serves: bool
) -> None:
    job = run(client, activate, promoted=promoted)
    assert (job["state"], job["version"], job["error"]) == ("succeeded", job["id"], None)
    assert (job["promoted"], job["verdict"], job["activated"]) == (promoted, "As told.", serves)
    models = client.get("/models").json()
    assert models["active"] == models["serving"] if serves else models["active"] == "configured"
    assert (models["serving"] == job["id"]) is serves
    assert job["id"] in [version["version"] for version in models["versions"]]
    if serves:
        assert client.post("/models/rollback").json()["active"] == "configured"


def test_a_job_runs_at_low_priority_on_half_of_the_processors(client: httpx.Client) -> None:
    scores = run(client)["scores"]
    assert scores["nice"] >= 10
    assert int(scores["threads"]) == max(1, len(os.sched_getaffinity(0)) // 2)


def test_progress_is_told_while_it_runs(client: httpx.Client) -> None:
    job = begin(client, waits=True)
    wait_until(lambda: state(client, job)["stage"] == "training")
    seen = state(client, job)
    assert (seen["state"], seen["total"], seen["version"]) == ("running", 4, None)
    assert client.get("/training").json()["jobs"] == [seen]


def test_one_job_at_a_time(client: httpx.Client) -> None:
    job = begin(client, waits=True)
    refused = client.post("/training", json={"told": {}})
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:parley:problem:training-running")
    assert job["id"] in refused.json()["detail"]
    client.delete(f"/training/{job['id']}").raise_for_status()
    assert run(client)["state"] == "succeeded"


def test_what_cannot_begin_leaves_nothing_and_is_in_nobodys_way(client: httpx.Client, folder: Path) -> None:
    refused = client.post("/training", json={"told": {"refused": True}})
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:parley:problem:too-little-feedback")
    assert refused.json()["detail"] == "Three more."
    assert client.get("/training").json() == {"jobs": []}
    assert list((folder / "registry" / ".jobs").iterdir()) == []
    assert run(client)["state"] == "succeeded"


def test_a_registry_that_cannot_be_written_is_said_at_once(client: httpx.Client, folder: Path) -> None:
    (folder / "registry").write_text("no folder")
    refused = client.post("/training", json={})
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:parley:problem:training-unavailable")
    assert "cannot be written" in refused.json()["detail"]
    assert str(folder) not in refused.text


def test_a_cancelled_job_ends_at_once_and_leaves_nothing_but_its_record(
    client: httpx.Client, folder: Path
) -> None:
    job = begin(client, waits=True)
    wait_until(lambda: state(client, job)["stage"] == "training")
    running = processes()
    assert len(running) == 1
    cancelled = client.delete(f"/training/{job['id']}").raise_for_status().json()
    assert (cancelled["state"], cancelled["error"], cancelled["version"]) == ("cancelled", None, None)
    assert all_ended(running)
    assert [path.name for path in (folder / "registry" / ".jobs").iterdir()] == [f"{job['id']}.json"]
    assert client.delete(f"/training/{job['id']}").json() == cancelled


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ({"fault": "too little of it"}, "too little of it"),
        ({"crashes": True}, "Its process ended with status 3: out of luck"),
        ({"kills_itself": True}, "Its process was killed by signal 9; it may have run out of memory."),
        ({"model": ""}, "there is no such version"),
    ],
)
def test_a_failed_job_says_why(client: httpx.Client, told: dict[str, Any], error: str) -> None:
    job = run(client, **told)
    assert (job["state"], job["activated"]) == ("failed", False)
    assert error in job["error"]
    assert client.get("/models").json()["serving"] == "base"
    assert run(client)["state"] == "succeeded"


def test_a_process_that_cannot_be_understood_fails_the_job(start: Start) -> None:
    client = start("this")  # prints lines that are no JSON, and knows no --job
    job = run(client)
    assert job["state"] == "failed"
    assert job["error"].startswith("Its process could not be heard")


def test_a_version_that_cannot_serve_is_kept_and_the_old_one_serves_on(
    client: httpx.Client, folder: Path
) -> None:
    (folder / "broken").mkdir()
    (folder / "broken" / "model.safetensors").write_text("broken")
    job = run(client, promoted=True, model=str(folder / "broken"))
    assert (job["state"], job["version"], job["activated"]) == ("succeeded", job["id"], False)
    assert "it is broken" in job["error"]
    assert client.get("/models").json()["serving"] == "base"


def test_jobs_are_remembered_and_one_cut_off_by_the_end_of_the_service_is_called_so(start: Start) -> None:
    first = start()
    done = run(first)
    job = begin(first, waits=True)
    wait_until(lambda: state(first, job)["stage"] == "training")
    running = processes()
    again = start()  # as after kill -9: the record says that it runs
    listed = again.get("/training").json()["jobs"]
    assert [(one["id"], one["state"]) for one in listed] == [
        (job["id"], "interrupted"),
        (done["id"], "succeeded"),
    ]
    assert "Start another one" in listed[0]["error"]
    assert run(again)["state"] == "succeeded"
    assert len(running) == 1


def test_the_end_of_the_service_ends_its_job(folder: Path) -> None:
    with serving(create_app(folder)) as url, httpx.Client(base_url=url, timeout=30) as client:
        wait_until(lambda: client.get("/models").json()["serving"])
        job = begin(client, waits=True)
        wait_until(lambda: state(client, job)["stage"] == "training")
        running = processes()
    assert all_ended(running)
    with serving(create_app(folder)) as url:
        (listed,) = httpx.get(f"{url}/training").json()["jobs"]
    assert listed["state"] == "interrupted"


def test_kill_9_of_the_service_ends_its_job(tmp_path: Path) -> None:
    jobs.write(tmp_path, "v", waits=True)
    # In the service's place: it starts the process as the service does, and is killed.
    starts = (
        "import subprocess, sys, time;"
        f"subprocess.Popen([sys.executable, '-m', 'tests.jobs', '--job', {str(tmp_path)!r}],"
        " stdin=subprocess.PIPE); time.sleep(60)"
    )
    service = subprocess.Popen([sys.executable, "-c", starts], cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    wait_until(lambda: psutil.Process(service.pid).children())
    running = psutil.Process(service.pid).children()
    time.sleep(0.5)  # until it listens for the service's end
    service.send_signal(signal.SIGKILL)
    service.wait()
    wait_until(lambda: all_ended(running))


def test_what_is_not_there_is_said(client: httpx.Client) -> None:
    for method in ("GET", "DELETE"):
        answer = client.request(method, "/training/20270114-093000")
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:parley:problem:not-found")


def test_records_are_not_kept_for_ever(client: httpx.Client, start: Start, folder: Path) -> None:
    record = run(client)
    kept = folder / "registry" / ".jobs"
    text = (kept / f"{record['id']}.json").read_text()
    for number in range(MAX_JOBS + 5):
        name = f"20200101-{number:06}"
        (kept / f"{name}.json").write_text(text.replace(record["id"], name))
    (kept / "20190101-000000.json").write_text("{")
    again = start()
    newest = run(again)
    assert len(list(kept.glob("*.json"))) == MAX_JOBS
    assert again.get("/training").json()["jobs"][0]["id"] == newest["id"]
