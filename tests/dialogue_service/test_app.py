"""The dialogue service from outside: which model answers, bad input, the key."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from huggingface_hub import constants
from redis import Redis

from tests.dialogue_service.conftest import Start, service
from tests.servers import RedisServer, wait_until

JSON = {"Content-Type": "application/json"}

BAD_BODIES = {
    "not JSON": (b"{", 400),
    "not UTF-8": (b'{"message": "\xff"}', 400),
    "nested too deeply": (b'{"message": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", 400),
    "no body": (b"", 422),
    "a list": (b"[]", 422),
    "no message": (b"{}", 422),
    "a number": (b'{"message": 7}', 422),
    "null": (b'{"message": null}', 422),
    "empty": (b'{"message": ""}', 422),
    "blank": (b'{"message": " \\n\\t "}', 422),
    "a control character": (b'{"message": "a\\u0000b"}', 422),
    "an escape": (b'{"message": "\\u001b[31m"}', 422),
    "a lone surrogate": (b'{"message": "\\ud800"}', 422),
    "an unknown field": (b'{"message": "hi", "mesage": "hi"}', 422),
    "a bad conversation name": (b'{"message": "hi", "conversation": "../x y"}', 422),
    "a negative seed": (b'{"message": "hi", "seed": -1}', 422),
    "a seed that not every program reads exactly": (b'{"message": "hi", "seed": 9007199254740992}', 422),
    "a seed in words": (b'{"message": "hi", "seed": "7"}', 422),
    "half a seed": (b'{"message": "hi", "seed": 0.5}', 422),
    "an endless seed": (b'{"message": "hi", "seed": 1e999}', 422),
    "a seed of thousands of digits": (b'{"message": "hi", "seed": ' + b"9" * 50_000 + b"}", 400),
    "no number": (b'{"message": "hi", "seed": NaN}', 422),
    "infinity": (b'{"message": -Infinity}', 422),
    "objects in objects": (b'{"message":' * 5000, 400),
    "a surrogate in bytes": (b'{"message": "\xed\xa0\x80"}', 422),
    "more than one": (b'{"message": "hi"}{"message": "hi"}', 400),
    "a truth for a seed": (b'{"message": "hi", "seed": true}', 422),
    "a long message": (b'{"message": "' + b"a" * 4001 + b'"}', 413),
    "a megabyte": (b'{"message": "' + b"a" * 2**20 + b'"}', 413),
}
NEED_MORE_IN_FEEDBACK = {"an unknown field", "a bad conversation name", "a long message"}


@pytest.fixture(scope="module")
def shared_client(redis_server: RedisServer, tiny_model: Path) -> Iterator[httpx.Client]:
    """One service for all bad bodies."""
    with service(REDIS_URL=redis_server.url, DIALOGUE_MODEL=tiny_model) as client:
        yield client


@pytest.mark.parametrize("case", BAD_BODIES)
@pytest.mark.parametrize("path", ["/chat", "/chat/stream", "/generate", "/feedback"])
def test_bad_input_is_a_problem_and_nothing_is_stored(
    shared_client: httpx.Client, redis_url: str, case: str, path: str
) -> None:
    body, status = BAD_BODIES[case]
    if not path.startswith("/chat"):
        body = body.replace(b'"message"', b'"input"')
    if path == "/feedback" and case in NEED_MORE_IN_FEEDBACK:
        body = body[:-1] + b', "response": "b", "feedback": "positive"}'
    answer = shared_client.post(path, content=body, headers=JSON)
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["status"] == status
    with Redis.from_url(redis_url) as redis:
        assert redis.dbsize() == 0


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_a_body_in_another_form_is_told_which_one_is_wanted(shared_client: httpx.Client, kind: str) -> None:
    for path in ("/chat", "/chat/stream", "/generate", "/feedback"):
        headers = {"Content-Type": kind} if kind else {}
        answer = shared_client.post(path, content=b'{"message": "hi"}', headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (415, "urn:parley:problem:unsupported-media")


def test_of_equal_keys_the_last_counts_and_whole_numbers_are_whole(client: httpx.Client) -> None:
    def say(body: bytes) -> str:
        said = client.post("/chat", content=body, headers=JSON | {"Idempotency-Key": "k"})
        return str(said.raise_for_status().json()["id"])

    first = say(b'{"message": "a", "message": "b", "seed": 7.0}')
    assert say(b'{"message": "b", "seed": 7}') == first
    assert [exchange["message"] for exchange in client.get("/memory").json()["exchanges"]] == ["b"]


def test_the_methods_of_a_path_are_its_own(client: httpx.Client) -> None:
    for method in ("DELETE", "OPTIONS", "PUT"):
        answer = client.request(method, "/feedback/export")
        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")
    assert client.request("PUT", "/feedback/1-1").headers["Allow"] == "DELETE, GET"


@pytest.mark.parametrize(
    ("path", "pointer"),
    [
        ("/memory?limit=0", "limit"),
        ("/memory?before=0-0", "before"),
        ("/memory?before=01795334400000-1", "before"),
        ("/memory?conversation=" + "a" * 101, "conversation"),
        ("/feedback/1795334400000-01", "exchange_id"),
        ("/memory?limit=x", "limit"),
        ("/memory?before=yesterday", "before"),
        ("/memory?conversation=a%20b", "conversation"),
        ("/feedback/1", "exchange_id"),
    ],
)
def test_a_bad_parameter_is_named(client: httpx.Client, path: str, pointer: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


def test_a_typed_end_of_text_is_remembered_as_typed(client: httpx.Client) -> None:
    message = "before<|endoftext|>after"
    client.post("/chat", json={"message": message}).raise_for_status()
    assert client.get("/memory").json()["exchanges"][0]["message"] == message


def test_message_texts_stay_out_of_the_log(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    reply = client.post("/chat", json={"message": "swordfish"}).json()["reply"]
    client.post("/chat", json={"message": ["swordfish"]})
    mine = [
        r.getMessage() + str(r.__dict__.get("fields")) for r in caplog.records if r.name != "httpcore.http11"
    ]
    assert mine
    assert not any("swordfish" in line or reply in line for line in mine)


def test_the_page_is_served(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["Content-Type"].startswith("text/html")
    assert "<title>Parley</title>" in page.text
    # Else a browser would go on showing it after a key was set.
    assert page.headers["Cache-Control"] == "no-store"


def test_with_a_key_only_health_is_open(start: Start) -> None:
    client = start(API_KEY="sesame")
    assert client.get("/memory").status_code == 401
    assert client.post("/chat", json={"message": "hi"}).status_code == 401
    answer = client.post("/chat", json={"message": "hi"}, headers={"Authorization": "Bearer sesame"})
    assert answer.status_code == 200
    assert client.get("/health/ready").status_code == 200


def test_the_stand_in_answers_while_the_hub_is_out_of_reach(
    start: Start, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = start(DIALOGUE_STANDIN=tiny_model, DIALOGUE_MODEL="microsoft/DialoGPT-medium")
    wait_until(lambda: client.get("/health/ready").json()["model"]["failed"])
    body = client.get("/health/ready").raise_for_status().json()
    assert body["model"]["serving"] == "tiny"
    assert body["model"]["failed"]["name"] == "microsoft/DialoGPT-medium"
    assert "cannot be reached" in body["model"]["failed"]["reason"]
    assert "local folder" in body["model"]["failed"]["advice"]
    assert body["model"]["failed"]["retry_in_s"] > 0
    assert client.post("/chat", json={"message": "hi"}).json()["model"] == "tiny"
    told = [r for r in caplog.records if r.levelname == "WARNING" and "DialoGPT-medium" in r.getMessage()]
    assert len(told) == 1


def test_the_main_model_takes_over_from_the_stand_in(start: Start, tiny_model: Path, tmp_path: Path) -> None:
    main_model = shutil.copytree(tiny_model, tmp_path / "main")
    client = start(DIALOGUE_STANDIN=tiny_model, DIALOGUE_MODEL=main_model)
    models: list[str] = []
    while not models or models[-1] != "main":
        models.append(client.post("/chat", json={"message": "hi"}).raise_for_status().json()["model"])
    assert set(models) <= {"tiny", "main"}
    assert client.get("/info").json()["model"] == "main"


def test_a_pinned_revision_serves(
    start: Start, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, commit = tmp_path / "models--nobody--talker", "c0ffee" * 6 + "c0ff"
    shutil.copytree(tiny_model, stored / "snapshots" / commit)
    (stored / "refs").mkdir()
    (stored / "refs" / "v2").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    client = start(DIALOGUE_MODEL="nobody/talker", DIALOGUE_REVISION="v2")
    assert client.get("/info").json()["model"] == "nobody/talker"
