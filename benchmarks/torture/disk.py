"""The memory's disk is full, or becomes read-only."""

import asyncio
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from benchmarks.sections import Check, Section
from benchmarks.torture import echo
from benchmarks.torture.clients import Crowd
from benchmarks.torture.http import Answer, Connection
from tests.parley import Parley

Say = Callable[[str], None]

CLIENTS = 4
_DISK_MB = 64
_TALK_S = 1.5
_REASONS = {"full": "No space left on device", "read-only": "Read-only file system"}


class CannotMount(Exception):
    """This machine lets nobody mount a small disk here."""


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount one of _DISK_MB megabytes there. Raises CannotMount."""
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={_DISK_MB}m", "tmpfs", str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing that is opened from now on can be written to."""
    _mount("--bind", str(folder), str(folder))
    try:
        _mount("-o", "remount,bind,ro", str(folder))
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*options: str) -> None:
    try:
        done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotMount(f"mount: {error.strerror}") from None
    if done.returncode:
        raise CannotMount(done.stderr.strip())


def full_and_read_only(say: Say, rounds: int) -> Section:
    """Both, while clients talk. Raises CannotMount."""
    with (
        TemporaryDirectory(prefix="parley-torture-") as folder,
        small_disk(Path(folder) / "data"),
        echo.serving() as model,
        Parley(Path(folder), **echo.settings(model)) as parley,
    ):
        return asyncio.run(_Disk(parley, Path(folder) / "data", say).run(rounds))


class _Disk:
    def __init__(self, parley: Parley, data: Path, say: Say) -> None:
        self._parley = parley
        self._data = data
        self._say = say
        self._port = urlsplit(parley.urls["dialogue"]).port or 0
        self._crowd = Crowd(self._port)
        self._faults: list[str] = []
        self._recovered: dict[str, list[float]] = {name: [] for name in _REASONS}

    async def run(self, rounds: int) -> Section:
        for number in range(rounds):
            for name, fault in (("full", self._filled), ("read-only", self._read_only)):
                self._say(f"{name}, {number + 1} of {rounds}")
                await self._round(name, fault)
        return self._section(rounds)

    async def _round(self, name: str, fault: Callable[[], Iterator[None]]) -> None:
        enough = asyncio.Event()
        talking = asyncio.create_task(self._crowd.talk(CLIENTS, enough))
        await asyncio.sleep(_TALK_S)
        with contextmanager(fault)():
            refusal = await self._refusal()
            reason = refusal.json()["detail"] if refusal.status == 503 else refusal.body
            if _REASONS[name] not in str(reason):
                self._faults.append(f"{name}: answered {refusal.status}, {reason!r}")
            await asyncio.sleep(_TALK_S)
        began = time.monotonic()
        await self._until(200)
        self._recovered[name].append(time.monotonic() - began)
        await asyncio.sleep(_TALK_S)
        enough.set()
        await talking
        self._faults += await self._crowd.faults()
        self._crowd.errors.clear()

    def _filled(self) -> Iterator[None]:
        ballast = self._data / "ballast"
        with ballast.open("wb") as file:
            for size in (1 << 20, 1 << 12):
                try:
                    while True:
                        os.write(file.fileno(), bytes(size))
                except OSError:
                    pass
        yield
        ballast.unlink()

    def _read_only(self) -> Iterator[None]:
        (folder,) = (path for path in self._data.iterdir() if path.name.startswith("valkey"))
        with read_only(folder):
            self._parley.child("valkey").kill()
            yield

    async def _refusal(self) -> Answer:
        """The first answer that names a reason, or the last of a few."""
        answer = await self._until(503)
        for _ in range(50):
            if any(reason in answer.body.decode() for reason in _REASONS.values()):
                break
            await asyncio.sleep(0.1)
            answer = await self._until(503)
        return answer

    async def _until(self, status: int) -> Answer:
        async with Connection(self._port) as connection:
            for _ in range(300):
                body = {"message": "Is there room?", "conversation": "room"}
                answer = await connection.request("POST", "/chat", body)
                if answer.status == status:
                    return answer
                await asyncio.sleep(0.1)
        return answer

    def _section(self, rounds: int) -> Section:
        section = Section(
            "The disk fails",
            f"The memory lies on a disk of {_DISK_MB} MB that is filled, and its folder becomes read-only "
            f"(and Redis is killed, for what it has opened stays writable), while {CLIENTS} clients chat, "
            "vote and read. Refusals must name the reason; afterwards all that was acknowledged must be "
            "there. "
            "Recovery: from the disk's to the first reply, longest.",
        )
        section.facts = {
            f"rounds, {name}; recovery, s": f"{rounds}; {max(took):.1f}"
            for name, took in self._recovered.items()
        }
        section.facts |= {what: f"{number:,}" for what, number in self._crowd.ledger.counts().items()}
        section.findings = self._faults
        section.checks = [
            Check.at_most(len(self._faults), 0, "Disk full or read-only: lost, or no reason given", "faults")
        ]
        return section
