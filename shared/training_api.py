"""GET /training, GET and DELETE /training/{id}: the same in both services, each has its own POST."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from shared.contracts import TrainingJob, TrainingJobs
from shared.jobs import Jobs
from shared.problems import (
    BODY_PROBLEMS,
    InvalidBody,
    NotFound,
    Problem,
    TooLittleFeedback,
    TrainingRunning,
    TrainingUnavailable,
    Unauthorized,
    responses,
)

PREFIX = "/training"

router = APIRouter(prefix=PREFIX, tags=["training"])


async def _jobs(request: Request) -> Jobs:
    jobs: Jobs = request.state.jobs
    return jobs


JobsDep = Annotated[Jobs, Depends(_jobs)]

STARTING: tuple[type[Problem], ...] = (
    *BODY_PROBLEMS,
    Unauthorized,
    TrainingRunning,
    TooLittleFeedback,
    TrainingUnavailable,
)
"""The problems that a POST may answer with in either service."""

ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"headers": {"Location": {"description": "The job.", "schema": {"type": "string"}}}}
}


def accepted(job: TrainingJob, response: Response) -> TrainingJob:
    """The answer to a POST."""
    response.headers["Location"] = f"{PREFIX}/{job.id}"
    return job


@router.get("", summary="Which training jobs were there?", responses=responses(Unauthorized))
async def show_all(jobs: JobsDep) -> TrainingJobs:
    """The newest first."""
    return TrainingJobs(jobs=jobs.all())


@router.get(
    "/{job}",
    summary="How far is a training job?",
    responses=responses(Unauthorized, NotFound, InvalidBody),
)
async def show(job: str, jobs: JobsDep) -> TrainingJob:
    """Its progress, and once it has ended what came of it."""
    return jobs.get(job)


@router.delete(
    "/{job}",
    summary="Cancel a training job",
    responses=responses(Unauthorized, NotFound, InvalidBody),
)
async def cancel(job: str, jobs: JobsDep) -> TrainingJob:
    """Its process ends and nothing of it is kept. A job that has ended stays as it is."""
    return await jobs.cancel(job)
