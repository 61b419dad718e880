"""How every service is put together and served: the same walls, errors, health, metrics and log lines."""

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from shared import allocator, metrics, problems, settings, telemetry, tracing
from shared.access import MAX_BODY_BYTES, BearerKey, Bounds, OwnPages
from shared.connections import BOUNDS
from shared.contracts import Info, Liveness, Readiness
from shared.model_slot import ModelSlot
from shared.problems import ForeignHost, ForeignOrigin, Unauthorized
from shared.settings import ServiceSettings, SettingsFault

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[dict[str, Any]]]

_SHUTDOWN_GRACE_S = 10


def create_app(
    configured: ServiceSettings, description: str, *, lifespan: Lifespan, door: Path | None = None
) -> FastAPI:
    """An app with everything the services have in common; the caller adds its routes.

    The lifespan's state must hold `slot`, with a model that has a `dtype`, and `readiness`, a function that
    returns the service's Readiness. `door` is the page that asks a person for the key.
    """
    provider = tracing.provider_for(configured.service, configured.otlp_endpoint)
    app = FastAPI(
        title=f"Parley {configured.service} service",
        description=description,
        version=version("parley"),
        responses=problems.responses(ForeignHost, ForeignOrigin),
        telemetry=tracing.config(provider),
        lifespan=partial(_lifespan, lifespan),
    )
    app.state.tracer_provider = provider
    metrics.BUILD.labels(version("parley")).set(1)
    problems.install(app)
    app.include_router(_common(configured))
    origins = (configured.cors_origins or "").split()
    # The last is met first.
    if configured.api_key:
        app.add_middleware(BearerKey, key=configured.api_key, door=door.read_text("utf-8") if door else None)
    app.add_middleware(Bounds)
    if origins:
        # Before the key is asked for, because browsers send none with the question whether they may ask.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[telemetry.REQUEST_ID_HEADER, "Retry-After"],
        )
    app.add_middleware(OwnPages, origins=origins, rebinding=configured.api_key is not None)
    app.add_middleware(telemetry.RequestTelemetry, service=configured.service)
    return app


@contextlib.asynccontextmanager
async def _lifespan(inner: Lifespan, app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    try:
        async with inner(app) as state:
            yield state
    finally:
        await asyncio.to_thread(tracing.end, app.state.tracer_provider)


def _common(configured: ServiceSettings) -> APIRouter:
    router = APIRouter(tags=["service"])

    @router.get("/health/live", summary="Is the process alive?")
    async def live() -> Liveness:
        return Liveness()

    @router.get(
        "/health/ready",
        summary="Can it do its job now?",
        responses={503: {"model": Readiness, "description": "Not now; the reasons say why."}},
    )
    async def ready(request: Request, response: Response) -> Readiness:
        readiness: Readiness = await request.state.readiness()
        if readiness.status != "ready":
            response.status_code = 503
            response.headers["Retry-After"] = "5"
        return readiness

    @router.get("/info", summary="What is running?", responses=problems.responses(Unauthorized))
    async def info(request: Request) -> Info:
        readiness: Readiness = await request.state.readiness()
        return Info(
            service=configured.service,
            version=version("parley"),
            model=readiness.model.serving,
            limits=configured.limits() | {"max_body_bytes": MAX_BODY_BYTES},
        )

    @router.get(
        "/metrics",
        summary="Prometheus metrics",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            **problems.responses(Unauthorized),
        },
    )
    async def show_metrics(request: Request) -> Response:
        slot: ModelSlot[Any] = request.state.slot
        if slot.ready:
            metrics.show_model(configured.service, slot.served.name, slot.served.model.dtype)
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return router


def main(kind: type[settings.S], build: Callable[[settings.S], FastAPI]) -> None:
    """Serve until told to stop. A wrong setting ends it with one line and exit status 2."""
    allocator.settle()
    try:
        configured = settings.load(kind)
    except SettingsFault as fault:
        sys.exit(_refuse(fault))
    assert isinstance(configured, ServiceSettings)  # noqa: S101  # narrows the type
    telemetry.configure_logging(configured.log_format, texts=configured.log_messages)
    # Uvicorn ends all requests and then raises the signal again, which would make this a violent death.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if configured.is_exposed:
        telemetry.logger.warning(
            "THE %s SERVICE IS OPEN TO EVERYONE who can reach this machine (%s=%s): set API_KEY, for example "
            "by API_KEY=$(%s)",
            configured.service.upper(),
            configured.variable("host"),
            configured.host,
            settings.MAKE_KEY,
        )
    app = build(configured)
    # What has been imported stays for good. Every full collection would look through it, for a quarter of a
    # second in which nobody is answered.
    gc.collect()
    gc.freeze()
    uvicorn.run(
        app,
        host=configured.host,
        port=configured.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_SHUTDOWN_GRACE_S,
        **BOUNDS,
    )


def _refuse(fault: SettingsFault) -> int:
    print(fault, file=sys.stderr)
    return 2
