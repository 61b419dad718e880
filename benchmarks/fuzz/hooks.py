"""What is no fault although it looks like one, and a count of all answers. Schemathesis loads this file."""

import atexit
import json
import os
import random
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import schemathesis

STATUSES = "PARLEY_FUZZ_STATUSES"
"""Names the file that takes the counts."""

_NO_SCHEMA_CAN_SAY = {
    "idempotency-key-reused": "whether a key was given before",
    "invalid-body/labels": "that a_b and a b are one label, and that none may be called unknown",
}

_KEY, _NEW_KEYS = "Idempotency-Key", 0.9

_answers: Counter[str] = Counter()


@schemathesis.hook
def before_call(_: Any, case: Any, __: Any) -> None:
    """Let most keys be new ones: else nearly all messages are refused because theirs was given before."""
    key = (case.headers or {}).get(_KEY)
    if isinstance(key, str) and key and random.random() < _NEW_KEYS:  # noqa: S311
        case.headers[_KEY] = key + uuid.uuid4().hex


@schemathesis.hook
def after_call(_: Any, case: Any, response: Any) -> None:
    """Count an answer."""
    _answers[f"{case.operation.label} {response.status_code}"] += 1


@schemathesis.hook
def filter_failure(_: Any, failure: Any, __: Any, response: Any) -> bool:
    """False: a request that the document allows was refused for what no document can say."""
    if response.status_code == 502 and response.json()["type"].endswith(":feedback-unavailable"):
        return False  # documented, and true where the dialogue service does not run
    if type(failure).__name__ != "RejectedPositiveData":
        return True
    problem = response.json()
    slug = problem["type"].rpartition(":")[2]
    pointers = {error["pointer"].split("/")[1] for error in problem.get("errors", [])}
    return not ({slug, *(f"{slug}/{pointer}" for pointer in pointers)} & _NO_SCHEMA_CAN_SAY.keys())


@atexit.register
def _write() -> None:
    if file := os.environ.get(STATUSES):
        Path(file).write_text(json.dumps(_answers))
