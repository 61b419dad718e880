"""From chat and thumbs to a better model that serves, and back: the launcher, both services, real jobs."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.test_conversation import say
from tests.parley import Parley
from tests.servers import wait_until
from tests.versions import swap_under_load

JOB_S = 300.0
THINGS = ["trees", "old books", "my sister", "cold soup", "red cars", "long trains", "our dog", "the sea"]
THINGS += ["rainy days", "jazz", "chess", "tomatoes", "the moon", "trams", "good bread"]
CORRECTED = {
    "I could talk about {} all day.": "hobbies",
    "Nothing is as good as {}.": "hobbies",
    "And {}, what about that?": "ask_opinion",
    "Now say something on {}.": "ask_opinion",
}
BETTER = "That is lovely. What do you like most about it?"


@pytest.fixture(scope="module")
def parley(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parley]:
    """One with which somebody talked, and voted on each reply: a better one, and what was meant."""
    with Parley(tmp_path_factory.mktemp("training")) as running:
        for said, intent in CORRECTED.items():
            for thing in THINGS:
                exchange = say(running, said.format(thing), thing.replace(" ", "-"))
                vote = {"exchange_id": exchange["id"], "rating": "negative", "better_reply": BETTER}
                running.client.post("/feedback", json=vote | {"correct_intent": intent}).raise_for_status()
        yield running


def train(client: httpx.Client, **body: Any) -> dict[str, Any]:
    """A job from its beginning to its end."""
    job = client.post("/training", json=body).raise_for_status().json()["id"]
    wait_until(lambda: client.get(f"/training/{job}").json()["ended"], JOB_S)
    ended: dict[str, Any] = client.get(f"/training/{job}").json()
    assert (ended["error"], ended["state"]) == (None, "succeeded")
    return ended


def test_votes_become_a_version_that_is_judged_served_taken_back_and_kept_over_a_restart(
    parley: Parley,
) -> None:
    client = parley.client
    job = train(client, method="sft")
    version = job["version"]
    assert job["activated"] is job["promoted"], job["verdict"]
    assert client.get("/models").json()["active"] == (version if job["promoted"] else "configured")
    perplexity = job["scores"]["perplexity of approved replies"]
    assert perplexity["after"] < perplexity["before"]

    def ask(caller: int) -> httpx.Response:
        return client.post("/chat", json={"message": "How are you?", "conversation": f"caller-{caller}"})

    got = swap_under_load(client, ask, ["configured", version], callers=3)
    assert {answer["model"] for answer in got} == {version, "starter"}

    parley.kill("dialogue_service")
    wait_until(lambda: client.get("/models").json()["serving"] == version)
    assert [one["id"] for one in client.get("/training").json()["jobs"]] == [job["id"]]
    assert client.post("/models/rollback").raise_for_status().json()["serving"] == "starter"
    assert say(parley, "Hello!")["model"] == "starter"

    weights = parley.data / "models" / "dialogue" / version / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    refused = client.post(f"/models/{version}/activate")
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:parley:problem:version-unusable")
    assert say(parley, "Hello again!")["model"] == "starter"


def test_the_intent_service_learns_from_corrections_that_the_dialogue_service_was_given(
    parley: Parley,
) -> None:
    with httpx.Client(base_url=parley.urls["intent"], timeout=60, trust_env=False) as intent:
        job = train(intent)
        assert job["activated"] is job["promoted"], job["verdict"]
        right = job["scores"]["corrections answered right"]
        assert right["after"] > right["before"]
        intent.post(f"/models/{job['version']}/activate").raise_for_status()
        said = say(parley, "I could talk about mountains all day.", "mountains")
        assert (said["intent"]["label"], said["intent"]["model"]) == ("hobbies", job["version"])
