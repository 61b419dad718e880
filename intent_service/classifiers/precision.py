"""Fewer bits on a CPU, kept only where the results stay what they were.

An NLI model gets int8 weights. A sentence encoder gets bfloat16 where the processor computes with it faster,
which not all do that can: int8 moves its vectors too far (on all-MiniLM-L6-v2 a cosine of 0.93 to the exact
ones, with a scale for each text's tokens 0.984, bfloat16 0.9999).
"""

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.ao import quantization

from intent_service.catalog import Catalog

logger = logging.getLogger(__name__)

MESSAGES = [
    "What will the weather be like tomorrow?",
    "Please play the new album of my favourite band",
    "My card was charged twice for the same dinner",
    "I feel so lonely since she left",
    "Hi there, nice to meet you!",
    "The team lost the match in the last minute",
]
_LABELS = ["weather", "music", "money", "sadness", "greeting", "sports"]
# The least cosine between a text's exact vector and that in bfloat16.
_SAME = 0.999
# Scores closer than this are a tie; a score may move by as much.
_TOLERANCE = 0.05
_RUNS = 5

T = TypeVar("T")
Scores = Callable[[Sequence[str], Catalog], Tensor]


def computes_bfloat16() -> bool:
    """Whether the processor does."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def bfloat16(model: nn.Module) -> None:
    """Turn the weights of the linear layers of `model` into bfloat16, in place, to be run under autocast."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.to(torch.bfloat16)


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """What `call` returns, and the least seconds it takes; the first time does not count."""
    result, took = call(), []
    for _ in range(_RUNS):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return result, min(took)


def worthwhile(exact: tuple[Tensor, float], rounded: tuple[Tensor, float]) -> bool:
    """Whether unit vectors (texts, dimensions) still point where they did, and take fewer seconds."""
    (before, exact_s), (after, rounded_s) = exact, rounded
    if (before * after).sum(dim=1).min() < _SAME:
        verdict = "changes the vectors and is not used"
    elif rounded_s >= exact_s:
        verdict = "is no faster here and is not used"
    else:
        verdict = "keeps the vectors, is faster and is used"
    logger.info("bfloat16 %s (%.1f ms, exactly %.1f)", verdict, 1000 * rounded_s, 1000 * exact_s)
    return verdict.endswith("and is used")


def quantize(model: nn.Module, scores: Scores) -> bool:
    """Quantize the linear layers of `model` in place, weights by channel, activations as they come.

    `scores(texts, catalog)` runs the model. False when it now ranks everyday messages differently: then
    the model is spoilt, and is to be loaded again.
    """
    labels = Catalog.of(_LABELS)
    before = scores(MESSAGES, labels)
    with warnings.catch_warnings():
        # torch announces a successor that is another package; what is here works as it did.
        warnings.simplefilter("ignore")
        quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
            model, {nn.Linear: quantization.per_channel_dynamic_qconfig}, dtype=torch.qint8, inplace=True
        )
        after = scores(MESSAGES, labels)
    kept = keeps_ranking(before, after)
    logger.info("int8 %s", "keeps the ranking and is used" if kept else "changes the ranking and is not used")
    return kept


def keeps_ranking(before: Tensor, after: Tensor) -> bool:
    """Whether no score (messages, labels) moved far and the best label is the same, but for ties."""
    rows = torch.arange(len(before))
    lost = before.amax(dim=1) - before[rows, after.argmax(dim=1)]
    return bool((before - after).abs().max() <= _TOLERANCE and lost.max() <= _TOLERANCE)
