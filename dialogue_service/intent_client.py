"""Asks the intent service what a message is about. It never fails: no answer in time is an answer too."""

import asyncio
import logging
import time

import httpx
from pydantic import ValidationError

from dialogue_service.metrics import INTENT
from shared.contracts import IntentAnswer, IntentRequest
from shared.telemetry import REQUEST_ID_HEADER, request_id

logger = logging.getLogger(__name__)


class IntentClient:
    """One intent service over HTTP. `http` has its base URL and, if needed, the bearer key."""

    def __init__(self, http: httpx.AsyncClient, timeout_s: float) -> None:
        self._http = http
        self._timeout_s = timeout_s
        self._silent = False

    async def classify(self, text: str) -> IntentAnswer | None:
        """The message's intent, or None when the service is away, slow or wrong."""
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._http.post(
                    "/intent",
                    json=IntentRequest(text=text).model_dump(exclude_none=True),
                    headers={REQUEST_ID_HEADER: request_id.get() or ""},
                )
            answer.raise_for_status()
            intent = IntentAnswer.model_validate_json(answer.content)
        except (httpx.HTTPError, TimeoutError, ValidationError) as error:
            INTENT.labels("failure").observe(time.perf_counter() - began)
            if not self._silent:  # said once per outage, not once per message
                logger.warning(
                    "no intent from %s (%s); replies are made without one",
                    self._http.base_url,
                    _reason(error),
                )
            self._silent = True
            return None
        INTENT.labels("intent").observe(time.perf_counter() - began)
        if self._silent:
            logger.info("the intent service answers again")
        self._silent = False
        return intent


def _reason(error: Exception) -> str:
    """The kind of failure, without the message's text that a validation error would quote."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"status {error.response.status_code}"
    return type(error).__name__
