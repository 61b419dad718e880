"""The folder that keeps the memory belongs to one launcher at a time."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from launcher.children import Children, StartFault
from shared import disk

_LOCK_S = 3.0


def make(folder: Path) -> None:
    """Make a folder for its owner alone and write to it, as a trial. Raises StartFault."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartFault(_unusable(folder, error.strerror)) from None
    if fault := disk.fault(folder):
        raise StartFault(_unusable(folder, fault))


def hindrance(folder: Path) -> str | None:
    """Why a server that writes to the folder would only end again."""
    return (fault := disk.fault(folder)) and f"its folder {folder} cannot be written to ({fault})"


def _unusable(folder: Path, fault: str | None) -> str:
    return (
        f"The data folder {folder} cannot be written to ({fault}). "
        "Correct that, or set PARLEY_DATA to another folder."
    )


@contextmanager
def taken(data: Path, children: Children) -> Iterator[IO[str]]:
    """Take the data folder for this launcher, and for every child that is given the open file this yields.

    So not even a server that outlives its launcher ever shares its files with a second one. Raises StartFault
    when another launcher keeps it, and what `Children.pause` raises.
    """
    make(data)
    with (data / "launcher.lock").open("a+") as lock:
        deadline = time.monotonic() + _LOCK_S
        while not _locked(lock):
            # The server of a launcher that was just killed may need a moment to end.
            if time.monotonic() > deadline:
                lock.seek(0)
                raise StartFault(
                    f"Another Parley (process {lock.read().strip()}) uses the folder {data}. "
                    "Stop it, or set PARLEY_DATA to another folder."
                )
            children.pause(0.1)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StartFault(
            f"{lock.name} cannot be locked ({error.strerror}). Set PARLEY_DATA to a folder on a local disk."
        ) from None
    return True
