"""POST /training; what the services have in common of it is in shared/training_api.py."""

from functools import partial

from fastapi import APIRouter, Response

from dialogue_service.api.state import PreparationDep
from dialogue_service.contracts import TrainingRequest
from shared.contracts import TrainingJob
from shared.problems import MemoryUnavailable, ModelNotReady, responses
from shared.training_api import ACCEPTED, PREFIX, STARTING, JobsDep, accepted

router = APIRouter(prefix=PREFIX, tags=["training"])


@router.post(
    "",
    summary="Learn from the feedback",
    status_code=202,
    responses=ACCEPTED | responses(*STARTING, MemoryUnavailable, ModelNotReady),
)
async def start(
    body: TrainingRequest, jobs: JobsDep, prepare: PreparationDep, response: Response
) -> TrainingJob:
    """A job in a process of its own trains the model that serves, compares the two, and saves the new one.

    One job at a time. `Location` names it.
    """
    job = await jobs.start(body.method, body.activate, partial(prepare, body.method))
    return accepted(job, response)
