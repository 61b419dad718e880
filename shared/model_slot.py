"""What serves now. A new model is loaded beside it, answers one real request, and then takes its place.

If anything fails on the way the old model serves on. Start-up, stand-in and every later change are this
one mechanism.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from shared import hub
from shared.contracts import FailedModel, LoadingModel, SlotStatus
from shared.hub import Fetched, ModelUnavailable, OnFetched
from shared.problems import ModelNotReady
from shared.worker import Worker

logger = logging.getLogger(__name__)

M = TypeVar("M")

Fetch = Callable[[str, OnFetched, threading.Event, str | None], Path]
"""From a source and a revision to the folder on this disk, as `hub.fetch`."""

_FIRST_RETRY_S, _LONGEST_RETRY_S = 60.0, 900.0
_LOADING_RETRY_AFTER_S = 5.0


@dataclass(frozen=True)
class Source:
    """Where a model comes from (a folder or hub id, unless `fetch` knows better), and its name.

    `made` is a model that runs elsewhere: it has only to answer, nothing is fetched or loaded.
    """

    where: str
    name: str = ""
    revision: str | None = None
    fetch: Fetch = hub.fetch
    made: Any = None

    @property
    def shown(self) -> str:
        """The name answers carry: the given one, else the hub id, or the folder's last part."""
        return self.name or (Path(self.where).name if Path(self.where).is_dir() else self.where)


@dataclass(frozen=True)
class Served(Generic[M]):
    """A model in service, the name that its answers carry, and where it came from."""

    name: str
    model: M
    source: Source


class ModelSlot(Generic[M]):
    """Holds the one model that serves.

    `load(folder)` makes a model from a folder; `warm_up(model)` runs one real inference and raises if
    it fails. Both run in the `loader` thread, so that what serves goes on serving.
    """

    def __init__(
        self, loader: Worker, load: Callable[[Path], M], warm_up: Callable[[M], object], setting: str
    ) -> None:
        self._loader = loader
        self._load = load
        self._warm_up = warm_up
        self._setting = setting
        self._served: Served[M] | None = None
        self._loading: LoadingModel | None = None
        self._failed: FailedModel | None = None

    @property
    def served(self) -> Served[M]:
        """The model that answers now. Raises ModelNotReady."""
        if self._served is None:
            raise ModelNotReady(self._why_not(), retry_after_s=_LOADING_RETRY_AFTER_S)
        return self._served

    @property
    def ready(self) -> bool:
        """Whether a model can answer."""
        return self._served is not None

    def status(self) -> SlotStatus:
        """What serves, what is loading, what failed."""
        return SlotStatus(
            serving=self._served.name if self._served else None, loading=self._loading, failed=self._failed
        )

    async def put(
        self, source: str | Source, *, stands_in: bool = False, record: Callable[[], None] | None = None
    ) -> bool:
        """Bring the model at `source` into service. False: the old one serves on, `status` says why.

        Success wipes out what failed before, unless this one only `stands_in` for that. `record` runs once
        the model serves, in the loader's thread; if it raises the old one takes its place again.
        """
        return await self._put(_source(source), stands_in, None, record)

    async def keep_trying(self, source: str | Source, *, stands_in: bool = False) -> bool:
        """As `put`; but while that may yet succeed, try again, ever more rarely."""
        wait_s = _FIRST_RETRY_S
        while not await self._put(_source(source), stands_in, wait_s, None):
            if self._failed is None or self._failed.retry_in_s is None:
                return False
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _LONGEST_RETRY_S)
        return True

    def fail(self, name: str, error: ModelUnavailable, retry_in_s: float | None = None) -> None:
        """Say that a model cannot be had, here and in the log."""
        known = self._failed is not None and (self._failed.name, self._failed.reason) == (name, error.reason)
        self._failed = FailedModel(name=name, reason=error.reason, advice=error.advice, retry_in_s=retry_in_s)
        if not known:  # said once: the same failure at every retry would only bury other lines
            again = "" if retry_in_s is None else " It is tried again later."
            logger.warning("%s is not in service: %s%s", name, error, again)

    async def _put(
        self, source: Source, stands_in: bool, retry_in_s: float | None, record: Callable[[], None] | None
    ) -> bool:
        name, old = source.shown, self._served
        self._loading = LoadingModel(name=name, stage="fetching")
        try:
            model = await self._loader.run(lambda stop: self._prepare(source, stop))
            self._served = Served(name, model, source)
            if record:
                await self._loader.run(lambda _: record())
        except ModelUnavailable as error:
            self._served = old
            self.fail(name, error, None if error.lasting else retry_in_s)
            return False
        except Exception as error:  # whatever a foreign model folder may raise
            self._served = old
            logger.warning("%s could not be loaded", name, exc_info=error)
            self.fail(name, _unloadable(error, self._setting))
            return False
        finally:
            self._loading = None
        if not stands_in or (self._failed and self._failed.name == name):
            self._failed = None
        logger.info("%s is in service", name)
        return True

    def _prepare(self, source: Source, stop: threading.Event) -> M:
        model: M | None = source.made
        if model is None:
            folder = source.fetch(source.where, self._on_fetched, stop, source.revision)
            self._stage("loading")
            model = self._load(folder)
        self._stage("warming-up")
        self._warm_up(model)
        return model

    def _on_fetched(self, fetched: Fetched) -> None:
        if self._loading:
            left_s = fetched.seconds_left
            progress = {
                "fetched_bytes": fetched.bytes,
                "total_bytes": fetched.total,
                "percent": fetched.percent,
                "seconds_left": None if left_s is None else round(left_s, 1),
            }
            self._loading = self._loading.model_copy(update=progress)

    def _stage(self, stage: Literal["loading", "warming-up"]) -> None:
        if self._loading:
            self._loading = self._loading.model_copy(update={"stage": stage, "seconds_left": None})

    def _why_not(self) -> str:
        if self._failed:
            return f"{self._failed.name}: {self._failed.reason}. {self._failed.advice}"
        if self._loading:
            return f"{self._loading.name} is {self._loading.stage}. Send it again in a moment."
        return f"No model is set. Set {self._setting}."


def _source(source: str | Source) -> Source:
    return source if isinstance(source, Source) else Source(source)


def _unloadable(error: Exception, setting: str) -> ModelUnavailable:
    reason = f"it could not be loaded: {type(error).__name__}: {error}".splitlines()[0]
    return ModelUnavailable(reason, f"Check the folder, or name another model in {setting}.", lasting=True)
