"""Versions of the intent model over real HTTP: listed, activated, rolled back, refused."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from intent_service.training.__main__ import main
from tests.intent_service.conftest import Start
from tests.intent_service.test_api import problem
from tests.servers import wait_until
from tests.versions import HOSTILE_PATHS, change, save, swap_under_load

TEXTS = ["hello", "i am sad", "how is this weather", "this joke is happy"]


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
def client(start: Start, registry: Path, tiny_encoder: Path) -> httpx.Client:
    """A tiny encoder as configured model, and two versions with other weights."""
    for seed, name in enumerate(("v1", "v2")):
        save(registry, name, tiny_encoder, noise=0.5, seed=seed)
    return start(INTENT_MODEL=tiny_encoder, INTENT_REGISTRY=registry)


def classify(client: httpx.Client, text: str) -> dict[str, Any]:
    answer: dict[str, Any] = client.post("/intent", json={"text": text}).raise_for_status().json()
    return answer


def test_versions_are_listed_activated_and_rolled_back(client: httpx.Client) -> None:
    models = client.get("/models").json()
    assert [version["version"] for version in models["versions"]] == ["configured", "v2", "v1"]
    assert models["versions"][1]["parent"] == "tiny-encoder"
    assert models["versions"][1]["scores"] == {"accuracy": 0.5}
    assert (models["serving"], models["active"], models["previous"]) == ("tiny-encoder", "configured", None)

    answer = client.post("/models/v1/activate")
    assert answer.status_code == 200
    assert (answer.json()["serving"], answer.json()["active"]) == ("v1", "v1")
    assert classify(client, "hello")["model"] == "v1"
    assert client.get("/info").json()["model"] == "v1"
    assert client.get("/health/ready").json()["model"]["serving"] == "v1"

    answer = client.post("/models/rollback")
    assert answer.status_code == 200
    assert answer.json() == models
    assert classify(client, "hello")["model"] == "tiny-encoder"
    problem(client.post("/models/rollback"), 409, "nothing-to-roll-back")


def test_what_is_active_serves_after_a_restart(
    client: httpx.Client, start: Start, registry: Path, tiny_encoder: Path
) -> None:
    client.post("/models/v2/activate").raise_for_status()
    again = start(INTENT_MODEL=tiny_encoder, INTENT_REGISTRY=registry)
    assert classify(again, "hello")["model"] == "v2"


def test_a_broken_active_version_leaves_it_to_the_configured_model(
    client: httpx.Client, start: Start, registry: Path, tiny_encoder: Path
) -> None:
    client.post("/models/v2/activate").raise_for_status()
    (registry / "v2" / "config.json").write_text("{")
    again = start(INTENT_MODEL=tiny_encoder, INTENT_REGISTRY=registry)
    ready = again.get("/health/ready").json()
    assert (ready["status"], ready["model"]["serving"]) == ("ready", "tiny-encoder")
    assert ready["model"]["failed"]["name"] == "v2"
    assert "config.json is not as it was saved" in ready["model"]["failed"]["reason"]


def test_no_name_leads_anywhere_else(client: httpx.Client) -> None:
    for name in HOSTILE_PATHS:
        problem(client.post(f"/models/{name}/activate"), 404, "not-found")
    assert client.get("/models").json()["serving"] == "tiny-encoder"


def _not_a_number(folder: Path) -> None:
    change(folder, lambda weight: torch.full_like(weight, float("nan")))


def _cut_weights(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def _no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


@pytest.mark.parametrize("spoil", [_not_a_number, _cut_weights, _pickle, _no_tokenizer])
def test_a_version_that_cannot_answer_never_serves(
    client: httpx.Client, registry: Path, tiny_encoder: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    save(tmp_path / "elsewhere", "spoilt", tiny_encoder)
    spoil(tmp_path / "elsewhere" / "spoilt")
    (tmp_path / "elsewhere" / "spoilt" / "version.json").unlink()
    save(registry, "spoilt", tmp_path / "elsewhere" / "spoilt")  # with checksums that are right
    client.post("/models/v1/activate").raise_for_status()

    refused = problem(client.post("/models/spoilt/activate"), 422, "version-unusable")

    assert refused["detail"].startswith("spoilt: ")
    assert classify(client, "hello")["model"] == "v1"
    models = client.get("/models").json()
    assert (models["active"], models["failed"]["name"]) == ("v1", "spoilt")
    assert next(version for version in models["versions"] if version["version"] == "spoilt")["fault"]


def test_swapping_under_load_loses_no_request_and_no_answer_is_another_models(client: httpx.Client) -> None:
    own: dict[str, dict[str, Any]] = {}
    for version in ("v1", "v2", "configured"):
        client.post(f"/models/{version}/activate").raise_for_status()
        answers = [classify(client, text) for text in TEXTS]
        own[answers[0]["model"]] = dict(zip(TEXTS, answers, strict=True))
    assert len({str(answers["hello"]["ranking"]) for answers in own.values()}) == 3

    asked = [0] * 6

    def ask(caller: int) -> httpx.Response:
        asked[caller] += 1
        return client.post("/intent", json={"text": TEXTS[asked[caller] % len(TEXTS)]})

    got = swap_under_load(client, ask, ["v1", "v2", "configured", "v2", "v1"])
    assert {answer["model"] for answer in got} == set(own)
    for answer in got:
        assert any(alike(answer, known) for known in own[answer["model"]].values())


def alike(answer: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two answers are, but for roundings, which depend on what else was computed together."""
    scores, others = ({each["label"]: each["score"] for each in one["ranking"]} for one in (answer, other))
    return scores == pytest.approx(others, abs=1e-3)


def test_a_new_version_of_a_name_that_was_served_before_gives_its_own_answers(
    client: httpx.Client, registry: Path, tiny_encoder: Path
) -> None:
    client.post("/models/v1/activate").raise_for_status()
    before = classify(client, "hello")
    client.post("/models/rollback").raise_for_status()
    for file in sorted((registry / "v1").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (registry / "v1").rmdir()
    save(registry, "v1", tiny_encoder, noise=0.5, seed=9)
    client.post("/models/v1/activate").raise_for_status()
    after = classify(client, "hello")
    assert after["model"] == before["model"] == "v1"
    assert after["ranking"] != before["ranking"]


CATALOG = """
intents:
  - label: weather
    examples: [how is this weather, is this weather, you are weather]
  - label: joke
    examples: [this joke is how, are you joke, i am joke]
"""


def test_what_is_trained_becomes_a_version_that_the_printed_line_activates(
    start: Start,
    registry: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    catalog = tmp_path / "intents.yaml"
    catalog.write_text(CATALOG, encoding="utf-8")
    client = start(INTENT_MODEL=tiny_encoder, INTENT_REGISTRY=registry, INTENT_CATALOG=catalog)
    monkeypatch.setenv("INTENT_REGISTRY", str(registry))

    options = ["--catalog", str(catalog), "--encoder", str(tiny_encoder)]
    assert main([*options, "--name", "first"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == "curl -s -X POST http://127.0.0.1:8001/models/first/activate"
    (_, listed) = client.get("/models").json()["versions"]
    assert (listed["version"], listed["kind"], listed["parent"]) == ("first", "head", tiny_encoder.name)
    assert 0 <= listed["scores"]["accuracy"] <= 1
    assert (registry / "first" / "README.md").is_file()

    client.post(line.rpartition("8001")[2]).raise_for_status()
    assert classify(client, "are you joke")["ranking"][0]["label"] == "joke"
    assert classify(client, "are you joke")["model"] == "first"

    assert main([*options, "--name", "first"]) == 2
    assert "there is a version first already" in capsys.readouterr().err
    assert main([*options, "--name", "../first"]) == 2
    assert "no name for a version" in capsys.readouterr().err
    assert main(options) == 0  # named by date and time
    assert len(client.get("/models").json()["versions"]) == 3


def test_two_changes_at_once_are_not_mixed(client: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = [f"v{number % 2 + 1}" for number in range(8)]
        answers = list(pool.map(lambda name: client.post(f"/models/{name}/activate"), names))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert 200 in {answer.status_code for answer in answers}
    wait_until(lambda: not client.get("/models").json()["loading"])
    models = client.get("/models").json()
    assert models["serving"] == models["active"] == classify(client, "hello")["model"]


def test_every_error_is_documented(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths["/models"]["get"]["responses"]) == {"200", "401", "403"}
    activate = paths["/models/{version}/activate"]["post"]["responses"]
    assert set(activate) == {"200", "202", "401", "403", "404", "409", "422"}
    rollback = paths["/models/rollback"]["post"]["responses"]
    assert set(rollback) == {"200", "202", "401", "403", "409", "422"}
    examples = rollback["409"]["content"]["application/problem+json"]["examples"]
    assert set(examples) == {"nothing-to-roll-back", "swap-in-progress"}


def test_with_a_key_versions_need_it(start: Start, registry: Path, tiny_encoder: Path) -> None:
    save(registry, "v1", tiny_encoder)
    client = start(INTENT_MODEL=tiny_encoder, INTENT_REGISTRY=registry, API_KEY="secret")
    for method, path in (("GET", ""), ("POST", "/v1/activate"), ("POST", "/rollback")):
        problem(client.request(method, f"/models{path}"), 401, "unauthorized")
    assert client.get("/info", headers={"Authorization": "Bearer secret"}).json()["model"] == "tiny-encoder"
