"""POST /training; what the services have in common of it is in shared/training_api.py."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from intent_service.promotion.preparing import Preparation
from shared import contracts
from shared.contracts import Activate, TrainingJob
from shared.problems import CatalogInvalid, FeedbackUnavailable, ModelNotReady, responses
from shared.training_api import ACCEPTED, PREFIX, STARTING, JobsDep, accepted

router = APIRouter(prefix=PREFIX, tags=["training"])


class TrainingRequest(contracts.Request):
    """What a training job is to do. It learns a head from the catalogue and the corrected intents."""

    activate: Activate = "if_better"


async def _prepare(request: Request) -> Preparation:
    prepare: Preparation = request.state.prepare
    return prepare


@router.post(
    "",
    summary="Learn from corrected intents",
    status_code=202,
    responses=ACCEPTED | responses(*STARTING, CatalogInvalid, FeedbackUnavailable, ModelNotReady),
)
async def start(
    body: TrainingRequest,
    jobs: JobsDep,
    prepare: Annotated[Preparation, Depends(_prepare)],
    response: Response,
) -> TrainingJob:
    """A job in a process of its own learns a head, compares it with the model that serves, and saves it.

    The corrections are fetched from the dialogue service. One job at a time. `Location` names it.
    """
    return accepted(await jobs.start("head", body.activate, prepare), response)
