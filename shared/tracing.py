"""Traces over both services, by OpenTelemetry, where OTEL_EXPORTER_OTLP_ENDPOINT names a collector.

The framework makes the span of each request itself and goes on with the trace that a caller began; here is
where spans are sent, and what they may say: no texts, so neither queries nor what exceptions say. The SDK is
imported only if there is a collector. Its other variables (OTEL_TRACES_SAMPLER and the like) hold too.
"""

import threading
from typing import Any

import httpx
from fastapi.telemetry import TelemetryConfig
from opentelemetry.trace import NoOpTracerProvider, TracerProvider
from redis.asyncio import Redis

from shared.access import is_open

_FLUSH_S = 3.0


def provider_for(service: str, endpoint: str | None) -> TracerProvider:
    """Makes the tracers of a service; without an endpoint they do nothing."""
    if endpoint is None:
        return NoOpTracerProvider()
    from shared.spans import exporting_to  # the SDK comes with it

    return exporting_to(endpoint, service)


def config(provider: TracerProvider) -> TelemetryConfig:
    """What FastAPI is told: spans of requests and WebSockets alone, for metrics and log are Parley's own."""
    return TelemetryConfig(
        tracer_provider=provider,
        tracing=not isinstance(provider, NoOpTracerProvider),
        metrics=False,
        logs=False,
        operation_spans=False,
        auto_configure=False,
        exclude=lambda scope: is_open(scope) or scope["path"] == "/metrics",
    )


def follow(client: httpx.AsyncClient | Redis, provider: TracerProvider) -> None:
    """Make a span of each call of `client`; over HTTP the trace goes on at the other end."""
    if isinstance(provider, NoOpTracerProvider):
        return
    if isinstance(client, httpx.AsyncClient):
        from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

        HTTPXClientInstrumentor.instrument_client(client, tracer_provider=provider)
    else:
        from opentelemetry.instrumentation.redis import RedisInstrumentor

        RedisInstrumentor.instrument_client(client, tracer_provider=provider)


def end(provider: TracerProvider) -> None:
    """Send what is left, for a few seconds at most."""
    if isinstance(provider, NoOpTracerProvider):
        return
    sdk: Any = provider
    sending = threading.Thread(target=sdk.shutdown, daemon=True)
    sending.start()
    sending.join(_FLUSH_S)
