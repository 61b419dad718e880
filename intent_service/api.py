"""The intent service's own routes."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from intent_service import catalog
from intent_service.catalog import Catalog, CatalogFault
from intent_service.classifiers import Classifier
from intent_service.in_force import InForce
from intent_service.inference import Answer, Inference
from shared import problems, telemetry
from shared.contracts import IntentAnswer, IntentBatchAnswer, IntentBatchRequest, IntentRequest
from shared.model_slot import ModelSlot
from shared.worker import Worker

router = APIRouter(tags=["intents"])

_CLASSIFYING = problems.responses(
    *problems.BODY_PROBLEMS,
    problems.Unauthorized,
    problems.Overloaded,
    problems.ModelNotReady,
    problems.DeadlineExceeded,
)
_CALLER_LEFT = 499  # nginx's number; nobody reads the answer, but the log and the metrics say what happened


class _State:
    """What the lifespan holds, with its types."""

    def __init__(self, request: Request) -> None:
        self.inference: Inference = request.state.inference
        self.in_force: InForce = request.state.in_force
        self.slot: ModelSlot[Classifier] = request.state.slot
        self.preparing: Worker = request.state.preparing
        self.deadline_s: float = request.state.deadline_s


async def _state(request: Request) -> _State:
    return _State(request)


State = Annotated[_State, Depends(_state)]


@router.post(
    "/intent",
    summary="What is this message about?",
    response_model=IntentAnswer,
    responses=_CLASSIFYING,
)
async def classify(asked: IntentRequest, request: Request, state: State) -> Response:
    """Classify a message among the catalogue's intents, or among `labels` where they are given."""
    answers = await _classify([asked.text], asked.labels, request, state)
    return (
        Response(answers[0], media_type="application/json") if answers else Response(status_code=_CALLER_LEFT)
    )


@router.post(
    "/intents/batch",
    summary="What are these messages about?",
    response_model=IntentBatchAnswer,
    responses=_CLASSIFYING,
)
async def classify_batch(asked: IntentBatchRequest, request: Request, state: State) -> Response:
    """Classify up to 256 messages in one call, each as `/intent` would."""
    answers = await _classify(asked.texts, asked.labels, request, state)
    if not answers:
        return Response(status_code=_CALLER_LEFT)
    return Response(f'{{"results":[{",".join(answers)}]}}', media_type="application/json")


@router.get(
    "/catalog", summary="Which intents are there?", responses=problems.responses(problems.Unauthorized)
)
async def show_catalog(state: State) -> Catalog:
    """The intents in force, with their fixed replies."""
    return state.in_force.catalog


@router.post(
    "/catalog/reload",
    summary="Read the catalogue file again",
    responses=problems.responses(
        problems.Unauthorized, problems.CatalogInvalid, problems.Overloaded, problems.DeadlineExceeded
    ),
)
async def reload_catalog(state: State) -> Catalog:
    """Put what the file INTENT_CATALOG now says in force; while it has a mistake the old intents stay.

    Requests go on meanwhile, each by the old catalogue or by the new one. Answers the catalogue in force.
    """
    try:
        return await state.in_force.reload(state.preparing, state.slot)
    except CatalogFault as fault:
        raise problems.CatalogInvalid(f"{fault}. {problems.CatalogInvalid.advice}") from None


async def _classify(
    texts: Sequence[str], labels: list[str] | None, request: Request, state: _State
) -> list[Answer] | None:
    """One answer a text; None when the caller has left."""
    intents = _own(labels) if labels else state.in_force.catalog
    telemetry.log_texts(messages=list(texts), labels=labels)
    return await _unless_left(request, state.inference.answers(texts, intents, state.deadline_s))


def _own(labels: list[str]) -> Catalog:
    if found := catalog.unusable(labels):
        index, wrong = found
        raise problems.InvalidBody(errors=[problems.FieldError(pointer=f"/labels/{index}", detail=wrong)])
    return Catalog.of(labels)


async def _unless_left(request: Request, work: Coroutine[None, None, list[Answer]]) -> list[Answer] | None:
    """What `work` returns; None, and the work ends, when the caller closes the connection first."""
    working = asyncio.create_task(work)
    # The body has been read: the next thing to come is the connection's end.
    leaving = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        leaving.cancel()
