"""Answers from the model in service: shared passes, and what is known already is not computed again."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from intent_service import classifiers, inference
from intent_service.catalog import Catalog
from intent_service.classifiers.verdict import Verdict
from intent_service.inference import Inference
from shared.contracts import IntentAnswer
from shared.model_slot import ModelSlot
from shared.problems import ModelNotReady, Overloaded
from shared.worker import Worker

pytestmark = pytest.mark.anyio

WAIT_S = 20.0
CATALOG = Catalog.of(["joke", "weather", "sad", "happy"])


class Noting:
    """A real classifier that notes the texts of each of its passes."""

    def __init__(self, folder: Path) -> None:
        self._classifier = classifiers.load(folder, "{}")
        self.passes: list[list[str]] = []

    def classify(self, texts: Sequence[str], catalog: Catalog) -> list[Verdict]:
        self.passes.append(list(texts))
        return self._classifier.classify(texts, catalog)

    def prepare(self, catalog: Catalog) -> None:
        self._classifier.prepare(catalog)


@pytest.fixture
async def slot() -> AsyncIterator[ModelSlot[Any]]:
    with Worker("loader", 1) as loader:
        yield ModelSlot(loader, load=Noting, warm_up=lambda _: None, setting="INTENT_MODEL")


@pytest.fixture
async def answering(slot: ModelSlot[Any], tiny_encoder: Path) -> AsyncIterator[Inference]:
    await slot.put(str(tiny_encoder))
    with Worker("inference", 1) as worker:
        yield Inference(slot, worker, queue=64)


def of(answers: list[str]) -> list[IntentAnswer]:
    return [IntentAnswer.model_validate_json(answer) for answer in answers]


async def test_concurrent_callers_share_passes_and_get_what_they_would_get_alone(
    answering: Inference, slot: ModelSlot[Any], tiny_encoder: Path
) -> None:
    texts = [f"how are you {number}" for number in range(32)]
    answers = await asyncio.gather(*(answering.answers([text], CATALOG, WAIT_S) for text in texts))
    assert len(slot.served.model.passes) < len(texts) / 2
    assert sorted(text for done in slot.served.model.passes for text in done) == sorted(texts)
    alone = classifiers.load(tiny_encoder, "{}")
    for text, (answer,) in zip(texts, map(of, answers), strict=True):
        (verdict,) = alone.classify([text], CATALOG)
        assert [r.label for r in answer.ranking] == [r.label for r in verdict.ranking]
        assert answer.score == pytest.approx(verdict.ranking[0].score, abs=1e-4)


async def test_a_repeated_text_is_not_computed_again(answering: Inference, slot: ModelSlot[Any]) -> None:
    first = await answering.answers(["hello", "i am sad", "hello"], CATALOG, WAIT_S)
    again = await answering.answers(
        ["i am sad", "you"], Catalog.of(["joke", "weather", "sad", "happy"]), WAIT_S
    )
    assert first[0] == first[2]
    assert again[0] == first[1]
    assert slot.served.model.passes == [["hello", "i am sad"], ["you"]]


async def test_another_catalogue_is_another_question(answering: Inference, slot: ModelSlot[Any]) -> None:
    other = Catalog.of(["sad", "happy"])
    await answering.answers(["hello"], CATALOG, WAIT_S)
    (answer,) = of(await answering.answers(["hello"], other, WAIT_S))
    assert {ranked.label for ranked in answer.ranking} == {"sad", "happy"}
    assert slot.served.model.passes == [["hello"], ["hello"]]


async def test_catalogues_are_not_mixed_up_under_load(answering: Inference) -> None:
    catalogs = [Catalog.of([f"label {number}", "joke"]) for number in range(4)]
    asked = [(f"text {number}", catalogs[number % 4]) for number in range(40)]
    answers = await asyncio.gather(*(answering.answers([text], c, WAIT_S) for text, c in asked))
    for (_, catalog), (answer,) in zip(asked, map(of, answers), strict=True):
        assert {r.label for r in answer.ranking} == {intent.label for intent in catalog.intents}


async def test_another_model_answers_anew(
    answering: Inference, slot: ModelSlot[Any], tiny_encoder: Path
) -> None:
    await answering.answers(["hello"], CATALOG, WAIT_S)
    await slot.put(str(tiny_encoder))  # the same name, as after training it again
    await answering.answers(["hello"], CATALOG, WAIT_S)
    assert slot.served.model.passes == [["hello"]]


async def test_what_was_unused_for_longest_is_forgotten(
    answering: Inference, slot: ModelSlot[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "_ANSWERS_KEPT", 2)
    for text in ("a", "b", "a", "c", "a", "b"):
        await answering.answers([text], CATALOG, WAIT_S)
    assert slot.served.model.passes == [["a"], ["b"], ["c"], ["b"]]


async def test_what_is_known_is_answered_while_the_queue_is_full(
    answering: Inference, slot: ModelSlot[Any]
) -> None:
    (known,) = await answering.answers(["hello"], CATALOG, WAIT_S)
    asking = [asyncio.create_task(answering.answers([str(i)], CATALOG, WAIT_S)) for i in range(64)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await answering.answers(["new"], CATALOG, WAIT_S)
    assert await answering.answers(["hello"], CATALOG, WAIT_S) == [known]
    await asyncio.gather(*asking)


async def test_without_a_model_it_says_so(slot: ModelSlot[Any]) -> None:
    with Worker("inference", 1) as worker, pytest.raises(ModelNotReady):
        await Inference(slot, worker, queue=1).answers(["hello"], CATALOG, WAIT_S)
