"""POST /training of the dialogue service: votes in, a judged version out, made by a real process."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.registry import Registry
from tests.dialogue_service.conftest import Start
from tests.servers import wait_until

JOB_S = 120.0


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
def client(start: Start, registry: Path) -> httpx.Client:
    return start(DIALOGUE_REGISTRY=registry)


def vote(
    client: httpx.Client, count: int, replies: Sequence[str] = ("yes, please do",), up: bool = True
) -> None:
    """Votes of the free form, each on another message."""
    feedback = "positive" if up else "negative"
    for number in range(count):
        said = {"input": f"number {number} {up}", "response": replies[number % len(replies)]}
        client.post("/feedback", json=said | {"feedback": feedback}).raise_for_status()


def end(client: httpx.Client, job: str) -> dict[str, Any]:
    wait_until(lambda: client.get(f"/training/{job}").json()["ended"], JOB_S)
    ended: dict[str, Any] = client.get(f"/training/{job}").json()
    return ended


def problem(answer: httpx.Response, status: int, name: str) -> str:
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:parley:problem:{name}")
    return str(answer.json()["detail"])


def test_votes_become_a_version_that_serves_and_can_be_taken_back(
    client: httpx.Client, registry: Path
) -> None:
    vote(client, 70)
    begun = client.post("/training", json={"method": "sft", "activate": True})
    assert begun.status_code == 202
    name = begun.json()["id"]
    assert begun.headers["Location"] == f"/training/{name}"
    job = end(client, name)
    assert (job["error"], job["state"], job["activated"]) == (None, "succeeded", True)
    assert client.post("/chat", json={"message": "hi"}).json()["model"] == name

    version = Registry(registry).folder(name)  # raises if its checksums are wrong
    card = json.loads((version / "card.json").read_text())["promotion"]
    assert (card["against"], card["promoted"], card["verdict"]) == ("tiny", job["promoted"], job["verdict"])
    assert card["rule"].startswith("Promoted if perplexity of approved replies is lower by over")
    assert card["measures"] == job["scores"]
    assert set(card["measures"]) >= {
        "perplexity of small talk",
        "distinct-1",
        "distinct-2",
        "repetition",
        "empty",
    }
    for text in (card["rule"], job["verdict"]):
        assert text in (version / "README.md").read_text()
    assert "number 1" not in (version / "report.html").read_text()  # what people said stays out of it
    (_, listed) = client.get("/models").json()["versions"]
    assert (listed["parent"], listed["scores"]["promotion"]["promoted"]) == ("tiny", job["promoted"])

    assert client.post("/models/rollback").json()["active"] == "configured"
    assert client.post("/chat", json={"message": "hi"}).json()["model"] == "tiny"


def test_what_is_missing_is_said(client: httpx.Client) -> None:
    for method in ("sft", "kto"):
        detail = problem(client.post("/training", json={"method": method}), 409, "too-little-feedback")
        assert detail.startswith("There are no votes yet.")
    vote(client, 25)
    detail = problem(client.post("/training", json={"method": "kto"}), 409, "too-little-feedback")
    assert "5 more down" in detail
    vote(client, 8, up=False)  # too few for both sides of the split, whichever votes are held out
    detail = problem(client.post("/training", json={"method": "kto"}), 409, "too-little-feedback")
    assert "more down" in detail
    assert client.get("/training").json() == {"jobs": []}


@pytest.mark.parametrize(
    "body",
    [{"method": "ppo"}, {"activate": "perhaps"}, {"model": "some/other"}, {"data": "/etc/passwd"}, []],
)
def test_a_caller_chooses_nothing_else(client: httpx.Client, body: Any) -> None:
    problem(client.post("/training", json=body), 422, "invalid-body")


def test_without_a_model_there_is_nothing_to_begin_with(start: Start, registry: Path) -> None:
    client = start(ready=False, DIALOGUE_MODEL="", DIALOGUE_REGISTRY=registry)
    problem(client.post("/training", json={}), 503, "model-not-ready")


def test_every_error_is_documented(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    start = paths["/training"]["post"]["responses"]
    assert set(start) == {"202", "400", "401", "403", "408", "409", "413", "415", "422", "503"}
    assert "Location" in start["202"]["headers"]
    conflicts = start["409"]["content"]["application/problem+json"]["examples"]
    assert set(conflicts) == {"training-running", "too-little-feedback", "training-unavailable"}
    away = start["503"]["content"]["application/problem+json"]["examples"]
    assert set(away) == {"memory-unavailable", "model-not-ready"}
    assert set(paths["/training/{job}"]["delete"]["responses"]) >= {"200", "401", "404"}


def test_with_a_key_training_needs_it(start: Start, registry: Path) -> None:
    client = start(DIALOGUE_REGISTRY=registry, API_KEY="secret")
    for method, path in (("GET", ""), ("POST", ""), ("GET", "/x"), ("DELETE", "/x")):
        problem(client.request(method, f"/training{path}"), 401, "unauthorized")
