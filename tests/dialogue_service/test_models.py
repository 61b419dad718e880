"""Versions of the model that talks, over real HTTP: swapped under load, refused, kept over a restart."""

from pathlib import Path

import httpx
import pytest

from shared import versions
from tests.dialogue_service.conftest import Start
from tests.servers import wait_until
from tests.versions import HOSTILE_PATHS, save, swap_under_load


@pytest.fixture
def registry(tmp_path: Path, tiny_model: Path) -> Path:
    for seed, name in enumerate(("v1", "v2")):
        save(tmp_path / "registry", name, tiny_model, noise=0.02, seed=seed)
    return tmp_path / "registry"


@pytest.fixture
def client(start: Start, registry: Path) -> httpx.Client:
    return start(DIALOGUE_REGISTRY=registry, DIALOGUE_QUEUE=100)


def test_replies_name_the_version_that_made_them(client: httpx.Client) -> None:
    assert client.post("/generate", json={"input": "hi"}).json()["model"] == "tiny"
    assert client.post("/models/v1/activate").json()["serving"] == "v1"
    assert client.post("/generate", json={"input": "hi"}).json()["model"] == "v1"
    assert client.post("/chat", json={"message": "hi"}).json()["model"] == "v1"
    assert client.post("/models/rollback").json()["serving"] == "tiny"
    assert client.post("/chat", json={"message": "hi"}).json()["model"] == "tiny"
    models = [exchange["model"] for exchange in client.get("/memory").json()["exchanges"]]
    assert models == ["v1", "tiny"]


def test_swapping_under_load_loses_no_turn(client: httpx.Client) -> None:
    def ask(caller: int) -> httpx.Response:
        said = {"message": "how are you?", "conversation": f"caller-{caller}"}
        return client.post("/chat", json=said)

    got = swap_under_load(client, ask, ["v1", "v2", "configured", "v2"])
    assert {answer["model"] for answer in got} == {"tiny", "v1", "v2"}
    for caller in range(6):
        stored = client.get("/memory", params={"conversation": f"caller-{caller}", "limit": 200}).json()
        mine = [answer["id"] for answer in got if answer["conversation"] == f"caller-{caller}"]
        assert [exchange["id"] for exchange in stored["exchanges"]] == mine[-200:]


def test_no_name_leads_anywhere_else(client: httpx.Client) -> None:
    for name in HOSTILE_PATHS:
        answer = client.post(f"/models/{name}/activate")
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:parley:problem:not-found"), name


def test_a_corrupt_version_is_refused_and_the_old_one_talks_on(client: httpx.Client, registry: Path) -> None:
    client.post("/models/v1/activate").raise_for_status()
    weights = registry / "v2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    answer = client.post("/models/v2/activate")
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:parley:problem:version-unusable")
    assert "not as it was saved" in answer.json()["detail"]
    assert client.post("/chat", json={"message": "hi"}).json()["model"] == "v1"
    assert client.get("/health/ready").json()["model"]["failed"]["name"] == "v2"


def test_what_takes_longer_than_a_caller_should_wait_is_answered_before_it_is_done(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "_ANSWER_S", 0.0)
    answer = client.post("/models/v1/activate")
    assert (answer.status_code, answer.json()["active"]) == (202, "configured")
    wait_until(lambda: client.get("/models").json()["serving"] == "v1")
    wait_until(lambda: client.get("/models").json()["active"] == "v1")


def test_the_active_version_talks_after_a_restart_and_the_stand_in_before_it(
    client: httpx.Client, start: Start, registry: Path, tiny_model: Path
) -> None:
    client.post("/models/v2/activate").raise_for_status()
    again = start(DIALOGUE_REGISTRY=registry, DIALOGUE_STANDIN=tiny_model)
    models: list[str] = []
    while not models or models[-1] != "v2":
        models.append(again.post("/chat", json={"message": "hi"}).raise_for_status().json()["model"])
    assert set(models) <= {"tiny", "v2"}


def test_without_a_model_of_its_own_the_stand_in_is_the_configured_one(
    start: Start, registry: Path, tiny_model: Path
) -> None:
    client = start(DIALOGUE_MODEL="", DIALOGUE_STANDIN=tiny_model, DIALOGUE_REGISTRY=registry)
    own = client.get("/models").json()["versions"][0]
    assert (own["version"], own["model"], own["active"]) == ("configured", "tiny", True)
    client.post("/models/v1/activate").raise_for_status()
    assert client.post("/models/rollback").json()["serving"] == "tiny"
