"""The intent service, put together."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import FastAPI

from intent_service import api, bundled, classifiers, training_api
from intent_service.classifiers import Classifier
from intent_service.classifiers.nli import BY_HAND
from intent_service.in_force import InForce
from intent_service.inference import Inference
from intent_service.promotion.preparing import Preparation
from intent_service.settings import IntentSettings
from shared import models_api, service
from shared import training_api as shared_training_api
from shared.contracts import Readiness
from shared.jobs import Jobs
from shared.model_slot import ModelSlot, Source
from shared.problems import ModelNotReady
from shared.registry import Registry
from shared.versions import Versions
from shared.worker import Worker

_DESCRIPTION = "Says what a message is about, among the intents of a catalogue or among labels of your own."


def create_app(settings: IntentSettings) -> FastAPI:
    """The app for these settings. Raises CatalogFault."""
    in_force = InForce(settings.catalog)
    app = service.create_app(settings, _DESCRIPTION, lifespan=partial(_lifespan, settings, in_force))
    for part in (api, models_api, training_api, shared_training_api):
        app.include_router(part.router)
    return app


@contextlib.asynccontextmanager
async def _lifespan(settings: IntentSettings, in_force: InForce, _: FastAPI) -> AsyncIterator[dict[str, Any]]:
    with (
        Worker("inference", 1) as inference,
        Worker("loader", 1, lasting=False) as loader,
        # Not the loader, whose job may be a long download.
        Worker("preparing", 1, lasting=False) as preparing,
    ):
        slot: ModelSlot[Classifier] = ModelSlot(
            loader,
            load=partial(
                classifiers.load,
                hypothesis=settings.hypothesis,
                rule=replace(BY_HAND, known=settings.nli_known, lead=settings.nli_lead),
                fast=settings.precision == "auto",
            ),
            warm_up=lambda classifier: classifier.classify(["Hello!"], in_force.catalog),
            setting=settings.variable("model"),
        )
        configured = Source(settings.model, revision=settings.revision, fetch=bundled.fetch)
        async with (
            Versions(slot, Registry(settings.registry), configured) as versions,
            Jobs(settings.registry, "intent_service.promotion", versions) as jobs,
        ):
            yield {
                "deadline_s": settings.deadline,
                "in_force": in_force,
                "jobs": jobs,
                "inference": Inference(slot, inference, settings.queue),
                "prepare": Preparation(versions, settings),
                "preparing": preparing,
                "readiness": partial(_readiness, slot),
                "slot": slot,
                "versions": versions,
            }


async def _readiness(slot: ModelSlot[Classifier]) -> Readiness:
    try:
        _ = slot.served
    except ModelNotReady as why:
        return Readiness(status="not-ready", reasons=[why.detail], model=slot.status())
    return Readiness(status="ready", model=slot.status())
