"""GET /models, POST /models/{version}/activate, POST /models/rollback: the same in both services.

The lifespan's state must hold `versions`.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from shared.contracts import Models
from shared.problems import (
    NotFound,
    NothingToRollBack,
    SwapInProgress,
    Unauthorized,
    VersionUnusable,
    responses,
)
from shared.versions import Versions

router = APIRouter(prefix="/models", tags=["models"])

_UNDER_WAY: dict[int | str, dict[str, Any]] = {
    202: {"model": Models, "description": "Still loading; GET /models shows the progress and the end."}
}


async def _versions(request: Request) -> Versions[Any]:
    versions: Versions[Any] = request.state.versions
    return versions


VersionsDep = Annotated[Versions[Any], Depends(_versions)]


@router.get("", summary="Which model versions are there?", responses=responses(Unauthorized))
async def show(versions: VersionsDep) -> Models:
    """The configured model and the versions in the registry; which is active, serving, loading, broken."""
    return await versions.models()


@router.post(
    "/{version}/activate",
    summary="Put a model version into service",
    responses=_UNDER_WAY | responses(Unauthorized, NotFound, SwapInProgress, VersionUnusable),
)
async def activate(version: str, versions: VersionsDep, response: Response) -> Models:
    """It is loaded beside the one that serves, answers once, and takes its place; no request is lost.

    If anything fails, the one that served serves on. Activating what is active already changes nothing.
    """
    return await _answer(await versions.activate(version), versions, response)


@router.post(
    "/rollback",
    summary="Go back to the model version before",
    responses=_UNDER_WAY | responses(Unauthorized, NothingToRollBack, SwapInProgress, VersionUnusable),
)
async def rollback(versions: VersionsDep, response: Response) -> Models:
    """Undoes the last activation, and once more the one before it, as far as 20 back."""
    return await _answer(await versions.rollback(), versions, response)


async def _answer(done: bool, versions: Versions[Any], response: Response) -> Models:
    if not done:
        response.status_code = 202
    return await versions.models()
