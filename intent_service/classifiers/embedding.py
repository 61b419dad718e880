"""Zero-shot classification by similarity: a message belongs to the intent whose texts it is closest to.

An intent's texts are its label, its description and its examples. One forward pass a message; the
catalogue's texts are encoded once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from intent_service.catalog import Catalog, CatalogIntent
from intent_service.classifiers import head
from intent_service.classifiers.calibration import Calibration
from intent_service.classifiers.encoder import SentenceEncoder
from intent_service.classifiers.verdict import Verdict

SURE = 0.6
"""The least score for a fixed reply; by hand: messages about self-harm reach it, harmless ones do not."""
_CATALOGS_KEPT = 64  # so many that callers with labels of their own do not push the usual one out
# A name is no sentence. Read as a question, as a call and as a subject, and averaged, it comes closer to how
# people write: chosen among 1,000 sets of forms on messages that are not those of the test splits.
_NAME_AS = ("{}?", "{}!", "i have a question about {}")


@dataclass(frozen=True)
class _Prepared:
    """What is kept of a catalogue."""

    weights: Tensor  # (intents, dimensions)
    calibration: Calibration


class EmbeddingClassifier:
    """Ranks by similarity in the space of a sentence encoder.

    Where intents have more texts than their name the similarity is that to a linear head learned from them
    (see `head`), which is better than the closest text, the centroid, or a mixture of both.
    """

    def __init__(self, encoder: SentenceEncoder) -> None:
        self._encoder = encoder
        self._kept = lru_cache(maxsize=_CATALOGS_KEPT)(self._prepare)

    @classmethod
    def load(cls, folder: Path, *, fast: bool = False) -> Self:
        """Load a sentence encoder from a model folder. Raises ModelUnavailable."""
        return cls(SentenceEncoder.load(folder, fast=fast))

    @property
    def dtype(self) -> str:
        """What the encoder computes with."""
        return self._encoder.dtype

    def classify(self, texts: Sequence[str], catalog: Catalog) -> list[Verdict]:
        """Classify messages together."""
        prepared = self._kept(catalog)
        messages = self._encoder.encode(texts, self._encoder.recipe.query_prompt)
        labels = [intent.label for intent in catalog.intents]
        return prepared.calibration.verdicts(labels, messages @ prepared.weights.T, SURE)

    def prepare(self, catalog: Catalog) -> None:
        """Encode the catalogue's texts."""
        self._kept(catalog)

    def _prepare(self, catalog: Catalog) -> _Prepared:
        described = any(intent.description or intent.examples for intent in catalog.intents)
        weights = head.of_texts(vectors(self._encoder, catalog))
        return _Prepared(weights, Calibration.shipped("examples" if described else "names"))


def vectors(encoder: SentenceEncoder, catalog: Catalog) -> list[Tensor]:
    """For each intent the unit vectors (texts, dimensions) of its name, description and examples."""
    texts = [_texts(intent) for intent in catalog.intents]
    prompt = encoder.recipe.document_prompt
    encoded = encoder.encode([text for group in texts for text in group], prompt)
    groups = torch.split(encoded, [len(group) for group in texts])
    count = len(_NAME_AS)
    return [torch.cat([head.centroid(group[:count])[None], group[count:]]) for group in groups]


def _texts(intent: CatalogIntent) -> list[str]:
    described = [intent.description] if intent.description else []
    return [*(form.replace("{}", intent.phrase) for form in _NAME_AS), *described, *intent.examples]
