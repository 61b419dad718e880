"""One turn is one trace and one request id, over both services."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from websockets.sync.client import connect

from shared.settings import REPOSITORY
from tests.both import both
from tests.collector import Collector
from tests.logs import logging_to
from tests.servers import RedisServer, free_port, wait_until

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = "00-{}-b7ad6b7169203331-01"


def turn_over(kind: str, client: httpx.Client, headers: dict[str, str]) -> None:
    """One turn by POST /chat, POST /chat/stream or the WebSocket."""
    said = {"message": "Good morning!", "conversation": kind.strip("/").replace("/", ".")}
    if kind != "/chat/ws":
        client.post(kind, json=said, headers=headers).raise_for_status()
        return
    url = str(client.base_url).replace("http", "ws") + kind
    with connect(url, additional_headers=headers) as socket:
        socket.send(json.dumps(said))
        while json.loads(socket.recv(timeout=30))["event"] not in ("done", "error"):
            pass


KINDS = {"/chat": "1", "/chat/stream": "2", "/chat/ws": "3"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_turn_is_one_trace_over_both_services(
    observed: dict[str, httpx.Client], collector: Collector, kind: str
) -> None:
    trace = KINDS[kind] * 32
    turn_over(kind, observed["dialogue"], {"traceparent": TRACEPARENT.format(trace)})
    own = f"{'WS' if kind == '/chat/ws' else 'POST'} {kind}"
    wait_until(lambda: own in collector.of(trace).get("parley-dialogue", ()))  # the last one to end
    wait_until(lambda: "parley-intent" in collector.of(trace))
    names = collector.of(trace)
    assert names["parley-intent"] == ["POST /intent"]
    assert names["parley-dialogue"].count("generate") == 1
    assert sum("EVALSHA" in name for name in names["parley-dialogue"]) >= 2  # recall and append

    spans = {span.name: span for _, span in collector.spans if span.trace_id.hex() == trace}
    ids = {span.span_id: span for span in spans.values()}
    asked = ids[spans["POST /intent"].parent_span_id]
    assert (asked.name, asked.kind) == ("POST", Span.SPAN_KIND_CLIENT)
    assert ids[asked.parent_span_id] is ids[spans["generate"].parent_span_id] is spans[own]
    model = {a.key: a.value.string_value for a in spans["generate"].attributes}
    assert model["gen_ai.request.model"] == "talker"


@pytest.mark.parametrize("kind", KINDS)
def test_both_services_log_a_turn_under_one_request_id_and_one_trace(
    observed: dict[str, httpx.Client], kind: str
) -> None:
    trace = KINDS[kind] * 31 + "f"
    with logging_to() as log:
        headers = {"traceparent": TRACEPARENT.format(trace), "X-Request-ID": f"id{KINDS[kind]}"}
        turn_over(kind, observed["dialogue"], headers)
        # Over the WebSocket the turn and the connection are a line each.
        wait_until(lambda: len(log.lines(message="request", service="dialogue")) == 1 + (kind == "/chat/ws"))
    lines = log.lines(message="request")
    assert {line["request_id"] for line in lines} == {f"id{KINDS[kind]}"}
    assert {line["trace_id"] for line in lines} == {trace}
    assert [line["route"] for line in lines if line["service"] == "intent"] == ["/intent"]
    assert {line["route"] for line in lines if line["service"] == "dialogue"} == {kind}


def test_health_and_metrics_make_no_spans(observed: dict[str, httpx.Client], collector: Collector) -> None:
    for client in observed.values():
        for path in ("/health/live", "/health/ready", "/metrics", "/info"):
            client.get(path, headers={"traceparent": TRACEPARENT.format(TRACE)}).raise_for_status()

    def served() -> list[str]:
        spans = [span for _, span in collector.spans if span.trace_id.hex() == TRACE]
        return [span.name for span in spans if span.kind == Span.SPAN_KIND_SERVER]

    wait_until(lambda: len(served()) >= 2)  # what is asked last ends last, and is sent last
    assert served() == ["GET /info", "GET /info"]


def test_a_collector_that_is_away_harms_nobody(
    two_models: tuple[Path, Path], redis_server: RedisServer
) -> None:
    redis_server.empty()
    to = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    with both(*two_models, REDIS_URL=redis_server.url, **to) as clients:
        for kind in KINDS:
            turn_over(kind, clients["dialogue"], {})


def test_without_a_collector_nothing_that_traces_is_imported() -> None:
    code = """
import sys
import dialogue_service.app, intent_service.app
from dialogue_service.settings import DialogueSettings
from intent_service.settings import IntentSettings
dialogue_service.app.create_app(DialogueSettings())
intent_service.app.create_app(IntentSettings())
traces = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "opentelemetry.instrumentation")
print([name for name in sys.modules if name.startswith(traces)])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "[]\n"
