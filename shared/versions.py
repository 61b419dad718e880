"""Which version serves: the configured model, until another one is activated from the registry."""

import asyncio
import threading
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from shared import hub
from shared.contracts import Models, ModelVersion
from shared.hub import ModelUnavailable
from shared.model_slot import ModelSlot, Served, Source
from shared.problems import (
    NotFound,
    NothingToRollBack,
    Problem,
    SwapInProgress,
    TrainingUnavailable,
    VersionUnusable,
)
from shared.registry import CONFIGURED, MAX_HISTORY, About, Pointer, Registry

M = TypeVar("M")

_ANSWER_S = 10.0


class Versions(Generic[M]):
    """Brings models into a slot: at start-up (as a context manager), by activation and by rollback.

    At start-up `standin` goes first, so that something can answer; then what was activated last. If that is
    broken, or nothing was, the configured model. One change at a time.
    """

    def __init__(
        self, slot: ModelSlot[M], registry: Registry, configured: Source | None, standin: str = ""
    ) -> None:
        self._slot = slot
        self._registry = registry
        self._configured = configured
        self._standin = standin
        self._pointer = Pointer()
        self._faults: dict[str, str] = {}
        self._brought: tuple[str, Served[M]] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._swapping: asyncio.Task[Problem | None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to load; what is active is read before anything can be asked for."""
        try:
            self._pointer = self._registry.pointer()
        except ModelUnavailable as fault:
            self._slot.fail("The active version", fault)
        self._starting = asyncio.create_task(self._bring_up(stands_in=self._slot.status().failed is not None))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _end(self._swapping)
        await _end(self._starting)

    async def models(self) -> Models:
        """All versions and how they do."""
        listed = await asyncio.to_thread(self._registry.versions)
        versions = [self._version(name, about) for name, about in listed.items()]
        if self._configured:
            own = self._version(CONFIGURED, None).model_copy(update={"model": self._configured.shown})
            versions.insert(0, own)
        history = self._usable_history()
        return Models(
            versions=versions,
            active=self._pointer.active,
            previous=history[-1] if history else None,
            **self._slot.status().model_dump(),
        )

    async def base(self) -> tuple[str, Path]:
        """The name and the folder of the model that serves, for a training to begin with.

        Raises ModelNotReady, and TrainingUnavailable where there is no such folder.
        """
        served = self._slot.served
        source = served.source
        if source.made is not None:
            raise TrainingUnavailable("The model that answers runs on a server of its own: train it there.")
        try:
            folder = await asyncio.to_thread(
                source.fetch, source.where, lambda _: None, threading.Event(), source.revision
            )
        except ModelUnavailable as fault:
            raise TrainingUnavailable(f"{served.name}: {fault}") from fault
        return served.name, folder

    async def activate(self, version: str) -> bool:
        """Make `version` the one to serve. False: it goes on beyond the time a caller should wait.

        Raises NotFound, SwapInProgress, VersionUnusable; then what served serves on.
        """
        if not self._exists(version):
            raise NotFound("There is no such model version. GET /models lists those there are.")
        active, history = self._pointer.active, self._pointer.history
        if version != active:
            return await self._change(Pointer(active=version, history=(*history, active)[-MAX_HISTORY:]))
        if self._serves(version):
            return True
        if self._starting and not self._starting.done():
            return False  # it is on its way
        return await self._change(self._pointer)

    async def rollback(self) -> bool:
        """Go back to the version that was active before. As `activate`; raises NothingToRollBack too.

        Where that is the configured model and it cannot be had, the stand-in serves until it can, as it did.
        """
        if not (history := self._usable_history()):
            raise NothingToRollBack
        back = Pointer(active=history[-1], history=history[:-1])
        return await self._change(back, standin=self._standin if back.active == CONFIGURED else "")

    def _exists(self, version: str) -> bool:
        return self._configured is not None if version == CONFIGURED else version in self._registry

    def _usable_history(self) -> tuple[str, ...]:
        """Without what has been deleted since."""
        return tuple(version for version in self._pointer.history if self._exists(version))

    def _serves(self, version: str) -> bool:
        return self._slot.ready and (version, self._slot.served) == self._brought

    async def _change(self, pointer: Pointer, standin: str = "") -> bool:
        if self._swapping and not self._swapping.done():
            raise SwapInProgress
        self._swapping = asyncio.create_task(self._swap(pointer, standin))
        # Not cancelled with the caller: a change that has begun is brought to its end.
        await asyncio.wait({self._swapping}, timeout=_ANSWER_S)
        if not self._swapping.done():
            return False
        if problem := self._swapping.result():
            raise problem
        return True

    async def _swap(self, pointer: Pointer, standin: str) -> Problem | None:
        """Bring the new active version, or `standin`, into service and only then write down that it is."""
        started = self._starting is None or self._starting.done()
        # What start-up may still be fetching must not take the place of what was asked for after it.
        await _end(self._starting)
        if await self._bring(pointer.active, pointer):
            self._pointer = pointer
            return None
        if standin and await self._slot.put(standin, stands_in=True, record=partial(self._record, pointer)):
            self._pointer = pointer
            self._starting = asyncio.create_task(self._bring_up())
            return None
        if not started:
            self._starting = asyncio.create_task(self._bring_up())
        failed = self._slot.status().failed
        return VersionUnusable(f"{failed.name}: {failed.reason}. {failed.advice}" if failed else None)

    async def _bring_up(self, stands_in: bool = False) -> None:
        """`stands_in`: the configured model does, for a version that is active but not known."""
        if self._standin and not self._slot.ready:
            await self._slot.put(self._standin, stands_in=True)
        if (version := self._pointer.active) != CONFIGURED:
            if await self._bring(version):
                return
            stands_in = True
        if self._configured and await self._slot.keep_trying(self._configured, stands_in=stands_in):
            self._brought = CONFIGURED, self._slot.served

    async def _bring(self, version: str, pointer: Pointer | None = None) -> bool:
        """Put a version into service, and then have `pointer` written down."""
        record = partial(self._record, pointer) if pointer else None
        if done := await self._slot.put(self._source(version), record=record):
            self._brought = version, self._slot.served
            self._faults.pop(version, None)
        elif failed := self._slot.status().failed:
            self._faults[version] = failed.reason
        return done

    def _record(self, pointer: Pointer) -> None:
        try:
            self._registry.point(pointer)
        except OSError as error:
            raise ModelUnavailable(
                f"that it is active could not be written down: {error}",
                "Check the disk and the rights of the registry's folder.",
            ) from error

    def _source(self, version: str) -> Source:
        if version == CONFIGURED and self._configured:
            return self._configured
        return Source(version, name=version, fetch=self._fetch)

    def _fetch(self, version: str, *more: Any) -> Path:
        return hub.fetch(str(self._registry.folder(version)), *more)

    def _version(self, name: str, about: About | ModelUnavailable | None) -> ModelVersion:
        known = about.model_dump(exclude={"files"}) if isinstance(about, About) else {}
        return ModelVersion(
            version=name,
            model=name,
            configured=name == CONFIGURED,
            active=name == self._pointer.active,
            serving=self._serves(name),
            fault=about.reason if isinstance(about, ModelUnavailable) else self._faults.get(name),
            **known,
        )


async def _end(task: asyncio.Task[object] | None) -> None:
    if task:
        task.cancel()
        await asyncio.wait({task})
