"""The inside of a job's process: polite to what serves, heard by the service, and gone when that is gone.

What it says are lines of JSON on its standard output, each an update of the job's record.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

_LOWEST_PRIORITY = 19
_BETWEEN_S = 0.5

Report = Callable[[str, int, int], None]
"""Called with the stage, and (step, steps in all) of it; 0 in all: not known."""


class Fault(Exception):
    """A job that cannot go on; the message is for the person who started it."""


class Teller:
    """Says how far a job is: at the beginning and the end of each stage, in between twice a second."""

    def __init__(self, say: Callable[[dict[str, Any]], None]) -> None:
        self._say = say
        self._stage = ""
        self._began = self._first = self._said = 0.0

    def __call__(self, stage: str, step: int, total: int) -> None:
        """As `Report`."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began, self._first = stage, now, step
        elif now < self._said + _BETWEEN_S and step < total:
            return
        self._said = now
        done = step - self._first
        left_s = (now - self._began) / done * (total - step) if done > 0 and total else None
        seconds_left = None if left_s is None else round(left_s, 1)
        self._say({"stage": stage, "step": step, "total": total, "seconds_left": seconds_left})


def main(work: Callable[[Report], dict[str, Any]]) -> NoReturn:
    """Do the work, say its outcome (fields of the job's record) or its fault, and end the process."""
    threading.Thread(target=_end_with_the_service, daemon=True).start()
    os.nice(_LOWEST_PRIORITY)
    # Libraries print what they like; only what is said here is for the service.
    heard = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(update: dict[str, Any]) -> None:
        heard.write(json.dumps(update) + "\n")
        heard.flush()

    try:
        say(work(Teller(say)))
    except Fault as fault:
        say({"error": str(fault)})
        sys.exit(1)
    sys.exit(0)


def _end_with_the_service() -> NoReturn:
    """Standard input is a pipe whose other end closes when the service ends, however it ends."""
    with suppress(OSError):
        while os.read(0, 1):
            pass
    os._exit(1)
