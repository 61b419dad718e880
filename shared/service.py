"""How every service is put together and served: the same walls, errors, health, metrics and log lines."""

import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from shared import problems, settings, telemetry
from shared.access import MAX_BODY_BYTES, BearerKey, BodyLimit
from shared.contracts import Info, Liveness, Readiness
from shared.problems import Unauthorized
from shared.settings import ServiceSettings, SettingsFault

_SHUTDOWN_GRACE_S = 10
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def create_app(configured: ServiceSettings, description: str, **options: Any) -> FastAPI:
    """An app with everything the services have in common; the caller adds its routes.

    Its lifespan's state must hold `readiness`, a function that returns the service's Readiness.
    """
    app = FastAPI(
        title=f"Parley {configured.service} service",
        description=description,
        version=version("parley"),
        **options,
    )
    problems.install(app)
    app.include_router(_common(configured))
    if configured.api_key:
        app.add_middleware(BearerKey, key=configured.api_key)
    app.add_middleware(BodyLimit)
    app.add_middleware(telemetry.RequestTelemetry, service=configured.service)
    return app


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
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return router


def main(kind: type[settings.S], build: Callable[[settings.S], FastAPI]) -> None:
    """Serve until told to stop. A wrong setting ends it with one line and exit status 2."""
    try:
        configured = settings.load(kind)
    except SettingsFault as fault:
        sys.exit(_refuse(fault))
    assert isinstance(configured, ServiceSettings)  # noqa: S101  # narrows the type
    telemetry.configure_logging(configured.log_format)
    # Uvicorn ends all requests and then raises the signal again, which would make this a violent death.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if configured.host not in _LOOPBACK and not configured.api_key:
        telemetry.logger.warning(
            "%s listens on %s, open to everyone who can reach this machine: set API_KEY to require a key",
            configured.service,
            configured.host,
        )
    uvicorn.run(
        build(configured),
        host=configured.host,
        port=configured.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_SHUTDOWN_GRACE_S,
        ws_max_size=MAX_BODY_BYTES,  # of one message; a larger one is answered with close code 1009
    )


def _refuse(fault: SettingsFault) -> int:
    print(fault, file=sys.stderr)
    return 2
