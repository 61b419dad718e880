"""Training jobs: one at a time, each in a process of its own that makes a model version.

A job lies in the registry, hidden beside the versions: its record, and while it runs a folder for what it
works with. Its process lives no longer than the service; a job that was cut off so is called interrupted,
and started again by whoever wants it.
"""

import asyncio
import contextlib
import itertools
import os
import shutil
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from shared.contracts import Activate, TrainingJob
from shared.problems import NotFound, Problem, SwapInProgress, TrainingRunning, TrainingUnavailable
from shared.registry import Registry, make_private
from shared.settings import REPOSITORY
from shared.versions import Versions

MAX_JOBS = 100

Prepare = Callable[[Path, str], Awaitable[None]]
"""Given a job's folder and the name of its version: puts there all that the process needs."""

_FOLDER = ".jobs"
_LOG = "log"
_MAX_LINE_BYTES = 2**20
_ACTIVATE_S = 900.0
_RETRY_S = 1.0
_CUT_OFF = "The service ended while it ran. Start another one."


class _Update(BaseModel):
    """A line of what the process says: what has changed of the job's record."""

    model_config = ConfigDict(extra="forbid")

    stage: str = ""
    step: int = 0
    total: int = 0
    seconds_left: float | None = None
    version: str | None = None
    scores: dict[str, JsonValue] = Field(default_factory=dict)
    promoted: bool | None = None
    verdict: str | None = None
    error: str | None = None


class Jobs:
    """Starts the module's process for each job; as a context manager, ends what still runs."""

    def __init__(self, registry: Path, module: str, versions: Versions[Any]) -> None:
        self._registry = Registry(registry)
        self._folder = registry / _FOLDER
        self._module = module
        self._versions = versions
        self._jobs: dict[str, TrainingJob] = {}
        self._running: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False

    async def __aenter__(self) -> Self:
        self._jobs = await asyncio.to_thread(self._recover)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    def all(self) -> list[TrainingJob]:
        """The newest first."""
        return sorted(self._jobs.values(), key=lambda job: job.created, reverse=True)

    def get(self, job_id: str) -> TrainingJob:
        """Raises NotFound."""
        if job_id not in self._jobs:
            raise NotFound("There is no such training job. GET /training lists those there are.")
        return self._jobs[job_id]

    async def start(self, method: str, activate: Activate, prepare: Prepare) -> TrainingJob:
        """Begin a job. Raises TrainingRunning, TrainingUnavailable, and what `prepare` raises."""
        if self._running:
            raise TrainingRunning(f"It is {self._running}. {TrainingRunning.advice}")
        job = TrainingJob(
            id=self._new_id(), method=method, activate=activate, state="running", created=datetime.now(UTC)
        )
        self._running, self._cancelled = job.id, False  # before anything is waited for: one at a time
        folder = self._folder / job.id
        try:
            await asyncio.to_thread(make_private, folder)
            await prepare(folder, job.id)
            await asyncio.to_thread(self._write, job)
        except BaseException as error:
            self._running = None
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            if isinstance(error, OSError):
                why = f"The registry cannot be written ({error.strerror})"
                raise TrainingUnavailable(f"{why}: check the disk and the folder's rights.") from error
            raise
        self._jobs[job.id] = job
        self._task = asyncio.create_task(self._run(job.id, folder))
        return job

    async def cancel(self, job_id: str) -> TrainingJob:
        """End a running job, unless its version is on the way into service already. Raises NotFound."""
        job = self.get(job_id)
        if job.state == "running" and job.stage != "activating":
            self._cancelled = True
            await self._stop()
        return self.get(job_id)

    async def _run(self, job_id: str, folder: Path) -> None:
        """Watch the process to its end, and do what is to be done with the version."""
        try:
            await self._hear_out(job_id, folder)
            job = self._jobs[job_id]
            if job.version and (job.activate is True or (job.activate == "if_better" and job.promoted)):
                self._update(job_id, stage="activating", step=0, total=0, seconds_left=None)
                error = await self._activate(job.version)
                self._update(job_id, activated=error is None, error=error)
            self._update(job_id, state="succeeded" if job.version else "failed")
        except asyncio.CancelledError:
            state, error = ("cancelled", None) if self._cancelled else ("interrupted", _CUT_OFF)
            self._update(job_id, state=state, error=error)
        except (OSError, ValueError) as fault:  # a line of it that is too long, or none of its lines
            self._update(job_id, state="failed", error=f"Its process could not be heard: {fault}")
        finally:
            self._update(job_id, ended=datetime.now(UTC), seconds_left=None)
            await asyncio.to_thread(self._close, self._jobs[job_id])
            self._running = None

    async def _hear_out(self, job_id: str, folder: Path) -> None:
        with (folder / _LOG).open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", self._module, "--job", str(folder)),
                stdin=PIPE,  # closes with this process, however that ends: see job_process
                stdout=PIPE,
                stderr=log,
                limit=_MAX_LINE_BYTES,
                cwd=REPOSITORY,
                env=os.environ | _few_threads(),
            )
        try:
            assert process.stdout  # noqa: S101  # narrows the type
            async for line in process.stdout:
                self._hear(job_id, line)
            await process.wait()
        finally:
            await _kill(process)
        job = self._jobs[job_id]
        if not job.version and not job.error:
            self._update(job_id, error=_how(process.returncode or 0, folder / _LOG))

    def _hear(self, job_id: str, line: bytes) -> None:
        update = _Update.model_validate_json(line).model_dump(exclude_unset=True)
        if update.get("version", job_id) != job_id or ("version" in update and job_id not in self._registry):
            update = {"error": "Its process ended well, but there is no such version."}
        self._update(job_id, **update)

    async def _activate(self, version: str) -> str | None:
        """Why it could not be put into service."""
        until = time.monotonic() + _ACTIVATE_S
        while time.monotonic() < until:
            try:
                # False means that it is still loading: then this waits for it, as it does for another one.
                if await self._versions.activate(version):
                    return None
            except SwapInProgress:
                pass
            except Problem as problem:
                return problem.detail
            await asyncio.sleep(_RETRY_S)
        return f"{version} did not come into service in time. Activate it by hand."

    def _update(self, job_id: str, **changes: Any) -> None:
        self._jobs[job_id] = self._jobs[job_id].model_copy(update=changes)

    async def _stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _new_id(self) -> str:
        """The time; jobs of the same second are numbered."""
        now = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
        names = itertools.chain([now], (f"{now}-{number}" for number in itertools.count(2)))
        return next(name for name in names if name not in self._jobs and name not in self._registry)

    def _recover(self) -> dict[str, TrainingJob]:
        """The jobs of earlier runs; one whose record says that it is running was cut off with the service."""
        jobs: dict[str, TrainingJob] = {}
        for file in sorted(self._folder.glob("*.json")):
            with contextlib.suppress(OSError, ValidationError):
                job = TrainingJob.model_validate_json(file.read_bytes())
                if job.state == "running":
                    cut_off = {"state": "interrupted", "error": _CUT_OFF, "ended": datetime.now(UTC)}
                    job = job.model_copy(update=cut_off)
                    self._close(job)
                jobs[job.id] = job
        return jobs

    def _close(self, job: TrainingJob) -> None:
        """Write down what came of a job, and remove what it worked with."""
        shutil.rmtree(self._folder / job.id, ignore_errors=True)
        with contextlib.suppress(OSError):  # then it is forgotten with the service
            self._write(job)
            for old in sorted(self._folder.glob("*.json"))[:-MAX_JOBS]:
                old.unlink()

    def _write(self, job: TrainingJob) -> None:
        unfinished = self._folder / f".{job.id}"
        unfinished.write_text(job.model_dump_json(indent=2) + "\n", encoding="utf-8")
        unfinished.replace(self._folder / f"{job.id}.json")


async def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def _few_threads() -> dict[str, str]:
    """Half of the processors, and no spinning between two tasks: the others are for what serves."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, processors // 2)), "OMP_WAIT_POLICY": "passive"}


def _how(status: int, log: Path) -> str:
    """Why a process ended that said nothing of it."""
    said = log.read_text("utf-8", errors="replace").strip().splitlines()[-1:]
    if status < 0:
        return f"Its process was killed by signal {-status}; it may have run out of memory."
    return f"Its process ended with status {status}: {said[0] if said else 'it left no word'}"
