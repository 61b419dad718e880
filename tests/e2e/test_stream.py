"""Streamed turns against the whole stack."""

import json
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from shared.access import MAX_BODY_BYTES
from tests.dialogue_service.talking import streamed, text_of
from tests.parley import Parley


def stored(parley: Parley, conversation: str) -> list[dict[str, Any]]:
    page = parley.client.get("/memory", params={"conversation": conversation}).raise_for_status().json()
    exchanges: list[dict[str, Any]] = page["exchanges"]
    return exchanges


def test_a_streamed_turn_has_an_intent_and_is_what_is_stored(parley: Parley) -> None:
    parley.client.delete("/memory")
    events = streamed(parley.client, "Hi, how are you?")
    assert events[0]["data"]["intent"]["label"] == "how_are_you"
    (exchange,) = stored(parley, "default")
    assert text_of(events) == events[-1]["data"]["reply"] == exchange["reply"]
    assert events[-1]["data"]["id"] == exchange["id"]


def test_a_conversation_over_a_websocket_is_what_is_stored(parley: Parley) -> None:
    replies = []
    with connect(parley.urls["dialogue"].replace("http", "ws") + "/chat/ws") as socket:
        for message in ("Hi, how are you?", "I want to end my life"):
            socket.send(json.dumps({"message": message, "conversation": "over-a-socket"}))
            events = []
            while not events or events[-1]["event"] not in ("done", "error"):
                events.append(json.loads(socket.recv(timeout=60)))
            assert text_of(events) == events[-1]["data"]["reply"]
            replies.append(events[-1]["data"])
    assert [exchange["id"] for exchange in stored(parley, "over-a-socket")] == [
        reply["id"] for reply in replies
    ]
    assert replies[1]["model"] == "catalog"


def test_a_message_that_is_too_large_closes_the_websocket(parley: Parley) -> None:
    with connect(parley.urls["dialogue"].replace("http", "ws") + "/chat/ws") as socket:
        socket.send("x" * MAX_BODY_BYTES)
        assert json.loads(socket.recv(timeout=60))["data"]["status"] == 400
        socket.send("x" * (MAX_BODY_BYTES + 1))
        with pytest.raises(ConnectionClosedError):
            socket.recv(timeout=60)
    assert socket.close_code == 1009
