"""The intent service's own routes."""

import threading
import zlib
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from intent_service import catalog
from intent_service.catalog import UNKNOWN, Catalog
from intent_service.classifiers import Classifier
from intent_service.classifiers.verdict import Verdict
from shared import problems, telemetry
from shared.contracts import IntentAnswer, IntentRequest
from shared.model_slot import ModelSlot
from shared.worker import Worker

router = APIRouter(tags=["intents"])


def _slot(request: Request) -> ModelSlot[Classifier]:
    slot: ModelSlot[Classifier] = request.state.slot
    return slot


def _inference(request: Request) -> Worker:
    worker: Worker = request.state.inference
    return worker


def _catalog(request: Request) -> Catalog:
    intents: Catalog = request.state.catalog
    return intents


def _deadline(request: Request) -> float:
    seconds: float = request.state.deadline_s
    return seconds


Slot = Annotated[ModelSlot[Classifier], Depends(_slot)]
Inference = Annotated[Worker, Depends(_inference)]
InForce = Annotated[Catalog, Depends(_catalog)]
Deadline = Annotated[float, Depends(_deadline)]


@router.post(
    "/intent",
    summary="What is this message about?",
    responses=problems.responses(
        problems.MalformedBody,
        problems.Unauthorized,
        problems.ContentTooLarge,
        problems.InvalidBody,
        problems.Overloaded,
        problems.ModelNotReady,
        problems.DeadlineExceeded,
    ),
)
async def classify(
    asked: IntentRequest, slot: Slot, inference: Inference, in_force: InForce, deadline_s: Deadline
) -> IntentAnswer:
    """Classify a message among the catalogue's intents, or among `labels` where they are given."""
    intents = _own(asked.labels) if asked.labels else in_force
    served = slot.served

    def job(_: threading.Event) -> Verdict:
        with telemetry.INFERENCE.labels("intent", served.name).time():
            return served.model.classify(asked.text, intents)

    verdict = await inference.run(job, deadline_s=deadline_s)
    best = verdict.ranking[0]
    return IntentAnswer(
        label=best.label if verdict.known else UNKNOWN,
        score=best.score,
        ranking=verdict.ranking,
        model=served.name,
        reply=_fixed_reply(intents, best.label, asked.text) if verdict.sure else None,
    )


@router.get(
    "/catalog", summary="Which intents are there?", responses=problems.responses(problems.Unauthorized)
)
async def show_catalog(in_force: InForce) -> Catalog:
    """The intents in force, with their fixed replies."""
    return in_force


def _own(labels: list[str]) -> Catalog:
    if found := catalog.unusable(labels):
        index, wrong = found
        raise problems.InvalidBody(errors=[problems.FieldError(pointer=f"/labels/{index}", detail=wrong)])
    return Catalog.of(labels)


def _fixed_reply(intents: Catalog, label: str, text: str) -> str | None:
    """One of the intent's fixed replies; the same message always gets the same one."""
    replies = next(intent.replies for intent in intents.intents if intent.label == label)
    return replies[zlib.crc32(text.encode()) % len(replies)] if replies else None
