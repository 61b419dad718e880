"""What a job of the service begins with: the corrections of this moment, and the model that serves now.

The votes are the dialogue service's; it is asked for them as anybody would ask.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from intent_service import bundled, catalog, classifiers, examples
from intent_service.catalog import CatalogFault
from intent_service.classifiers.trained import WEIGHTS, encoder_name
from intent_service.examples import DataFault
from intent_service.promotion.plan import FEEDBACK, LEAST, LEAST_HELD_OUT, Plan, hold_out, usable
from intent_service.settings import IntentSettings
from shared.problems import CatalogInvalid, FeedbackUnavailable, TooLittleFeedback
from shared.versions import Versions

_FETCH_S = 120.0
_WAIT_S = 10.0
_MAX_BYTES = 2**28


@dataclass(frozen=True)
class Preparation:
    """Puts a plan and the votes into a job's folder."""

    versions: Versions[Any]
    settings: IntentSettings

    async def __call__(self, folder: Path, name: str) -> None:
        """Raises FeedbackUnavailable, TooLittleFeedback, CatalogInvalid, ModelNotReady, TrainingUnavailable
        and OSError."""
        against, base = await self.versions.base()
        await self._fetch(folder / FEEDBACK)
        settings = self.settings
        plan = Plan(
            feedback=folder / FEEDBACK,
            catalog=settings.catalog,
            base=base,
            against=against,
            encoder=await asyncio.to_thread(self._encoder, base),
            registry=settings.registry,
            name=name,
            hypothesis=settings.hypothesis,
            nli_known=settings.nli_known,
            nli_lead=settings.nli_lead,
            fast=settings.precision == "auto",
        )
        try:
            await asyncio.to_thread(_check, plan)
        except CatalogFault as fault:
            raise CatalogInvalid(str(fault)) from fault
        await asyncio.to_thread(plan.write, folder)

    def _encoder(self, base: Path) -> str:
        """What serves stands on it; of an NLI model, which stands on none, the default one."""
        if (base / WEIGHTS).is_file():
            return encoder_name(base)
        if classifiers.entails(base):
            return bundled.NAME
        bundle = bundled.folder()
        return bundled.NAME if bundle and base == bundle else str(base)

    async def _fetch(self, file: Path) -> None:
        try:
            async with asyncio.timeout(_FETCH_S), self._asked() as answer:
                size = 0
                with file.open("wb") as opened:  # pieces of what came just now
                    async for piece in answer.aiter_bytes():
                        if (size := size + len(piece)) > _MAX_BYTES:
                            raise FeedbackUnavailable(f"It has more than {_MAX_BYTES} bytes.")
                        opened.write(piece)
        except (httpx.HTTPError, TimeoutError) as error:
            why = f"{self.settings.feedback_url} does not answer ({error or type(error).__name__})"
            raise FeedbackUnavailable(f"{why}. {FeedbackUnavailable.advice}") from error

    @asynccontextmanager
    async def _asked(self) -> AsyncIterator[httpx.Response]:
        key = self.settings.api_key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with (
            httpx.AsyncClient(headers=headers, timeout=_WAIT_S) as http,
            http.stream("GET", self.settings.feedback_url) as answer,
        ):
            if answer.status_code != 200:
                why = f"{self.settings.feedback_url} answers {answer.status_code}"
                raise FeedbackUnavailable(f"{why}. {FeedbackUnavailable.advice}")
            yield answer


def _check(plan: Plan) -> None:
    """Raises TooLittleFeedback, CatalogFault."""
    try:
        given = examples.read(plan.feedback, may_be_none=True)
    except DataFault as fault:
        raise FeedbackUnavailable(str(fault).replace(f"{plan.feedback}:", "line ")) from fault
    useful = usable(given, catalog.load(plan.catalog))
    learned, held_out = hold_out(useful)
    if missing := [
        f"{least - there} more to {what}"
        for there, least, what in (
            (len(learned), LEAST, "learn from"),
            (len(held_out), LEAST_HELD_OUT, "measure on (every fifth is held out for that)"),
        )
        if there < least
    ]:
        other = f"; {len(given) - len(useful)} more are no use: said twice, or to no intent of the catalogue"
        raise TooLittleFeedback(
            f"There are {len(useful)} corrected intents{other if len(given) > len(useful) else ''}. "
            f"Missing: {' and '.join(missing)}."
        )
