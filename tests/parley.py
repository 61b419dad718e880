"""Parley as `make run` starts it: the launcher, its own server, both services, the starter model."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

import httpx
import psutil

from shared.settings import REPOSITORY
from tests.servers import all_ended, free_port, wait_until

_READY_S = 400.0


class Parley:
    """One launcher and all that it starts. A context manager that leaves nothing behind."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self._folder = folder
        self.data = folder / "data"
        usual = {"PARLEY_DATA": str(self.data), "DIALOGUE_MODEL": "", "LOG_FORMAT": "json"}
        self._settings = usual | settings
        self.urls = {}
        for service in ("dialogue", "intent"):
            port = free_port()
            self._settings[f"{service.upper()}_PORT"] = str(port)
            self.urls[service] = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=self.urls["dialogue"], timeout=60, trust_env=False)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.interrupt()

    def start(self) -> None:
        """Start the launcher and wait for its banner."""
        self._out, self.log = self._folder / "out", self._folder / "log"
        with self._out.open("wb") as out, self.log.open("ab") as log:
            self.launcher = subprocess.Popen(
                [sys.executable, "-m", "launcher"],
                cwd=REPOSITORY,
                env=os.environ | self._settings,
                stdout=out,
                stderr=log,
            )
        wait_until(lambda: "curl -s" in self.banner or self.launcher.poll() is not None, _READY_S)
        assert self.launcher.poll() is None, self.log.read_text()
        self.family = psutil.Process(self.launcher.pid).children(recursive=True)

    @property
    def banner(self) -> str:
        return self._out.read_text()

    @property
    def pasted(self) -> list[str]:
        """The curl line of the banner, as a shell would take it apart."""
        return shlex.split(self.banner.splitlines()[-1])

    def child(self, name: str) -> psutil.Process:
        """The process that runs `name`: "valkey", "intent_service" or "dialogue_service"."""
        children = psutil.Process(self.launcher.pid).children(recursive=True)
        (found,) = [process for process in children if name in " ".join(process.cmdline())]
        return found

    def redis_socket(self) -> str:
        """The path of the memory's unix socket."""
        return next(c.laddr for c in self.child("valkey").net_connections("unix") if c.laddr)

    def kill(self, name: str) -> None:
        """kill -9 one process, or all by the "launcher"; returns once everything answers again."""
        if name == "launcher":
            self.launcher.kill()
            self.launcher.wait()
            wait_until(self.ended, _READY_S)
            self.start()
            return
        victim = self.child(name)
        victim.kill()
        wait_until(lambda: not victim.is_running(), _READY_S)
        wait_until(self.ready, _READY_S)

    def ready(self) -> bool:
        try:
            return all(httpx.get(f"{url}/health/ready").status_code == 200 for url in self.urls.values())
        except httpx.HTTPError:
            return False

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit status."""
        if self.launcher.poll() is None:
            self.launcher.send_signal(signal.SIGINT)
        return self.launcher.wait(60)

    def ended(self) -> bool:
        """Whether every process that was started is gone."""
        return all_ended(self.family)
