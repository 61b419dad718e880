"""What both services measure for Prometheus. GET /metrics shows it; each service adds its own.

Names and units follow Prometheus' rules: seconds, and `_total` for what only grows. A label has few values,
which a caller cannot add to: never a text, a conversation's name or an id.
"""

from prometheus_client import Counter, Gauge, Histogram

QUICK_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
SLOW_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120)

REQUESTS = Counter("http_requests_total", "Requests answered.", ("service", "method", "route", "status"))
LATENCY = Histogram(
    "http_request_duration_seconds",
    "Time from the request's head to the answer's end.",
    ("service", "route"),
    buckets=SLOW_S,
)
IN_PROGRESS = Gauge("http_requests_in_progress", "Requests and WebSockets under way.", ("service",))
PROBLEMS = Counter(
    "problems_total", "Requests refused or failed, by the problem's type.", ("service", "cause")
)
QUEUE_DEPTH = Gauge("inference_queue_depth", "Requests that wait for the model.", ("service",))
QUEUE_WAIT = Histogram(
    "inference_queue_wait_seconds", "Time a request waited for the model.", ("service",), buckets=SLOW_S
)
TOKENIZATION = Histogram(
    "tokenization_duration_seconds",
    "Time to turn a prompt, or a batch of messages, into tokens.",
    ("service",),
    buckets=QUICK_S,
)
INFERENCE = Histogram(
    "model_inference_seconds",
    "Time a reply took to be made, waiting included, or the model for a batch of messages.",
    ("service", "model"),
    buckets=SLOW_S,
)
MODEL = Gauge("model_info", "1 for the model in service.", ("service", "model", "dtype"))
BUILD = Gauge("parley_info", "1 for the version of Parley.", ("version",))


def show_model(service: str, model: str, dtype: str) -> None:
    """Make this the service's only model in `model_info`."""
    MODEL.remove_by_labels({"service": service})
    MODEL.labels(service, model, dtype).set(1)
