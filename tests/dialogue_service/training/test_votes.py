"""Votes fetched from a real service and from a real Redis."""

import json

import httpx
import pytest

from dialogue_service.training import votes
from dialogue_service.training.data import DataError
from tests.dialogue_service.conftest import Start


def vote(client: httpx.Client, headers: dict[str, str] | None = None) -> bytes:
    said = client.post("/chat", json={"message": "hello"}, headers=headers).raise_for_status().json()
    body = {"exchange_id": said["id"], "rating": "positive"}
    client.post("/feedback", json=body, headers=headers).raise_for_status()
    return client.get("/feedback/export", headers=headers).raise_for_status().content


def test_the_service_and_its_redis_give_the_same_votes(client: httpx.Client, redis_url: str) -> None:
    exported = vote(client)
    assert votes.fetch(str(client.base_url)) == exported
    assert votes.fetch(redis_url) == exported
    assert json.loads(exported)["turns"][0] == "hello"


def test_a_key_opens_a_closed_service(start: Start) -> None:
    client = start(API_KEY="a-secret")
    exported = vote(client, {"Authorization": "Bearer a-secret"})
    assert votes.fetch(str(client.base_url), "a-secret") == exported
    with pytest.raises(DataError, match="401"):
        votes.fetch(str(client.base_url))


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "redis://:secret@127.0.0.1:9/0", "unix:///no/such/socket", "ftp://x"]
)
def test_a_parley_that_does_not_run_is_told_with_what_to_do(url: str) -> None:
    with pytest.raises(DataError, match="make run") as caught:
        votes.fetch(url)
    assert "--data feedback.jsonl" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_no_votes_yet_is_said(client: httpx.Client) -> None:
    with pytest.raises(DataError, match="no votes yet"):
        votes.fetch(str(client.base_url))
