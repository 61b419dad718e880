"""What the dialogue service alone measures; see `shared.metrics`."""

from prometheus_client import Counter, Histogram

from shared.metrics import QUICK_S, SLOW_S

PROMPT_TOKENS = Counter("prompt_tokens_total", "Tokens of prompts, reused ones included.")
REUSED_TOKENS = Counter(
    "prompt_tokens_reused_total", "Tokens of prompts that were not computed again: they stood in the cache."
)
GENERATED_TOKENS = Counter("generated_tokens_total", "Tokens drawn, for all candidates of a reply.")
PREFILL = Histogram(
    "prefill_duration_seconds", "Time from a reply's first step to its first token.", buckets=SLOW_S
)
DECODE = Histogram("decode_duration_seconds", "Time from a reply's first token to its last.", buckets=SLOW_S)
REDIS = Histogram(
    "redis_command_duration_seconds",
    "Time a Redis command took, failed ones included.",
    ("command",),
    buckets=QUICK_S,
)
INTENT = Histogram(
    "intent_request_duration_seconds",
    "Time the intent service took, by what came of it: an intent, or a failure.",
    ("outcome",),
    buckets=QUICK_S,
)
