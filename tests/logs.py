"""What a service writes to its log, as it is configured for real."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from shared import telemetry


class Log:
    """The lines so far."""

    def __init__(self) -> None:
        self.written = io.StringIO()

    @property
    def text(self) -> str:
        return self.written.getvalue()

    def lines(self, **fields: object) -> list[dict[str, Any]]:
        """Those that hold all these fields."""
        lines: list[dict[str, Any]] = [json.loads(line) for line in self.text.splitlines()]
        return [line for line in lines if fields.items() <= line.items()]


@contextmanager
def logging_to(style: str = "json", *, texts: bool = False) -> Iterator[Log]:
    """Everything that is logged meanwhile, under the configuration that `python -m` gives a service."""
    log, root = Log(), logging.getLogger()
    names = ["", "texts", "httpx", "httpx2", "transformers", "huggingface_hub", "uvicorn", "uvicorn.error"]
    levels = {name: logging.getLogger(name).level for name in [*names, "uvicorn.access"]}
    handlers = root.handlers[:]
    root.handlers = []  # basicConfig would close pytest's
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", log.written)
        telemetry.configure_logging(style, texts=texts)
    try:
        yield log
    finally:
        root.handlers = handlers
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
