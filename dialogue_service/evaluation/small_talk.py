"""The fixed set of small talk that every model is asked."""

from functools import cache
from pathlib import Path

import yaml

_FILE = Path(__file__).with_suffix(".yaml")

Conversation = tuple[str, ...]
"""Turns of person and model, the person first."""


@cache
def conversations() -> tuple[Conversation, ...]:
    """The lines of both; what a model should say is only one of many good replies."""
    return tuple(tuple(turns) for turns in yaml.safe_load(_FILE.read_text(encoding="utf-8")))
