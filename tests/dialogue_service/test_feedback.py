"""Votes on replies, over HTTP and in Redis."""

import json
from pathlib import Path

import httpx
import pytest

from dialogue_service.training.data import read_file

CONTEXT_EXCHANGES = 32


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


def test_the_same_vote_again_changes_nothing(client: httpx.Client) -> None:
    exchange_id = say(client, "hello")
    on_exchange = {
        "exchange_id": exchange_id,
        "rating": "negative",
        "comment": 'it said "at":"noon"',
        "better_reply": "Hi!",
        "correct_intent": "greeting",
    }
    free = {"input": "What can you do?", "response": "Chat.", "feedback": "positive"}
    for vote in (on_exchange, free):
        first, again = (client.post("/feedback", json=vote).raise_for_status().json() for _ in range(2))
        assert again == first
    changed = client.post("/feedback", json=on_exchange | {"comment": 'it said "at":"night"'}).json()
    assert changed["comment"] == 'it said "at":"night"'
    assert changed["at"] > client.get("/memory").json()["exchanges"][0]["at"]
    assert len(export(client)) == 2


def test_another_vote_on_the_same_two_texts_replaces_the_first(client: httpx.Client) -> None:
    texts = {"input": "What can you do?", "response": "Chat."}
    liked, disliked = (
        client.post("/feedback", json=texts | {"feedback": rating}).raise_for_status().json()
        for rating in ("positive", "negative")
    )
    assert disliked["id"] == liked["id"]
    assert [line["rating"] for line in export(client)] == ["negative"]
    client.post("/feedback", json=texts | {"input": "Really?", "feedback": "positive"}).raise_for_status()
    assert len(export(client)) == 2


def test_the_votes_are_listed_page_by_page_the_newest_exchange_first(client: httpx.Client) -> None:
    assert client.get("/feedback").json() == {"votes": [], "next": None}
    ids = [say(client, f"message {n}", conversation) for n, conversation in enumerate("abab")]
    for exchange_id in (ids[2], ids[0], ids[3], ids[1]):
        client.post("/feedback", json={"exchange_id": exchange_id, "rating": "positive"}).raise_for_status()
    free = client.post("/feedback", json={"input": "a", "response": "b", "feedback": "positive"}).json()

    first = client.get("/feedback", params={"limit": 3}).raise_for_status().json()
    assert [vote["id"] for vote in first["votes"]] == [ids[3], ids[2], ids[1]]
    assert first["votes"][0]["turns"][::2] == ["message 1", "message 3"]
    client.delete(f"/feedback/{first['next']}").raise_for_status()  # the cursor may be gone
    second = client.get("/feedback", params={"limit": 3, "before": first["next"]}).json()
    assert [vote["id"] for vote in second["votes"]] == [ids[0], free["id"]]
    assert second["next"] is None
    assert [line["id"] for line in export(client)] == [free["id"], ids[0], ids[2], ids[3]]
    assert client.get("/feedback", params={"limit": 0}).status_code == 422


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


def test_what_was_exported_outlives_the_memory_in_the_owners_file(
    client: httpx.Client, tmp_path: Path
) -> None:
    exchange_id = say(client, "hello")
    client.post(
        "/feedback", json={"exchange_id": exchange_id, "rating": "negative", "better_reply": "Hi!"}
    ).raise_for_status()
    mine = tmp_path / "feedback.jsonl"
    mine.write_bytes(client.get("/feedback/export").content)
    client.delete("/memory").raise_for_status()
    assert export(client) == []
    assert [dialogue.turns for dialogue in read_file(mine).dialogues] == [("hello", "Hi!")]


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
