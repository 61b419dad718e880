"""Votes on replies, over HTTP and in Redis."""

import json

import httpx
import pytest

CONTEXT_EXCHANGES = 10


def say(client: httpx.Client, message: str, conversation: str = "default") -> str:
    answer = client.post("/chat", json={"message": message, "conversation": conversation})
    return str(answer.raise_for_status().json()["id"])


def export(client: httpx.Client) -> list[dict[str, object]]:
    return [json.loads(line) for line in client.get("/feedback/export").raise_for_status().text.splitlines()]


def test_a_vote_is_seen_in_the_memory_changed_and_taken_back(client: httpx.Client) -> None:
    exchange_id = say(client, "hello")
    vote = {"exchange_id": exchange_id, "rating": "positive", "comment": "nice"}
    first = client.post("/feedback", json=vote).raise_for_status().json()
    assert (first["id"], first["rating"], first["comment"]) == (exchange_id, "positive", "nice")
    assert client.get("/memory").json()["exchanges"][0]["feedback"] == first

    client.post("/feedback", json={"exchange_id": exchange_id, "rating": "negative"}).raise_for_status()
    second = client.get(f"/feedback/{exchange_id}").json()
    assert (second["rating"], second["comment"]) == ("negative", None)
    assert len(export(client)) == 1

    assert client.delete(f"/feedback/{exchange_id}").status_code == 204
    assert client.get("/memory").json()["exchanges"][0]["feedback"] is None
    for answer in (client.get(f"/feedback/{exchange_id}"), client.delete(f"/feedback/{exchange_id}")):
        assert answer.status_code == 404


def test_a_vote_on_what_does_not_exist_is_refused_and_not_kept(client: httpx.Client) -> None:
    answer = client.post("/feedback", json={"exchange_id": "1795334400000-1", "rating": "positive"})
    assert answer.status_code == 404
    assert export(client) == []


@pytest.mark.parametrize(
    ("said", "rating", "comment"),
    [("positive", "positive", None), ("negative", "negative", None), ("too long", None, "too long")],
)
def test_the_free_form_needs_no_exchange(
    client: httpx.Client, said: str, rating: str | None, comment: str | None
) -> None:
    vote = {"input": "What can you do?", "response": "Chat.", "feedback": said}
    stored = client.post("/feedback", json=vote).raise_for_status().json()
    (line,) = export(client)
    assert (line["id"], line["rating"], line["comment"]) == (stored["id"], rating, comment)
    assert line["turns"] == ["What can you do?", "Chat."]
    assert client.get(f"/feedback/{stored['id']}").json() == stored


def test_the_export_holds_the_turns_the_vote_is_about(client: httpx.Client) -> None:
    ids = [say(client, f"message {n}") for n in range(CONTEXT_EXCHANGES + 3)]
    for voted in (ids[-1], ids[1]):
        client.post("/feedback", json={"exchange_id": voted, "rating": "negative", "better_reply": "Better."})
    early, late = export(client)
    assert [early["id"], late["id"]] == [ids[1], ids[-1]]
    assert isinstance(early["turns"], list)
    assert isinstance(late["turns"], list)
    assert early["turns"][::2] == ["message 0", "message 1"]
    assert late["turns"][::2] == [f"message {n}" for n in range(2, CONTEXT_EXCHANGES + 3)]
    memory = client.get("/memory").json()["exchanges"]
    assert late["turns"][-1] == memory[-1]["reply"]
    assert (late["better_reply"], late["model"]) == ("Better.", "tiny")


def test_forgetting_a_conversation_takes_its_votes_but_no_others(client: httpx.Client) -> None:
    for conversation in ("default", "other"):
        exchange_id = say(client, "hello", conversation)
        client.post("/feedback", json={"exchange_id": exchange_id, "rating": "positive"}).raise_for_status()
    client.post("/feedback", json={"input": "a", "response": "b", "feedback": "positive"}).raise_for_status()
    assert client.delete("/memory").json() == {"forgotten": 1, "feedback_forgotten": 1}
    assert len(export(client)) == 2


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"exchange_id": "x", "rating": "positive"}, ["/exchange_id"]),
        ({"exchange_id": "01-1", "rating": "positive"}, ["/exchange_id"]),
        ({"exchange_id": "1-1", "rating": "meh"}, ["/rating"]),
        ({"input": "a", "response": "b"}, ["/feedback"]),
        ({"input": "a", "response": "b", "feedback": "positive", "rating": "positive"}, ["/rating"]),
        ({}, ["/exchange_id", "/rating"]),
        ([], [""]),
    ],
)
def test_a_wrong_vote_is_told_where_it_is_wrong(
    client: httpx.Client, body: object, pointers: list[str]
) -> None:
    answer = client.post("/feedback", json=body)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == pointers
    assert export(client) == []
