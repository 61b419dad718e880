"""Fits a Calibration to messages of which it is known what they are about."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from intent_service.classifiers.calibration import Calibration, features

OUT_OF_SCOPE_SHARE = 0.2
"""Of the messages that a service gets this share is taken to be out of scope, whatever it is in the data."""

_SCALES = [5 * 1.1**step for step in range(26)]  # 5 to 54
_PARTS = 5  # the intents are left out in so many parts
_RIDGE = 1e-3  # keeps the regression finite where the data can be separated


@dataclass(frozen=True)
class Held:
    """Messages that the similarities to the intents were not learned from."""

    similarities: Tensor  # (texts, intents)
    truth: Tensor  # (texts), the index of the true intent; -1: out of scope
    none: Tensor | None = None  # (texts), the similarity to what is out of scope


def without_some_intents(held: Sequence[Held]) -> list[Held]:
    """The same messages among some of their intents only; those of the intents left out are out of scope.

    Every intent is left out once. It stands in for messages out of scope where there are none.
    """
    parts: list[Held] = []
    for part in held:
        count = part.similarities.shape[1]
        order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
        for left_out in order.tensor_split(min(_PARTS, count)):
            kept = torch.ones(count, dtype=torch.bool)
            kept[left_out] = False
            index = torch.where(kept, kept.cumsum(0) - 1, -1)
            truth = torch.where(part.truth >= 0, index[part.truth], -1)
            if kept.any() and (truth >= 0).any() and (truth < 0).any():
                parts.append(Held(part.similarities[:, kept], truth, part.none))
    return parts


def fit(held: Sequence[Held], most_refused: float | None = None) -> Calibration:
    """The calibration for these messages, each `Held` being of a catalogue of its own.

    The temperature minimises the cross-entropy in scope, the regression that of being in scope; both kinds
    of message are weighted by `OUT_OF_SCOPE_SHARE`. The best is named from the probability on at which
    recall out of scope less the share wrongly refused is greatest (Youden 1950), or with `most_refused` from
    that on at which this share of the messages in scope is refused.
    """
    seen = torch.cat([features(part.similarities, part.none) for part in held])
    inside = torch.cat([part.truth >= 0 for part in held])
    weights, bias = _regress(seen, inside)
    probability = torch.sigmoid(seen @ weights + bias)
    known = (
        _youden(probability, inside)
        if most_refused is None
        else float(torch.quantile(probability[inside], most_refused))
    )
    best, lead, over_none = weights.tolist()
    return Calibration(scale(held), bias, best, lead, known, over_none)


def scale(held: Sequence[Held]) -> float:
    """The factor on the similarities at which the cross-entropy in scope is least."""

    def error(factor: float) -> float:
        total, count = 0.0, 0
        for part in held:
            inside = part.truth >= 0
            logits = part.similarities[inside] * factor
            total += float(functional.cross_entropy(logits, part.truth[inside], reduction="sum"))
            count += int(inside.sum())
        return total / count

    return min(_SCALES, key=error)


def _regress(seen: Tensor, inside: Tensor) -> tuple[Tensor, float]:
    """Logistic regression of `inside` (texts) on `seen` (texts, features): weights and bias."""
    share = torch.where(inside, 1 - OUT_OF_SCOPE_SHARE, OUT_OF_SCOPE_SHARE)
    weight = (share / torch.where(inside, inside.sum(), (~inside).sum())).double()
    with torch.inference_mode(False), torch.enable_grad():
        known = torch.cat([seen, torch.ones(len(seen), 1)], dim=1).double()
        found = torch.zeros(known.shape[1], dtype=torch.double, requires_grad=True)
        optimizer = torch.optim.LBFGS([found], max_iter=500, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            error = functional.binary_cross_entropy_with_logits(
                known @ found, inside.double(), weight=weight, reduction="sum"
            )
            total = error + _RIDGE / 2 * found[:-1].square().mean()
            total.backward()  # type: ignore[no-untyped-call]
            return total

        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return found[:-1].detach().float(), float(found[-1].detach())


def _youden(probability: Tensor, inside: Tensor) -> float:
    order = probability.argsort()
    found = (~inside[order]).double().cumsum(0) / (~inside).sum()
    refused = inside[order].double().cumsum(0) / inside.sum()
    at = int((found - refused).argmax())
    # Between the last that is refused and the next, so that neither depends on rounding.
    return float(probability[order[at : at + 2]].mean())
