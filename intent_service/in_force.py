"""The catalogue in force, and how a changed file takes its place while requests go on."""

import logging
import threading
from pathlib import Path

from intent_service import catalog
from intent_service.catalog import Catalog
from intent_service.classifiers import Classifier
from shared.model_slot import ModelSlot
from shared.worker import Worker

logger = logging.getLogger(__name__)

# As long as the texts of a large catalogue may take to encode beside the requests that go on.
_RELOAD_S = 120.0


class InForce:
    """Holds the one catalogue that requests without labels of their own are classified among."""

    def __init__(self, path: Path) -> None:
        """Read the catalogue at `path`. Raises CatalogFault."""
        self._path = path
        self.catalog = catalog.load(path)

    async def reload(self, worker: Worker, slot: ModelSlot[Classifier]) -> Catalog:
        """Read the file again and, once the model is prepared for what it says, put that in force.

        Both happen in the thread of `worker`, beside the one that answers. Raises CatalogFault: then the
        old catalogue stays. Raises Overloaded and DeadlineExceeded as the worker does.
        """
        model = slot.served.model if slot.ready else None

        def prepare(_: threading.Event) -> Catalog:
            new = catalog.load(self._path)
            if model:
                model.prepare(new)
            return new

        self.catalog = await worker.run(prepare, deadline_s=_RELOAD_S)
        logger.info("the catalogue of %d intents is in force", len(self.catalog.intents))
        return self.catalog
