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
from typing import Generic, TypeVar

from shared import hub
from shared.contracts import FailedModel, LoadingModel, SlotStatus
from shared.hub import ModelUnavailable
from shared.problems import ModelNotReady
from shared.worker import Worker

logger = logging.getLogger(__name__)

M = TypeVar("M")

_FIRST_RETRY_S, _LONGEST_RETRY_S = 60.0, 900.0
_LOADING_RETRY_AFTER_S = 5.0


@dataclass(frozen=True)
class Served(Generic[M]):
    """A model in service and the name that its answers carry."""

    name: str
    model: M


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
        self, source: str, name: str | None = None, revision: str | None = None, made: M | None = None
    ) -> bool:
        """Bring the model at `source` (folder or hub id) into service. False: the old one serves on.

        With `made`, a model that runs elsewhere, nothing is fetched or loaded: it only has to answer.
        """
        name = name or display_name(source)
        self._loading = LoadingModel(name=name, stage="fetching")
        try:
            model = await self._loader.run(lambda stop: self._prepare(source, revision, made, stop))
        except ModelUnavailable as error:
            self._fail(name, error)
            return False
        except Exception as error:  # whatever a foreign model folder may raise
            logger.warning("%s could not be loaded", name, exc_info=error)
            self._fail(name, _unloadable(error, self._setting))
            return False
        finally:
            self._loading = None
        self._served, self._failed = Served(name, model), None
        logger.info("%s is in service", name)
        return True

    async def keep_trying(self, source: str, revision: str | None = None, made: M | None = None) -> None:
        """Put `source` into service; while that may yet succeed, try again, ever more rarely."""
        wait_s = _FIRST_RETRY_S
        while not await self.put(source, revision=revision, made=made):
            failed = self._failed
            if failed is None or failed.retry_in_s is None:
                return
            self._failed = failed.model_copy(update={"retry_in_s": wait_s})
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _LONGEST_RETRY_S)

    def _prepare(self, source: str, revision: str | None, made: M | None, stop: threading.Event) -> M:
        model = made
        if model is None:
            folder = hub.fetch(source, self._on_bytes, stop, revision)
            self._stage("loading")
            model = self._load(folder)
        self._stage("warming-up")
        self._warm_up(model)
        return model

    def _on_bytes(self, fetched: int, total: int) -> None:
        if self._loading:
            self._loading = self._loading.model_copy(update={"fetched_bytes": fetched, "total_bytes": total})

    def _stage(self, stage: str) -> None:
        if self._loading:
            self._loading = self._loading.model_copy(update={"stage": stage})

    def _fail(self, name: str, error: ModelUnavailable) -> None:
        retry_in_s = None if error.lasting else _FIRST_RETRY_S
        known = self._failed is not None and self._failed.reason == error.reason
        self._failed = FailedModel(name=name, reason=error.reason, advice=error.advice, retry_in_s=retry_in_s)
        if not known:  # said once: the same failure at every retry would only bury other lines
            again = "" if error.lasting else " It is tried again later."
            logger.warning("%s is not in service: %s%s", name, error, again)

    def _why_not(self) -> str:
        if self._failed:
            return f"{self._failed.name}: {self._failed.reason}. {self._failed.advice}"
        if self._loading:
            return f"{self._loading.name} is {self._loading.stage}. Send it again in a moment."
        return f"No model is set. Set {self._setting}."


def display_name(source: str) -> str:
    """The name answers carry: the hub id, or the folder's last part."""
    return Path(source).name if Path(source).is_dir() else source


def _unloadable(error: Exception, setting: str) -> ModelUnavailable:
    reason = f"it could not be loaded: {type(error).__name__}: {error}".splitlines()[0]
    return ModelUnavailable(reason, f"Check the folder, or name another model in {setting}.", lasting=True)
