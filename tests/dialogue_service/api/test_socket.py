"""WS /chat/ws: turns, mistakes, who may open it, and who goes away."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.dialogue_service.conftest import INTENT, Start, service
from tests.dialogue_service.talking import Talker, chat, logged, messages, text_of
from tests.servers import wait_until


def opening(client: httpx.Client, **options: Any) -> AbstractContextManager[ClientConnection]:
    return connect(str(client.base_url).replace("http", "ws") + "/chat/ws", **options)


class Talk:
    """One connection."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def say(self, message: str, **more: Any) -> None:
        self.socket.send(json.dumps({"message": message} | more))

    def hear(self) -> dict[str, Any]:
        heard: dict[str, Any] = json.loads(self.socket.recv(timeout=30))
        return heard

    def hear_turn(self) -> list[dict[str, Any]]:
        """The events of one turn, to its end."""
        heard = [self.hear()]
        while heard[-1]["event"] not in ("done", "error"):
            heard.append(self.hear())
        return heard


@contextmanager
def talking(client: httpx.Client, **options: Any) -> Iterator[Talk]:
    with opening(client, **options) as socket:
        yield Talk(socket)


def problem(event: dict[str, Any]) -> str:
    assert event["event"] == "error"
    return str(event["data"]["type"].removeprefix("urn:parley:problem:"))


def test_a_conversation_on_one_connection_is_what_is_stored(start: Start, intents: str) -> None:
    client = start(DIALOGUE_INTENT_URL=intents)
    turns = []
    with talking(client) as talk:
        for message in ("Hi", "forget me"):
            talk.say(message)
            turns.append(talk.hear_turn())
    for number, turn in enumerate(turns):
        assert {event["message"] for event in turn} == {number + 1}
        assert (turn[0]["event"], turn[0]["data"]) == ("intent", {"intent": INTENT})
        assert text_of(turn) == turn[-1]["data"]["reply"] != ""
    ids = [event["id"] for turn in turns for event in turn]
    assert ids == list(range(1, len(ids) + 1))
    stored = client.get("/memory").json()["exchanges"]
    assert [exchange["message"] for exchange in stored] == ["Hi", "forget me"]
    assert [exchange["id"] for exchange in stored] == [turn[-1]["data"]["id"] for turn in turns]
    assert turns[1][-1]["data"]["reply"] == "DELETE /memory does that."


@pytest.mark.parametrize(
    ("said", "slug"),
    [
        ("{", "malformed-body"),
        ("", "malformed-body"),
        (b"\xff", "malformed-body"),
        ('{"message": "\\ud800"}', "malformed-body"),
        ("[" * 20_000, "malformed-body"),
        ("[]", "invalid-body"),
        ("7", "invalid-body"),
        ("{}", "invalid-body"),
        ('{"message": ""}', "invalid-body"),
        ('{"message": "hi", "mesage": "hi"}', "invalid-body"),
        ('{"message": "hi", "key": ""}', "invalid-body"),
        ('{"message": "hi", "seed": -1}', "invalid-body"),
        ('{"message": "hi", "conversation": "../x"}', "invalid-body"),
        ('{"message": "' + "a" * 4001 + '"}', "content-too-large"),
    ],
)
def test_a_mistake_is_an_event_and_the_connection_stays(
    client: httpx.Client, said: str | bytes, slug: str
) -> None:
    with talking(client) as talk:
        talk.socket.send(said)
        assert problem(talk.hear()) == slug
        talk.say("Hi")
        assert talk.hear_turn()[-1]["event"] == "done"
    assert messages(client) == ["Hi"]


def test_a_wrong_field_is_named(client: httpx.Client) -> None:
    with talking(client) as talk:
        talk.say("Hi", conversation=7)
        assert [error["pointer"] for error in talk.hear()["data"]["errors"]] == ["/conversation"]


def test_a_key_gets_the_stored_reply_here_and_over_http(client: httpx.Client) -> None:
    with talking(client) as talk:
        talk.say("Hi", key="k")
        first = talk.hear_turn()[-1]["data"]
        talk.say("Hi", key="k")
        assert talk.hear_turn()[-1]["data"] == first
        talk.say("Bye", key="k")
        assert problem(talk.hear()) == "idempotency-key-reused"
    assert chat(client, "Hi", **{"Idempotency-Key": "k"}).json() == first
    assert messages(client) == ["Hi"]


def test_messages_wait_for_their_turn_and_too_many_are_refused(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = Talker.instead(monkeypatch, waits_at=0)
    with talking(client) as talk:
        talk.say("0")
        assert talk.hear()["event"] == "intent"
        for number in range(1, 10):
            talk.say(str(number))
        refused = talk.hear()
        assert (problem(refused), refused["message"]) == ("overloaded", 10)
        assert refused["data"]["retry_after_s"] >= 1
        talker.go.set()
        ends = [talk.hear_turn()[-1] for _ in range(9)]
    assert [end["message"] for end in ends] == list(range(1, 10))
    assert messages(client) == [str(number) for number in range(9)]


def test_a_failed_turn_is_an_event_and_the_connection_stays(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    talker = Talker.instead(monkeypatch)
    talker.fails = RuntimeError("a bug")
    with talking(client) as talk:
        talk.say("Hi")
        assert problem(talk.hear_turn()[-1]) == "internal-error"
        talker.fails = None
        talk.say("Hi")
        assert talk.hear_turn()[-1]["data"]["reply"] == "".join(talker.pieces)
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    assert messages(client) == ["Hi"]


def _close(socket: ClientConnection) -> None:
    socket.close()


def _cut(socket: ClientConnection) -> None:
    socket.socket.close()


@pytest.mark.parametrize("leave", [_close, _cut])
def test_who_goes_away_stops_the_work_and_leaves_nothing(
    client: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    leave: Callable[[ClientConnection], None],
) -> None:
    caplog.set_level("INFO")
    talker = Talker.instead(monkeypatch, waits_at=1)
    with talking(client) as talk:
        talk.say("Hi", key="k")
        assert [talk.hear()["event"] for _ in range(2)] == ["intent", "token"]
        talk.say("never begun")
        leave(talk.socket)
    assert talker.stopped.wait(5), "the model went on computing"
    assert messages(client) == []
    talker.waits_at = None
    wait_until(lambda: chat(client, "Hi", **{"Idempotency-Key": "k"}).status_code == 200)
    assert messages(client) == ["Hi"]
    assert talker.asked == [["Hi"], ["Hi"]]
    wait_until(lambda: logged(caplog, "/chat/ws") == [("WEBSOCKET", 499), ("WEBSOCKET", 101)])


def drain(socket: ClientConnection) -> None:
    while True:
        socket.recv(timeout=30)


def test_an_open_connection_does_not_hold_up_the_end_of_the_service(
    redis_url: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(REDIS_URL=redis_url, DIALOGUE_MODEL=tiny_model) as client:
        talker = Talker.instead(monkeypatch, waits_at=1)
        idle, busy = (opening(client).__enter__() for _ in range(2))
        Talk(busy).say("Hi")
        assert talker.began.wait(5)
    assert talker.stopped.is_set()
    for socket in (idle, busy):
        with pytest.raises(ConnectionClosed):
            drain(socket)
        assert socket.close_code == 1012
        socket.__exit__(None, None, None)


def test_with_a_key_only_who_has_it_may_talk(start: Start) -> None:
    client = start(API_KEY="sesame")
    for given in ({}, {"Authorization": "Bearer open"}, {"Authorization": "sesame"}):
        with pytest.raises(InvalidStatus) as refusal, opening(client, additional_headers=given):
            pytest.fail("it was let in")
        assert refusal.value.response.status_code == 401
        assert refusal.value.response.headers["WWW-Authenticate"] == "Bearer"
        assert json.loads(refusal.value.response.body)["type"] == "urn:parley:problem:unauthorized"
    with talking(client, additional_headers={"authorization": "bearer sesame"}) as talk:
        talk.say("Hi")
        assert talk.hear_turn()[-1]["event"] == "done"


def test_pages_of_other_sites_may_not_talk(client: httpx.Client) -> None:
    own = str(client.base_url).rstrip("/")
    for origin in ("https://evil.example", "null", own + "0", "http://127.0.0.1"):
        with pytest.raises(InvalidStatus) as refusal, opening(client, origin=origin):
            pytest.fail("it was let in")
        assert refusal.value.response.status_code == 403
        assert json.loads(refusal.value.response.body)["type"] == "urn:parley:problem:foreign-origin"
    with talking(client, origin=own) as talk:
        talk.say("Hi")
        assert talk.hear_turn()[-1]["event"] == "done"


def test_more_sockets_than_may_be_open_are_refused(start: Start) -> None:
    client = start(DIALOGUE_SOCKETS=2)
    with opening(client), opening(client):
        with pytest.raises(InvalidStatus) as refusal, opening(client):
            pytest.fail("it was let in")
        answer = refusal.value.response
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert json.loads(answer.body)["type"] == "urn:parley:problem:too-many-sockets"
        assert client.get("/memory").status_code == 200

    def lets_in() -> bool:
        try:
            with opening(client):
                return True
        except InvalidStatus:
            return False

    wait_until(lets_in)


def test_each_message_is_a_line_in_the_log_under_the_id_of_the_handshake(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with talking(client, additional_headers={"X-Request-ID": "trace-me"}) as talk:
        assert talk.socket.response is not None
        assert talk.socket.response.headers["X-Request-ID"] == "trace-me"
        talk.say("swordfish")
        talk.hear_turn()
        talk.socket.send("{")
        talk.hear()

    wait_until(lambda: len(logged(caplog, "/chat/ws")) == 3)
    assert logged(caplog, "/chat/ws") == [("WEBSOCKET", status) for status in (200, 400, 101)]
    mine = [record for record in caplog.records if record.name != "websockets.client"]
    assert not any("swordfish" in str(record.__dict__) for record in mine)
