"""Eight-bit weights for a classifier on a CPU, kept only where they leave its ranking as it was."""

import logging
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.ao import quantization

from intent_service.catalog import Catalog

logger = logging.getLogger(__name__)

_MESSAGES = [
    "What will the weather be like tomorrow?",
    "Please play the new album of my favourite band",
    "My card was charged twice for the same dinner",
    "I feel so lonely since she left",
    "Hi there, nice to meet you!",
    "The team lost the match in the last minute",
]
_LABELS = ["weather", "music", "money", "sadness", "greeting", "sports"]
# Scores closer than this are a tie; a score may move by as much.
_TOLERANCE = 0.05

Scores = Callable[[Sequence[str], Catalog], Tensor]


def quantize(model: nn.Module, scores: Scores) -> bool:
    """Quantize the linear layers of `model` in place, weights by channel, activations as they come.

    `scores(texts, catalog)` runs the model. False when it now ranks everyday messages differently: then
    the model is spoilt, and is to be loaded again.
    """
    labels = Catalog.of(_LABELS)
    before = scores(_MESSAGES, labels)
    with warnings.catch_warnings():
        # torch announces a successor that is another package; what is here works as it did.
        warnings.simplefilter("ignore")
        quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
            model, {nn.Linear: quantization.per_channel_dynamic_qconfig}, dtype=torch.qint8, inplace=True
        )
        after = scores(_MESSAGES, labels)
    kept = keeps_ranking(before, after)
    logger.info("int8 %s", "keeps the ranking and is used" if kept else "changes the ranking and is not used")
    return kept


def keeps_ranking(before: Tensor, after: Tensor) -> bool:
    """Whether no score (messages, labels) moved far and the best label is the same, but for ties."""
    rows = torch.arange(len(before))
    lost = before.amax(dim=1) - before[rows, after.argmax(dim=1)]
    return bool((before - after).abs().max() <= _TOLERANCE and lost.max() <= _TOLERANCE)
