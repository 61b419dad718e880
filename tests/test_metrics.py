"""GET /metrics of both services after real requests: what moved, and whether Prometheus would like it."""

from collections.abc import Iterator

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect

from tests import checkpoints
from tests.both import both
from tests.servers import RedisServer

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]

# promtool check metrics: base units at the end, and no other unit anywhere in a name.
_UNITS = ("_seconds", "_bytes", "_ratio")
_FOREIGN = ("milli", "micro", "minutes", "hours", "percent", "_ms", "_kb", "_mb")
_LABELS = {"service", "method", "route", "status", "cause", "model", "dtype", "version", "command", "outcome"}
_OURS = ("http_", "inference_", "model_", "tokenization_", "prompt_", "generated_", "prefill_", "decode_")
_OURS += ("redis_", "intent_", "problems", "parley_")


@pytest.fixture(scope="module")
def services(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, httpx.Client]]:
    folder = tmp_path_factory.mktemp("models")
    checkpoints.gpt2_like(folder / "talker")
    encoder = checkpoints.bert_encoder(folder / "finder")
    redis_server.empty()
    with both(folder / "talker", encoder, REDIS_URL=redis_server.url) as clients:
        yield clients


def scrape(client: httpx.Client) -> list[Metric]:
    text = client.get("/metrics").raise_for_status().text
    return [metric for metric in text_string_to_metric_families(text) if metric.name.startswith(_OURS)]


def values(client: httpx.Client) -> Values:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for metric in scrape(client)
        for sample in metric.samples
    }


class Moved:
    """By how much samples rose since `before`."""

    def __init__(self, client: httpx.Client, before: Values) -> None:
        self._before, self._after = before, values(client)

    def by(self, name: str, **labels: str) -> float:
        return sum(
            value - self._before.get(key, 0)
            for key, value in self._after.items()
            if key[0] == name and labels.items() <= dict(key[1]).items()
        )


def test_a_turn_moves_what_it_should(services: dict[str, httpx.Client]) -> None:
    client = services["dialogue"]
    before = values(client)
    for message in ("Good morning!", "How are you?"):
        client.post("/chat", json={"message": message, "conversation": "walk"}).raise_for_status()
    moved = Moved(client, before)

    assert moved.by("http_requests_total", service="dialogue", route="/chat", status="200") == 2
    assert moved.by("http_requests_total", service="intent", route="/intent", status="200") == 2
    assert moved.by("http_request_duration_seconds_count", route="/chat") == 2
    assert moved.by("intent_request_duration_seconds_count", outcome="intent") == 2
    assert moved.by("redis_command_duration_seconds_count", command="EVALSHA") >= 4  # recall and append
    for service in ("dialogue", "intent"):
        assert moved.by("inference_queue_wait_seconds_count", service=service) == 2
        assert moved.by("tokenization_duration_seconds_count", service=service) >= 2
        assert moved.by("model_inference_seconds_count", service=service) == 2
        assert moved.by("inference_queue_depth", service=service) == 0
    for phase in ("prefill", "decode"):
        assert moved.by(f"{phase}_duration_seconds_count") == 2
    assert moved.by("prefill_duration_seconds_sum") > 0
    assert moved.by("generated_tokens_total") >= 2
    # The second prompt begins with the first, which stood in the cache, all but its last token.
    assert 0 < moved.by("prompt_tokens_reused_total") < moved.by("prompt_tokens_total")


def test_what_is_said_again_is_not_classified_again_but_counted(services: dict[str, httpx.Client]) -> None:
    before = values(services["intent"])
    for _ in range(2):
        services["intent"].post("/intent", json={"text": "Twice the same."}).raise_for_status()
    moved = Moved(services["intent"], before)
    assert moved.by("http_requests_total", route="/intent") == 2
    assert moved.by("model_inference_seconds_count", service="intent") == 1


@pytest.mark.parametrize(
    ("service", "method", "path", "cause"),
    [
        ("dialogue", "POST", "/chat", "invalid-body"),
        ("dialogue", "GET", "/nothing/here", "not-found"),
        ("dialogue", "PUT", "/chat", "method-not-allowed"),
        ("intent", "POST", "/intent", "invalid-body"),
        ("intent", "POST", "/models/rollback", "nothing-to-roll-back"),
    ],
)
def test_a_refusal_is_counted_under_its_cause(
    services: dict[str, httpx.Client], service: str, method: str, path: str, cause: str
) -> None:
    client = services[service]
    before = values(client)
    answer = client.request(method, path, json={})
    assert answer.json()["type"] == f"urn:parley:problem:{cause}"
    assert Moved(client, before).by("problems_total", service=service, cause=cause) == 1


def test_a_refusal_on_a_websocket_is_counted_too(services: dict[str, httpx.Client]) -> None:
    client = services["dialogue"]
    before = values(client)
    with connect(str(client.base_url).replace("http", "ws") + "/chat/ws") as socket:
        socket.send("{")
        socket.recv(timeout=30)
        moved = Moved(client, before)
        assert moved.by("http_requests_in_progress", service="dialogue") == 1
    assert moved.by("problems_total", service="dialogue", cause="malformed-body") == 1


def test_the_model_in_service_is_named_with_what_it_computes_with(services: dict[str, httpx.Client]) -> None:
    for service, client in services.items():
        (dtype,) = [
            dict(labels)["dtype"]
            for (name, labels), value in values(client).items()
            if name == "model_info" and ("service", service) in labels and value == 1
        ]
        assert dtype in ("float32", "bfloat16", "int8")


def test_names_units_and_labels_are_as_prometheus_wants_them(services: dict[str, httpx.Client]) -> None:
    for client in services.values():
        metrics = scrape(client)
        assert len(metrics) >= 15
        for metric in metrics:
            assert metric.documentation.endswith(".")
            assert not any(unit in metric.name for unit in _FOREIGN), metric.name
            names = {sample.name for sample in metric.samples if not sample.name.endswith("_created")}
            if metric.type == "counter":
                assert names <= {f"{metric.name}_total"}, metric.name
            elif metric.type == "histogram":
                assert metric.name.endswith(_UNITS), metric.name
            else:
                assert metric.type == "gauge"
                assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket")), metric.name


def test_no_label_holds_what_a_caller_wrote(services: dict[str, httpx.Client]) -> None:
    client = services["dialogue"]
    client.post("/chat", json={"message": "marked", "conversation": "marked"})
    client.get("/memory", params={"conversation": "marked"})
    client.get("/marked")
    client.request("MARKED", "/chat")
    client.post("/models/marked/activate")
    for each in services.values():
        for metric in scrape(each):
            for sample in metric.samples:
                assert set(sample.labels) - {"le"} <= _LABELS, sample
                assert "marked" not in str(sample).lower()
