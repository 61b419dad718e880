"""Wires the dialogue service together."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.responses import FileResponse
from opentelemetry.trace import TracerProvider

from dialogue_service import connection
from dialogue_service.api import chat as chat_api
from dialogue_service.api import feedback as feedback_api
from dialogue_service.api import memory as memory_api
from dialogue_service.api import socket as socket_api
from dialogue_service.api import stream as stream_api
from dialogue_service.api import training as training_api
from dialogue_service.api.state import State
from dialogue_service.chat import Chat
from dialogue_service.feedback import FeedbackStore
from dialogue_service.generation import Generator, upstream
from dialogue_service.generation.local import LocalGenerator
from dialogue_service.generation.upstream import UpstreamGenerator
from dialogue_service.intent_client import IntentClient
from dialogue_service.memory import Memory
from dialogue_service.promotion.preparing import Preparation
from dialogue_service.settings import DialogueSettings
from dialogue_service.turns import Turns
from shared import models_api, service, tracing
from shared import training_api as shared_training_api
from shared.access import PAGE_POLICY
from shared.contracts import Readiness
from shared.jobs import Jobs
from shared.model_slot import ModelSlot, Source
from shared.problems import MemoryUnavailable
from shared.registry import Registry
from shared.versions import Versions
from shared.worker import Worker

_WEB = Path(__file__).parent / "web"
_READY_TIMEOUT_S = 1.0
_INTENT_CONNECTIONS = httpx.Limits(max_connections=16, max_keepalive_connections=16)
"""All are kept: a new one for each message costs more than what is said on it."""


def create_app(settings: DialogueSettings) -> FastAPI:
    """The dialogue service. Models load in the background once it runs."""
    app = service.create_app(
        settings,
        description="Talks, remembers, forgets, and keeps what people think of its replies.",
        door=_WEB / "key.html",
        lifespan=partial(_lifespan, settings),
    )
    own = (chat_api, stream_api, socket_api, memory_api, feedback_api, training_api)
    for part in (*own, models_api, shared_training_api):
        app.include_router(part.router)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_WEB / "index.html", headers={**PAGE_POLICY, "Cache-Control": "no-store"})

    return app


@contextlib.asynccontextmanager
async def _lifespan(settings: DialogueSettings, app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    provider: TracerProvider = app.state.tracer_provider
    load = partial(LocalGenerator, **settings.generation())
    headers = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
    async with (
        connection.connect(settings.redis_url, settings.memory_folder) as redis,
        httpx.AsyncClient(
            base_url=settings.intent_url,
            headers=headers,
            timeout=settings.intent_timeout,
            limits=_INTENT_CONNECTIONS,
        ) as http,
        _upstream(settings) as elsewhere,
        Turns(redis, settings.queue) as turns,
    ):
        tracing.follow(http, provider)
        tracing.follow(redis, provider)
        if elsewhere:
            tracing.follow(elsewhere.http, provider)
        with Worker("loader", capacity=2, lasting=False) as loader:
            slot: ModelSlot[Generator] = ModelSlot(
                loader, load, lambda generator: generator.warm_up(), "DIALOGUE_MODEL"
            )
            versions = _versions(slot, settings, elsewhere)
            memory = Memory(redis)
            chat = Chat(
                memory=memory,
                intents=IntentClient(http, settings.intent_timeout),
                slot=slot,
                turns=turns,
                deadline_s=settings.deadline,
                tracer=provider.get_tracer("parley"),
            )
            feedback = FeedbackStore(redis, memory)
            async with versions, Jobs(settings.registry, "dialogue_service.promotion", versions) as jobs:
                yield {
                    "dialogue": State(
                        chat=chat,
                        memory=memory,
                        feedback=feedback,
                        sockets=asyncio.Semaphore(settings.sockets),
                        prepare=Preparation(feedback, versions, settings),
                    ),
                    "jobs": jobs,
                    "readiness": partial(_readiness, slot, memory),
                    "slot": slot,
                    "versions": versions,
                }


def _versions(
    slot: ModelSlot[Generator], settings: DialogueSettings, elsewhere: UpstreamGenerator | None
) -> Versions[Generator]:
    """The stand-in comes first, for it is small and near; without another model it is the configured one."""
    model = settings.model or settings.standin
    return Versions(
        slot,
        Registry(settings.registry),
        configured=Source(model, revision=settings.revision, made=elsewhere) if model else None,
        standin=settings.standin if settings.model else "",
    )


@contextlib.asynccontextmanager
async def _upstream(settings: DialogueSettings) -> AsyncIterator[UpstreamGenerator | None]:
    """The model that runs elsewhere, if one does."""
    if settings.generator_url is None:
        yield None
        return
    url, key = settings.generator_url, settings.generator_key
    async with upstream.connect(url, key, settings.deadline, settings.queue) as http:
        yield UpstreamGenerator(
            http,
            settings.model,
            api=settings.generator_api,
            context_tokens=settings.context_tokens,
            reply_tokens=settings.reply_tokens,
            queue=settings.queue,
        )


async def _readiness(slot: ModelSlot[Generator], memory: Memory) -> Readiness:
    reasons = []
    if not slot.ready:
        reasons.append("no model can answer yet")
    try:
        async with asyncio.timeout(_READY_TIMEOUT_S):
            await memory.ping()
    except (MemoryUnavailable, TimeoutError):
        reasons.append("Redis does not answer")
    return Readiness(status="not-ready" if reasons else "ready", reasons=reasons, model=slot.status())
