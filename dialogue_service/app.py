"""Wires the dialogue service together."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, Response
from redis import RedisError, ResponseError

from dialogue_service import memory as memory_store
from dialogue_service.api import chat as chat_api
from dialogue_service.api import feedback as feedback_api
from dialogue_service.api import memory as memory_api
from dialogue_service.api.state import State
from dialogue_service.chat import Chat
from dialogue_service.feedback import FeedbackStore
from dialogue_service.generation import Generator
from dialogue_service.generation.local import LocalGenerator
from dialogue_service.intent_client import IntentClient
from dialogue_service.memory import Memory
from dialogue_service.settings import DialogueSettings
from dialogue_service.turns import Turns
from shared import service
from shared.contracts import Readiness
from shared.model_slot import ModelSlot
from shared.problems import MemoryUnavailable
from shared.worker import Worker

_PAGE = Path(__file__).parent / "web" / "index.html"
_READY_TIMEOUT_S = 1.0


def create_app(settings: DialogueSettings) -> FastAPI:
    """The dialogue service. Models load in the background once it runs."""
    app = service.create_app(
        settings,
        description="Talks, remembers, forgets, and keeps what people think of its replies.",
        lifespan=partial(_lifespan, settings),
    )
    for part in (chat_api, memory_api, feedback_api):
        app.include_router(part.router)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_PAGE)

    @app.exception_handler(RedisError)
    async def memory_away(_: Request, error: Exception) -> Response:
        # ResponseError carries Redis' own reason (disk full, read-only); anything else is "no answer".
        said = f"Redis refused: {error}" if isinstance(error, ResponseError) else None
        return MemoryUnavailable(said, retry_after_s=2).response()

    return app


@contextlib.asynccontextmanager
async def _lifespan(settings: DialogueSettings, _: FastAPI) -> AsyncIterator[dict[str, Any]]:
    load = partial(
        LocalGenerator,
        context_tokens=settings.context_tokens,
        reply_tokens=settings.reply_tokens,
        candidates=settings.candidates,
        dtype=settings.dtype,
        queue=settings.queue,
        cache_mb=settings.cache_mb,
    )
    headers = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
    async with (
        memory_store.connect(settings.redis_url) as redis,
        httpx.AsyncClient(
            base_url=settings.intent_url, headers=headers, timeout=settings.intent_timeout
        ) as http,
    ):
        with Worker("loader", capacity=2) as loader:
            slot: ModelSlot[Generator] = ModelSlot(
                loader, load, lambda generator: generator.warm_up(), "DIALOGUE_MODEL"
            )
            memory = Memory(redis)
            chat = Chat(
                memory=memory,
                intents=IntentClient(http, settings.intent_timeout),
                slot=slot,
                turns=Turns(settings.queue),
                deadline_s=settings.deadline,
            )
            loading = asyncio.create_task(_load_models(slot, settings))
            try:
                yield {
                    "dialogue": State(chat=chat, memory=memory, feedback=FeedbackStore(redis, memory)),
                    "readiness": partial(_readiness, slot, memory),
                }
            finally:
                loading.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await loading


async def _load_models(slot: ModelSlot[Generator], settings: DialogueSettings) -> None:
    """The stand-in first: it is small and near. Then the model that was asked for."""
    if settings.standin:
        await slot.put(settings.standin)
    if settings.model:
        await slot.keep_trying(settings.model, settings.revision)


async def _readiness(slot: ModelSlot[Generator], memory: Memory) -> Readiness:
    reasons = []
    if not slot.ready:
        reasons.append("no model can answer yet")
    try:
        async with asyncio.timeout(_READY_TIMEOUT_S):
            await memory.ping()
    except (RedisError, TimeoutError):
        reasons.append("Redis does not answer")
    return Readiness(status="not-ready" if reasons else "ready", reasons=reasons, model=slot.status())
