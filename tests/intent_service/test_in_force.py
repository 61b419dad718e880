"""The catalogue is changed while requests go on: none fails, none is between two catalogues."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.intent_service.conftest import Start
from tests.servers import wait_until

OLD = ["joke", "weather"]
NEW = ["sad", "happy", "hello"]


def write(file: Path, labels: list[str], examples: int = 0) -> None:
    lines = ["intents:"]
    for label in labels:
        lines += [f"  - label: {label}", "    examples:"] if examples else [f"  - label: {label}"]
        lines += [f"      - {label} number {number} of many" for number in range(examples)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write(tmp_path / "mine.yaml", OLD)
    return tmp_path / "mine.yaml"


def labels(client: httpx.Client) -> list[str]:
    return [intent["label"] for intent in client.get("/catalog").json()["intents"]]


def test_a_changed_file_comes_into_force(start: Start, tiny_encoder: Path, file: Path) -> None:
    client = start(INTENT_MODEL=tiny_encoder, INTENT_CATALOG=file)
    assert client.post("/intent", json={"text": "hello"}).json()["ranking"][0]["label"] in OLD
    write(file, NEW)
    assert labels(client) == OLD
    answer = client.post("/catalog/reload")
    assert answer.status_code == 200
    assert [intent["label"] for intent in answer.json()["intents"]] == NEW == labels(client)
    ranking = client.post("/intent", json={"text": "hello"}).json()["ranking"]
    assert sorted(ranked["label"] for ranked in ranking) == sorted(NEW)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("intents:\n  - label: a\n  - label: a\n", ':3: "a" is there already'),
        ("intents:\n  - label: 'a\n", ":3: is not YAML"),
        ("", ":1: the file"),
        (None, ":1: cannot be read"),
    ],
)
def test_a_broken_file_is_refused_and_the_old_one_stays(
    start: Start, tiny_encoder: Path, file: Path, text: str | None, wrong: str
) -> None:
    client = start(INTENT_MODEL=tiny_encoder, INTENT_CATALOG=file)
    if text is None:
        file.unlink()
    else:
        file.write_text(text, encoding="utf-8")
    answer = client.post("/catalog/reload")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:parley:problem:catalog-invalid"
    assert f"{file}{wrong}" in answer.json()["detail"]
    assert "still is" in answer.json()["detail"]
    assert labels(client) == OLD
    assert client.post("/intent", json={"text": "hello"}).status_code == 200


def test_without_a_model_the_file_is_read_all_the_same(start: Start, tmp_path: Path, file: Path) -> None:
    (tmp_path / "no-model").mkdir()
    client = start(ready=False, INTENT_MODEL=tmp_path / "no-model", INTENT_CATALOG=file)
    write(file, NEW)
    assert client.post("/catalog/reload").status_code == 200
    assert labels(client) == NEW


def test_no_request_notices_but_by_the_answer(start: Start, minilm: Path, file: Path) -> None:
    client = start(INTENT_MODEL=minilm, INTENT_CATALOG=file, INTENT_QUEUE=100)
    seen: Counter[frozenset[str]] = Counter()
    refused: list[str] = []
    reloaded = threading.Event()

    def ask(caller: int) -> None:
        more = 10
        for number in range(100_000):
            answer = client.post("/intent", json={"text": f"{caller} {number}"})
            if answer.status_code != 200:
                refused.append(answer.text)
                return
            seen[frozenset(ranked["label"] for ranked in answer.json()["ranking"])] += 1
            more -= reloaded.is_set()
            if not more:
                return

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask, caller) for caller in range(8)]
        try:
            wait_until(lambda: seen)
            for labels_now in (NEW, OLD, NEW):
                write(file, labels_now, examples=60)
                assert client.post("/catalog/reload").status_code == 200
        finally:
            reloaded.set()
        for future in asking:
            future.result()
    assert refused == []
    assert set(seen) == {frozenset(OLD), frozenset(NEW)}


def test_every_error_is_documented(start: Start, tiny_encoder: Path) -> None:
    client = start(INTENT_MODEL=tiny_encoder)
    documented = client.get("/openapi.json").json()["paths"]["/catalog/reload"]["post"]["responses"]
    assert set(documented) == {"200", "401", "403", "422", "429", "504"}
    assert set(documented["422"]["content"]["application/problem+json"]["examples"]) == {"catalog-invalid"}
