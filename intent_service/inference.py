"""From texts to answers: callers share the model's forward passes, and an answer is made once."""

import zlib
from collections import OrderedDict
from collections.abc import Sequence

from intent_service.catalog import UNKNOWN, Catalog
from intent_service.classifiers import Classifier
from intent_service.classifiers.verdict import Verdict
from shared import metrics
from shared.batcher import Batcher
from shared.contracts import IntentAnswer
from shared.model_slot import ModelSlot, Served
from shared.worker import Worker

_LARGEST_BATCH = 32
_ANSWERS_KEPT = 4096

Answer = str
"""An IntentAnswer as JSON: a fifth of the object's memory, and what is sent."""


class Inference:
    """Classifies with the model in service.

    All requests go through one batcher; `queue` bounds those that wait. The newest answers are kept: for
    the same text, catalogue and model the answer is there at once, also while the queue is full.
    """

    def __init__(self, slot: ModelSlot[Classifier], worker: Worker, queue: int) -> None:
        self._slot = slot
        self._batcher = Batcher(worker, _compute, capacity=queue, largest=_LARGEST_BATCH, service="intent")
        self._kept = _Newest()
        self._kept_of: Served[Classifier] | None = None

    async def answers(self, texts: Sequence[str], catalog: Catalog, deadline_s: float) -> list[Answer]:
        """One answer a text, in their order. Raises ModelNotReady, Overloaded, DeadlineExceeded."""
        served = self._slot.served
        if served is not self._kept_of:
            # The old model's answers go with it; what is still computing goes into the cache it began with.
            self._kept, self._kept_of = _Newest(), served
        kept = self._kept
        found = {text: answer for text in texts if (answer := kept.get((text, catalog)))}
        if missing := [text for text in dict.fromkeys(texts) if text not in found]:
            made = await self._batcher.run((served, catalog), missing, deadline_s=deadline_s)
            for text, answer in zip(missing, made, strict=True):
                kept.put((text, catalog), answer)
                found[text] = answer
        return [found[text] for text in texts]


class _Newest:
    """Answers by text and catalogue; of more than _ANSWERS_KEPT the one unused for longest goes."""

    def __init__(self) -> None:
        self._answers: OrderedDict[tuple[str, Catalog], Answer] = OrderedDict()

    def get(self, key: tuple[str, Catalog]) -> Answer | None:
        if key in self._answers:
            self._answers.move_to_end(key)
        return self._answers.get(key)

    def put(self, key: tuple[str, Catalog], answer: Answer) -> None:
        self._answers[key] = answer
        if len(self._answers) > _ANSWERS_KEPT:
            self._answers.popitem(last=False)


def _compute(group: tuple[Served[Classifier], Catalog], texts: list[str]) -> list[Answer]:
    """Classify `texts` by one model among one catalogue; runs in the inference thread."""
    served, catalog = group
    with metrics.INFERENCE.labels("intent", served.name).time():
        verdicts = served.model.classify(texts, catalog)
    return [
        _answer(text, catalog, verdict, served.name) for text, verdict in zip(texts, verdicts, strict=True)
    ]


def _answer(text: str, catalog: Catalog, verdict: Verdict, model: str) -> Answer:
    best = verdict.ranking[0]
    return IntentAnswer(
        label=best.label if verdict.known else UNKNOWN,
        score=best.score,
        ranking=verdict.ranking,
        model=model,
        reply=_fixed_reply(catalog, best.label, text) if verdict.sure else None,
    ).model_dump_json()


def _fixed_reply(catalog: Catalog, label: str, text: str) -> str | None:
    """One of the intent's fixed replies; the same message always gets the same one."""
    replies = next(intent.replies for intent in catalog.intents if intent.label == label)
    return replies[zlib.crc32(text.encode()) % len(replies)] if replies else None
