"""Where spans go, and what is left out of them. Imported by `tracing` alone, for the SDK comes with it."""

from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Status

_LEFT_OUT = frozenset({"url.path", "url.query", "http.request.method_original", "user_agent.original"})
"""What callers write as they like; http.route and http.request.method say it in words that are known."""


def exporting_to(endpoint: str, service: str) -> TracerProvider:
    """Spans of `service` are sent to the collector whose OTLP/HTTP base is `endpoint`, in the background."""
    resource = Resource.create(
        {
            "service.name": f"parley-{service}",
            "service.namespace": "parley",
            "service.version": version("parley"),
        }
    )
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(_Discreet(OTLPSpanExporter(f"{endpoint}/v1/traces")))
    return provider


class _Discreet(BatchSpanProcessor):
    """Sends spans without texts: what an exception says may quote one, and so may an address."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span that has ended."""
        attributes = span.attributes or {}
        super().on_end(
            ReadableSpan(
                name=span.name,
                context=span.context,
                parent=span.parent,
                resource=span.resource,
                attributes={name: value for name, value in attributes.items() if name not in _LEFT_OUT},
                links=span.links,
                kind=span.kind,
                status=Status(span.status.status_code),
                start_time=span.start_time,
                end_time=span.end_time,
                instrumentation_scope=span.instrumentation_scope,
            )
        )
