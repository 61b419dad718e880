"""The service's own routes over real HTTP, with the bundled model."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from intent_service import catalog
from shared.contracts import IntentAnswer, IntentBatchAnswer
from tests.intent_service.conftest import Start
from tests.servers import wait_until


def problem(answer: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["type"], body["status"]) == (f"urn:parley:problem:{slug}", status)
    return body


def test_a_message_is_classified_among_the_catalogue(client: httpx.Client) -> None:
    answer = client.post("/intent", json={"text": "Hi, how are you?"})
    assert answer.status_code == 200
    intent = IntentAnswer.model_validate(answer.json())
    assert intent.label == intent.ranking[0].label == "how_are_you"
    assert intent.score == intent.ranking[0].score
    assert {ranked.label for ranked in intent.ranking} == {
        i.label for i in catalog.load(catalog.SHIPPED).intents
    }
    assert intent.model == "sentence-transformers/all-MiniLM-L6-v2"
    assert intent.reply is None


def test_labels_take_the_catalogues_place_for_one_call(client: httpx.Client) -> None:
    labels = ["greeting", "order_pizza", "complaint, loud"]
    answer = client.post("/intent", json={"text": "I want to order a pizza", "labels": labels}).json()
    assert answer["label"] == "order_pizza"
    assert {ranked["label"] for ranked in answer["ranking"]} == set(labels)
    assert len(client.post("/intent", json={"text": "hi"}).json()["ranking"]) > len(labels)


def test_what_fits_nothing_is_unknown(client: httpx.Client) -> None:
    answer = client.post("/intent", json={"text": "define photosynthesis"}).json()
    assert answer["label"] == "unknown"
    assert answer["ranking"][0]["label"] != "unknown"


def test_a_fixed_reply_is_given(client: httpx.Client) -> None:
    answer = client.post("/intent", json={"text": "I want to kill myself tonight"}).json()
    assert answer["label"] == "self_harm"
    assert "emergency" in answer["reply"]
    assert "DELETE /memory" in client.post("/intent", json={"text": "please erase our chat"}).json()["reply"]


def test_the_same_message_gets_the_same_one_of_several_replies(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("intents:\n  - label: greeting\n    replies: [Hi, Hey, Hello]\n", encoding="utf-8")
    client = start(INTENT_CATALOG=file)
    texts = [f"greeting{'!' * i}" for i in range(1, 12)]
    first, second = (
        [client.post("/intent", json={"text": text}).json()["reply"] for text in texts] for _ in range(2)
    )
    assert first == second
    assert set(first) == {"Hi", "Hey", "Hello"}
    assert client.post("/intent", json={"text": "hi", "labels": ["greeting"]}).json()["reply"] is None


def test_the_catalogue_in_force_is_shown(client: httpx.Client) -> None:
    shown = client.get("/catalog").json()
    assert shown == catalog.load(catalog.SHIPPED).model_dump(mode="json")


@pytest.mark.parametrize(
    "text", ["[SEP]", "[CLS] [PAD] hello", "<|endoftext|>", "ünïcödé", "🙂", "a\nb\tc", "x" * 4000, "'; DROP"]
)
def test_any_text_is_classified(client: httpx.Client, text: str) -> None:
    assert client.post("/intent", json={"text": text}).status_code == 200


@pytest.mark.parametrize(
    ("content", "pointer"),
    [
        (b"{}", "/text"),
        (b'{"text": 1}', "/text"),
        (b'{"text": null}', "/text"),
        (b'{"text": ""}', "/text"),
        (b'{"text": "  "}', "/text"),
        (b'{"text": "a\\u0000b"}', "/text"),
        (b'{"text": "a\\u001bb"}', "/text"),
        (b'{"text": "a\\ud800b"}', "/text"),
        (b'{"text": "a", "more": 1}', "/more"),
        (b'{"text": "a", "labels": []}', "/labels"),
        (b'{"text": "a", "labels": "b,c"}', "/labels"),
        (b'{"text": "a", "labels": ["b", 1]}', "/labels/1"),
        (b'{"text": "a", "labels": ["b", "\\ud800"]}', "/labels/1"),
        (b'{"text": "a", "labels": ["b", "unknown"]}', "/labels/1"),
        (b'{"text": "a", "labels": ["b_c", "d", "b c"]}', "/labels/2"),
        (b'{"text": "a", "labels": [' + b",".join(b'"l%d"' % i for i in range(101)) + b"]}", "/labels"),
        (b"[]", ""),
        (b"", ""),
        (b'"text"', ""),
    ],
)
def test_a_wrong_shape_is_refused(client: httpx.Client, content: bytes, pointer: str) -> None:
    answer = client.post("/intent", content=content, headers={"Content-Type": "application/json"})
    assert pointer in [error["pointer"] for error in problem(answer, 422, "invalid-body")["errors"]]


@pytest.mark.parametrize("content", [b"hello", b'{"text": "a"', b'{"text": "\xff"}', b'{"text": "a\x00"}'])
def test_what_is_not_json_is_refused(client: httpx.Client, content: bytes) -> None:
    answer = client.post("/intent", content=content, headers={"Content-Type": "application/json"})
    problem(answer, 400, "malformed-body")


@pytest.mark.parametrize(
    "body", [{"text": "x" * 4001}, {"text": "a", "labels": ["x" * 101]}, {"text": "x" * 10**6}]
)
def test_too_much_is_refused(client: httpx.Client, body: dict[str, object]) -> None:
    problem(client.post("/intent", json=body), 413, "content-too-large")


def test_what_takes_too_long_is_given_up(start: Start, tiny_encoder: Path) -> None:
    client = start(INTENT_MODEL=tiny_encoder, INTENT_DEADLINE="0.000001")
    problem(client.post("/intent", json={"text": "hi"}), 504, "deadline-exceeded")


def test_a_full_queue_refuses_at_once(start: Start) -> None:
    client = start(INTENT_QUEUE=1)

    def ask(number: int) -> httpx.Response:
        labels = [f"{number} of {i}" for i in range(100)]
        return client.post("/intent", json={"text": "hi", "labels": labels})

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(12)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 0 < len(refused) < len(answers)
    for answer in refused:
        problem(answer, 429, "overloaded")
        assert int(answer.headers["Retry-After"]) >= 1


def test_the_time_of_inference_is_measured(client: httpx.Client) -> None:
    client.post("/intent", json={"text": "hi"})
    name = "sentence-transformers/all-MiniLM-L6-v2"
    assert f'model_inference_seconds_count{{model="{name}",service="intent"}}' in client.get("/metrics").text


TEXTS = ["Hi, how are you?", "tell me a joke", "define photosynthesis", "Hi, how are you?"]


def test_many_messages_get_what_each_would_get_alone(client: httpx.Client) -> None:
    alone = [client.post("/intent", json={"text": text}).json() for text in TEXTS]
    together = client.post("/intents/batch", json={"texts": TEXTS})
    assert together.status_code == 200
    results = IntentBatchAnswer.model_validate(together.json()).results
    assert [r.label for r in results] == ["how_are_you", "joke", "unknown", "how_are_you"]
    assert together.json() == {"results": alone}


def test_labels_hold_for_every_message_of_a_batch(client: httpx.Client) -> None:
    body = {"texts": ["I want to order a pizza", "hello"], "labels": ["greeting", "order_pizza"]}
    results = client.post("/intents/batch", json=body).json()["results"]
    assert [result["label"] for result in results] == ["order_pizza", "greeting"]


def test_a_batch_may_have_256_messages_and_no_more(start: Start, tiny_encoder: Path) -> None:
    client = start(INTENT_MODEL=tiny_encoder)
    assert client.get("/info").json()["limits"]["max_texts"] == 256
    texts = [f"hello {number}" for number in range(257)]
    assert len(client.post("/intents/batch", json={"texts": texts[:256]}).json()["results"]) == 256
    answer = client.post("/intents/batch", json={"texts": texts})
    assert [e["pointer"] for e in problem(answer, 422, "invalid-body")["errors"]] == ["/texts"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/texts"),
        ({"texts": []}, "/texts"),
        ({"texts": "hello"}, "/texts"),
        ({"texts": ["a", " "]}, "/texts/1"),
        ({"texts": ["a", "b\0"]}, "/texts/1"),
        ({"texts": ["a"], "text": "a"}, "/text"),
        ({"texts": ["a"], "labels": ["b", "unknown"]}, "/labels/1"),
    ],
)
def test_a_batch_of_a_wrong_shape_is_refused(client: httpx.Client, body: object, pointer: str) -> None:
    answer = client.post("/intents/batch", json=body)
    assert pointer in [error["pointer"] for error in problem(answer, 422, "invalid-body")["errors"]]


def test_a_text_of_a_batch_may_be_too_long(client: httpx.Client) -> None:
    answer = client.post("/intents/batch", json={"texts": ["a", "x" * 4001]})
    assert problem(answer, 413, "content-too-large")["errors"][0]["pointer"] == "/texts/1"


def _passes(client: httpx.Client) -> float:
    """How often this process has run the client's model."""
    model = client.get("/info").json()["model"]
    found = re.search(
        rf'^model_inference_seconds_count{{model="{model}",service="intent"}} (\S+)$',
        client.get("/metrics").text,
        re.MULTILINE,
    )
    return float(found[1]) if found else 0.0


def test_concurrent_callers_share_passes(start: Start, tiny_encoder: Path) -> None:
    client = start(INTENT_MODEL=tiny_encoder, INTENT_QUEUE=1000)
    before = _passes(client)
    texts = [[f"{caller} asks {number}" for number in range(100)] for caller in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda t: client.post("/intents/batch", json={"texts": t}), texts))
    assert all(answer.status_code == 200 for answer in answers)
    passes = _passes(client) - before
    assert 800 / 32 <= passes < 800 / 8

    client.post("/intents/batch", json={"texts": texts[0]})
    assert _passes(client) - before == passes, "what was asked before was computed again"


def test_who_hangs_up_is_not_computed_for_any_more(client: httpx.Client) -> None:
    texts = [f"{number} " + "a rather long story of everything " * 6 for number in range(256)]
    before = _passes(client)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(client.base_url.join("/intents/batch"), json={"texts": texts}, timeout=0.2)
    left = 'route="/intents/batch",service="intent",status="499"'
    wait_until(lambda: left in client.get("/metrics").text)
    assert client.post("/intent", json={"text": "and who comes next?"}).status_code == 200
    assert _passes(client) - before < 256 / 32


@pytest.mark.parametrize("path", ["/intent", "/intents/batch"])
def test_every_error_is_documented(client: httpx.Client, path: str) -> None:
    documented = client.get("/openapi.json").json()["paths"][path]["post"]["responses"]
    assert set(documented) == {"200", "400", "401", "403", "408", "413", "415", "422", "429", "503", "504"}
    assert all(
        "application/problem+json" in documented[status]["content"] for status in set(documented) - {"200"}
    )
