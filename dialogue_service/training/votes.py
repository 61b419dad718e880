"""The votes of a Parley that runs, as `GET /feedback/export` writes them: from the service or its Redis."""

import asyncio
from urllib.parse import urlsplit

import httpx

from dialogue_service.connection import connect
from dialogue_service.feedback import FeedbackStore
from dialogue_service.memory import Memory
from dialogue_service.training.data import DataError
from shared.problems import MemoryUnavailable

_TIMEOUT_S = 30.0


def fetch(url: str, api_key: str | None = None) -> bytes:
    """JSON Lines. `url` is the service's, http:// or https://, or Redis's, redis://, rediss:// or unix://.

    Raises `DataError` when nothing answers there, or has no votes.
    """
    at = urlsplit(url)
    where = f"{at.scheme}://{at.hostname or ''}{f':{at.port}' if at.port else ''}"  # never the password
    try:
        found = _ask(url, api_key) if at.scheme in ("http", "https") else asyncio.run(_read(url))
    except (httpx.HTTPError, MemoryUnavailable, OSError, ValueError) as error:
        raise DataError(
            f"no votes could be had from {where}: {error or type(error).__name__}.\n"
            "Start Parley (make run) and try again, or train on an exported file: --data feedback.jsonl"
        ) from error
    if not found.strip():
        raise DataError(f"there are no votes yet at {where}: chat, and press the thumbs under the replies")
    return found


def _ask(url: str, api_key: str | None) -> bytes:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    answer = httpx.get(f"{url.rstrip('/')}/feedback/export", headers=headers, timeout=_TIMEOUT_S)
    return answer.raise_for_status().content


async def _read(url: str) -> bytes:
    async with connect(url) as redis:
        votes = FeedbackStore(redis, Memory(redis)).export()
        return b"".join([vote.model_dump_json().encode() + b"\n" async for vote in votes])
