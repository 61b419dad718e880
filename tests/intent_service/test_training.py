"""POST /training of the intent service: corrections, fetched over HTTP, become a judged head."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Header, HTTPException
from fastapi.responses import PlainTextResponse

from intent_service import catalog
from intent_service.examples import Example
from intent_service.promotion.plan import hold_out, usable
from shared.registry import Registry
from tests.intent_service.conftest import Start
from tests.intent_service.test_api import problem
from tests.servers import serving, wait_until

JOB_S = 120.0
CATALOG = """
intents:
  - label: order_status
    examples: [Where is my order, Has my parcel been sent, When will it arrive]
  - label: refund
    examples: [I want my money back, Please refund me, Can I return this]
"""
# What no example of the catalogue resembles: only corrections teach that it is meant so.
THINGS = ["lamp", "kettle", "jacket", "bicycle bell", "garden chair", "toaster", "backpack", "clock"]
ORDER = [
    said.format(thing)
    for said in ("Any news about the {}?", "I still have no {} here.", "The {} was promised for Monday.")
    for thing in THINGS
]
REFUND = [
    said.format(thing)
    for said in ("The {} broke on the first day.", "This {} does not fit at all.", "I do not like the {}.")
    for thing in THINGS
]


class Dialogue:
    """The dialogue service's export of the feedback: what it says can be set."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.status = 200
        self.app = FastAPI()

        @self.app.get("/feedback/export")
        async def export(authorization: str | None = Header(default=None)) -> PlainTextResponse:
            self.keys.append(authorization)
            if self.status != 200:
                raise HTTPException(self.status)
            return PlainTextResponse(
                "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in self.lines)
            )

    def correct(self, texts: list[str], intent: str | None) -> None:
        """Votes with corrected intents; None: votes without."""
        for text in texts:
            vote = {
                "id": f"{1795334400000 + len(self.lines)}-1",
                "rating": "negative",
                "correct_intent": intent,
            }
            self.lines.append(vote | {"at": "2027-01-14T09:30:00Z", "turns": [text, "I see."]})


@pytest.fixture
def dialogue() -> Dialogue:
    return Dialogue()


@pytest.fixture
def feedback_url(dialogue: Dialogue) -> Iterator[str]:
    with serving(dialogue.app) as url:
        yield f"{url}/feedback/export"


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
def settings(tmp_path: Path, registry: Path, feedback_url: str) -> dict[str, Any]:
    (tmp_path / "intents.yaml").write_text(CATALOG, encoding="utf-8")
    return {
        "INTENT_REGISTRY": registry,
        "INTENT_CATALOG": tmp_path / "intents.yaml",
        "INTENT_FEEDBACK_URL": feedback_url,
    }


def end(client: httpx.Client, job: str) -> dict[str, Any]:
    wait_until(lambda: client.get(f"/training/{job}").json()["ended"], JOB_S)
    ended: dict[str, Any] = client.get(f"/training/{job}").json()
    return ended


def named(client: httpx.Client, texts: list[str]) -> list[str]:
    answers = client.post("/intents/batch", json={"texts": texts}).raise_for_status().json()["results"]
    return [answer["label"] for answer in answers]


def test_corrections_become_a_head_that_is_better_and_serves(
    start: Start, settings: dict[str, Any], registry: Path, dialogue: Dialogue
) -> None:
    client = start(**settings)
    dialogue.correct(ORDER, "order_status")
    dialogue.correct(REFUND, "refund")
    dialogue.correct(["nothing is wrong here"], None)
    dialogue.correct(["this one is of another shop"], "no_such_intent")
    corrected = [Example(text, intent) for texts, intent in ((ORDER, "o"), (REFUND, "r")) for text in texts]
    unseen = [example.text for example in hold_out(corrected)[1]]
    before = named(client, unseen)

    begun = client.post("/training", json={})
    assert begun.status_code == 202
    name = begun.json()["id"]
    job = end(client, name)

    assert job["promoted"], job["verdict"]
    assert (job["error"], job["state"], job["activated"]) == (None, "succeeded", True)
    assert job["method"] == "head"
    right = job["scores"]["corrections answered right"]
    assert right["after"] > right["before"]
    truth = dict.fromkeys(ORDER, "order_status") | dict.fromkeys(REFUND, "refund")
    after = named(client, unseen)
    assert sum(label == truth[text] for label, text in zip(after, unseen, strict=True)) > sum(
        label == truth[text] for label, text in zip(before, unseen, strict=True)
    )
    version = Registry(registry).folder(name)  # raises if its checksums are wrong
    card = json.loads((version / "card.json").read_text())
    assert card["promotion"]["verdict"] == job["verdict"]
    assert card["promotion"]["rule"] in (version / "README.md").read_text()
    assert "kettle" not in (version / "report.html").read_text()  # what people said stays out of it
    assert client.get("/models").json()["versions"][1]["parent"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert client.post("/models/rollback").json()["active"] == "configured"
    assert named(client, unseen) == before


def test_a_head_on_an_encoder_from_a_folder_is_whole_in_itself(
    start: Start, settings: dict[str, Any], registry: Path, dialogue: Dialogue, tiny_encoder: Path
) -> None:
    client = start(**settings, INTENT_MODEL=tiny_encoder)
    dialogue.correct(ORDER, "order_status")
    dialogue.correct(REFUND, "refund")
    job = end(client, client.post("/training", json={"activate": True}).json()["id"])
    assert (job["error"], job["activated"]) == (None, True)
    assert (registry / job["id"] / "encoder" / "model.safetensors").is_file()
    assert client.post("/intent", json={"text": "hello"}).json()["model"] == job["id"]
    again = end(client, client.post("/training", json={"activate": False}).json()["id"])
    assert again["state"] == "succeeded"  # a head can be learned again from where a head serves


def test_what_is_missing_is_said(start: Start, settings: dict[str, Any], dialogue: Dialogue) -> None:
    client = start(**settings)
    answer = problem(client.post("/training", json={}), 409, "too-little-feedback")
    assert answer["detail"].startswith("There are 0 corrected intents. Missing: 12 more to learn from")
    dialogue.correct(ORDER[:5] * 2, "order_status")
    dialogue.correct(["of another shop"], "no_such_intent")
    answer = problem(client.post("/training", json={}), 409, "too-little-feedback")
    assert answer["detail"].startswith("There are 5 corrected intents; 6 more are no use")
    assert client.get("/training").json() == {"jobs": []}


def test_feedback_that_cannot_be_had_is_said(
    start: Start, settings: dict[str, Any], dialogue: Dialogue
) -> None:
    client = start(**settings, API_KEY="secret")
    client.headers["Authorization"] = "Bearer secret"
    dialogue.status = 401
    answer = problem(client.post("/training", json={}), 502, "feedback-unavailable")
    assert "answers 401" in answer["detail"]
    assert dialogue.keys == ["Bearer secret"]
    away = start(**settings | {"INTENT_FEEDBACK_URL": "http://127.0.0.1:9/feedback/export"})
    answer = problem(away.post("/training", json={}), 502, "feedback-unavailable")
    assert "INTENT_FEEDBACK_URL" in answer["detail"]


def test_a_caller_chooses_nothing_else(start: Start, settings: dict[str, Any]) -> None:
    client = start(**settings)
    for body in ({"catalog": "/etc/passwd"}, {"feedback_url": "http://elsewhere"}, {"activate": "perhaps"}):
        problem(client.post("/training", json=body), 422, "invalid-body")


def test_a_message_is_always_on_the_same_side_however_it_is_written() -> None:
    learned, held_out = hold_out([Example(f"message {number}", "a") for number in range(500)])
    assert 60 < len(held_out) < 140
    assert {e.text for e in hold_out([Example(f"Message  {n}", "b") for n in range(500)])[1]} == {
        e.text.replace("message", "Message ") for e in held_out
    }
    assert not {e.text for e in learned} & {e.text for e in held_out}


def test_the_last_correction_of_a_message_counts(tmp_path: Path) -> None:
    (tmp_path / "intents.yaml").write_text(CATALOG, encoding="utf-8")
    shop = catalog.load(tmp_path / "intents.yaml")
    given = [
        Example("Hm.", "refund"),
        Example("hm.", "order_status"),
        Example("So?", "oos"),
        Example("x", "no"),
    ]
    assert usable(given, shop) == [Example("hm.", "order_status"), Example("So?", "oos")]


def test_every_error_is_documented(client: httpx.Client) -> None:
    start = client.get("/openapi.json").json()["paths"]["/training"]["post"]["responses"]
    assert set(start) == {"202", "400", "401", "403", "408", "409", "413", "415", "422", "502", "503"}
