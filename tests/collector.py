"""An OpenTelemetry collector: takes spans over OTLP/HTTP and keeps them."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI, Request, Response
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.servers import serving


@dataclass
class Collector:
    """What has arrived so far, span by span under the name of the service that sent it."""

    url: str = ""
    spans: list[tuple[str, Span]] = field(default_factory=list)

    def of(self, trace_id: str) -> dict[str, list[str]]:
        """The names of a trace's spans, by service."""
        found: dict[str, list[str]] = {}
        for service, span in self.spans:
            if span.trace_id.hex() == trace_id:
                found.setdefault(service, []).append(span.name)
        return found

    def take(self, body: bytes) -> None:
        """One export, as its protobuf."""
        for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
            (service,) = [a.value.string_value for a in sent.resource.attributes if a.key == "service.name"]
            self.spans += [(service, span) for scope in sent.scope_spans for span in scope.spans]


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that runs."""
    collector, app = Collector(), FastAPI()

    @app.post("/v1/traces")
    async def traces(request: Request) -> Response:
        body = await request.body()
        collector.take(gzip.decompress(body) if request.headers.get("Content-Encoding") == "gzip" else body)
        return Response(media_type="application/x-protobuf")

    with serving(app) as collector.url:
        yield collector
