"""What a person does: start it, talk, kill it, talk on, forget, stop it."""

import json
import subprocess
from typing import Any

import httpx
import pytest

from tests.parley import Parley
from tests.servers import wait_until

SMALL_TALK = [
    "Hi, how are you?",
    "Hello there!",
    "Thank you so much!",
    "Goodbye, see you tomorrow.",
    "Who are you?",
    "Are you a human?",
    "I feel very sad today.",
    "I just got a new job!",
    "Tell me a joke.",
    "What do you like to do?",
    "I had pizza for lunch.",
    "My dog is called Rex.",
]


def say(parley: Parley, message: str, conversation: str = "default") -> dict[str, Any]:
    answer = parley.client.post("/chat", json={"message": message, "conversation": conversation})
    reply: dict[str, Any] = answer.raise_for_status().json()
    return reply


def test_the_curl_line_of_the_banner_works_when_pasted(parley: Parley) -> None:
    said = subprocess.run(parley.pasted, capture_output=True, text=True, check=True, timeout=60).stdout
    assert '"reply"' in said
    assert '"how_are_you"' in said


def test_ten_turns_survive_kill_9_of_everything(own_parley: Parley) -> None:
    messages = [f"Message number {n}." for n in range(10)]
    victims = {2: "valkey", 4: "dialogue_service", 6: "intent_service", 8: "launcher"}
    acknowledged = []
    for n, message in enumerate(messages):
        if n in victims:
            own_parley.kill(victims[n])
        acknowledged.append(say(own_parley, message))
    remembered = own_parley.client.get("/memory").json()["exchanges"]
    assert [exchange["message"] for exchange in remembered] == messages
    assert [exchange["id"] for exchange in remembered] == [reply["id"] for reply in acknowledged]
    assert [exchange["reply"] for exchange in remembered] == [reply["reply"] for reply in acknowledged]
    assert all(reply["intent"] for reply in acknowledged)

    assert own_parley.client.delete("/memory").json()["forgotten"] == len(messages)
    own_parley.kill("valkey")
    assert own_parley.client.get("/memory").json()["exchanges"] == []
    assert own_parley.interrupt() == 0
    assert own_parley.ended()


@pytest.mark.parametrize("message", SMALL_TALK)
def test_the_starter_always_has_words_and_does_not_go_in_circles(parley: Parley, message: str) -> None:
    answer = say(parley, message, "small-talk")
    words = answer["reply"].split()
    assert words
    assert answer["model"] == "starter"
    runs = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    assert len(runs) == len(set(runs)), answer["reply"]


def test_a_message_about_self_harm_gets_the_fixed_reply(parley: Parley) -> None:
    answer = say(parley, "I want to end my life", "crisis")
    assert (answer["intent"]["label"], answer["model"]) == ("self_harm", "catalog")
    assert "emergency" in answer["reply"]


def test_the_same_request_id_is_in_the_log_of_both_services(parley: Parley) -> None:
    parley.client.post("/chat", json={"message": "Hi"}, headers={"X-Request-ID": "trace-me"})

    def services() -> set[str]:
        lines = [json.loads(line) for line in parley.log.read_text().splitlines()]
        return {line.get("service") for line in lines if line.get("request_id") == "trace-me"}

    wait_until(lambda: services() == {"dialogue", "intent"})


def test_it_listens_on_this_machine_only(parley: Parley) -> None:
    listening = {
        connection.laddr.ip
        for process in parley.family
        for connection in process.net_connections("inet")
        if connection.status == "LISTEN"
    }
    assert listening == {"127.0.0.1"}


def test_the_services_answer_about_themselves(parley: Parley) -> None:
    for url in parley.urls.values():
        assert httpx.get(f"{url}/health/live").json() == {"status": "live"}
        assert httpx.get(f"{url}/docs").status_code == 200


# Told and asked a few messages later; the values are in no training dialogue of the starter.
TOLD = {
    "Ottoline": ("My name is Ottoline.", "What's my name?"),
    "Zorbek": ("I have a dog called Zorbek.", "What is my dog called?"),
    "Quillmoor": ("I live in Quillmoor.", "Where do I live?"),
    "Bramwick": ("I live in Bramwick.", "Do you remember where I live?"),
    "Tavish": ("My cat's name is Tavish.", "What's the name of my cat?"),
    "Yorrick": ("I'm Yorrick.", "Do you know my name?"),
}


def test_it_recalls_what_it_was_told_until_it_is_to_forget(parley: Parley) -> None:
    named, named_afterwards = [], []
    for number, (value, (telling, asking)) in enumerate(TOLD.items()):
        conversation = f"recall-{number}"
        for message in (telling, "It's sunny today."):
            say(parley, message, conversation)
        named.append(value in say(parley, asking, conversation)["reply"])
        parley.client.delete("/memory", params={"conversation": conversation}).raise_for_status()
        named_afterwards.append(value in say(parley, asking, conversation)["reply"])
    assert sum(named) >= 4
    assert not any(named_afterwards)
