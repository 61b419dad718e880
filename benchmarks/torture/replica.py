"""One more dialogue service beside a running Parley, on the same Redis or on a way to it."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

import httpx

from shared.settings import REPOSITORY
from tests.servers import free_port, wait_until

_READY_S = 400.0


class Replica:
    """A process of its own. A context manager that ends it."""

    def __init__(self, log: Path, **settings: str) -> None:
        self.port = free_port()
        self._log = log
        self._settings = settings | {"DIALOGUE_PORT": str(self.port), "LOG_FORMAT": "json"}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def start(self) -> None:
        """Start it (again) and wait until it is ready."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dialogue_service"],
                cwd=REPOSITORY,
                env=os.environ | self._settings,
                stdout=log,
                stderr=log,
            )
        wait_until(self.ready, _READY_S)

    def ready(self) -> bool:
        """Whether it says so."""
        if self.process.poll() is not None:
            raise RuntimeError(f"it ended:\n{self._log.read_text()[-2000:]}")
        try:
            url = f"http://127.0.0.1:{self.port}/health/ready"
            return httpx.get(url, timeout=5, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        """kill -9, and start it again."""
        self.process.kill()
        self.process.wait()
        self.start()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)
