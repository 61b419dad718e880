"""Fewer bits on a CPU, kept only where the results stay what they were.

An NLI model gets int8 weights. So does a BERT that encodes sentences where native code multiplies them with
about 16 bits (bert.py). Any other encoder gets bfloat16 if the processor computes with that faster, which
not all do.
Eight bits on both sides move the vectors too far (of all-MiniLM-L6-v2 to a cosine of 0.93 to the exact ones,
with a scale for each token 0.984; with 16 bits 0.9992 for six everyday messages, in bfloat16 0.9999).

What 16 bits changed in accuracy: on CLINC150 with names only 0.7013 to 0.7020, with descriptions 0.8738 to
0.8731, on BANKING77 0.6351 to 0.6341 and 0.7620 to 0.7594.
"""

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor, nn
from torch.ao import quantization
from torch.nn.functional import linear

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
# The least cosine between a text's exact vector and that in fewer bits.
_SAME = 0.999
# Scores closer than this are a tie; a score may move by as much.
_TOLERANCE = 0.05
_RUNS = 5

Scores = Callable[[Sequence[str], Catalog], Tensor]


def computes_bfloat16() -> bool:
    """Whether the processor does."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


@cache
def gains_from_bfloat16() -> bool:
    """Whether the processor computes with bfloat16 faster than with float32, which not all do that can.

    Asked once, so that a model gives the same results however often it is loaded.
    """
    if not computes_bfloat16():
        return False
    with torch.inference_mode():
        rows, weight = torch.randn(128, 384), torch.randn(1536, 384)
        exact_s, rounded_s = _seconds(rows, weight), _seconds(rows.bfloat16(), weight.bfloat16())
    logger.info("bfloat16 takes %.1f times as long as float32 on this processor", rounded_s / exact_s)
    return rounded_s < exact_s


def _seconds(rows: Tensor, weight: Tensor) -> float:
    """The least of a few products; the first one does not count."""
    took = []
    for _ in range(1 + _RUNS):
        began = time.perf_counter()
        linear(rows, weight)
        took.append(time.perf_counter() - began)
    return min(took[1:])


def bfloat16(model: nn.Module) -> bool:
    """Turn the weights of the linear layers of `model` into bfloat16, in place, to be run under autocast.

    False, and nothing is done, when the processor gains nothing from it.
    """
    if not gains_from_bfloat16():
        return False
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.to(torch.bfloat16)
    return True


def keeps_vectors(before: Tensor, after: Tensor, dtype: str) -> bool:
    """Whether unit vectors (texts, dimensions) still point where they did."""
    kept = bool((before * after).sum(dim=1).min() >= _SAME)
    said = "keeps the vectors and is used" if kept else "changes the vectors and is not used"
    logger.info("%s %s", dtype, said)
    return kept


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
