"""Real servers for tests: Redis as a child process, ASGI apps under uvicorn in a thread."""

import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import psutil
import redis
import uvicorn

from shared.connections import BOUNDS

_START_S = 10.0


class RedisServer:
    """A durable Redis or Valkey on a unix socket. A context manager that starts and ends it."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        # A socket's path is short-limited; pytest's folders are not short.
        self._sockets = tempfile.TemporaryDirectory(prefix="parley-test-")
        self._socket = Path(self._sockets.name) / "s"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._socket}?db=0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._sockets.cleanup()

    def start(self) -> None:
        """Start it (again) on the same folder and wait until it answers."""
        options = {"port": 0, "unixsocket": self._socket, "dir": self._folder, "save": ""}
        options |= {"appendonly": "yes", "appendfsync": "always", "loglevel": "warning"}
        self._process = subprocess.Popen(
            [self._program, *(str(part) for name, value in options.items() for part in (f"--{name}", value))],
            stdout=subprocess.DEVNULL,
        )
        until = time.monotonic() + _START_S
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.02)

    def kill(self) -> None:
        """kill -9."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def empty(self) -> None:
        """Forget everything."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an ASGI app on a free port of this machine; yields its URL."""
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            port=0,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=2,
            **BOUNDS,
        )
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until = time.monotonic() + _START_S
        while not server.started:
            assert thread.is_alive() and time.monotonic() < until, "the app did not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Poll until the condition holds; fails the test when it does not in time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def all_ended(processes: Iterable[psutil.Process]) -> bool:
    """Every process is gone, or waits only for its parent to take note of that."""

    def ended(process: psutil.Process) -> bool:
        try:
            return bool(process.status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True

    return all(map(ended, processes))
