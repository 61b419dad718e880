"""Learns a head, and if asked the encoder under it, from a catalogue and examples."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intent_service import metrics
from intent_service.catalog import Catalog
from intent_service.classifiers import head
from intent_service.classifiers.calibration import Calibration
from intent_service.classifiers.embedding import vectors
from intent_service.classifiers.encoder import SentenceEncoder
from intent_service.classifiers.trained import Head
from intent_service.examples import DataFault, Example
from intent_service.metrics import Answer
from intent_service.training import finetune, fitting
from intent_service.training.fitting import Held
from intent_service.training.settings import TrainingSettings

FOLDS = 5
LEAST_OUT_OF_SCOPE = 20
"""With fewer messages out of scope than this the shipped numbers decide what is unknown, or for a changed
encoder the messages of intents that were left out."""

_PULLS = (1e-3, 1e-4, 1e-5, 1e-6)
_MOST_STEPS = 800  # of the fine-tuning, however many texts there are; more brought little on CLINC150

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and (done, in all)."""


@dataclass(frozen=True)
class Learned:
    """A head and how good it was on what it had not learned from; `pull` is as cross-validation chose it."""

    head: Head
    scores: dict[str, Any]
    pull: float


@dataclass(frozen=True)
class _Material:
    """Unit vectors to learn from, and the fold in which each example is held out."""

    described: list[Tensor]  # of each intent (texts, dimensions), the catalogue's: never held out
    examples: Tensor  # (examples, dimensions)
    truth: Tensor  # (examples), the index of the intent; -1: out of scope
    folds: Tensor  # (examples)


def learn(
    encoder: SentenceEncoder,
    catalog: Catalog,
    examples: Sequence[Example],
    settings: TrainingSettings,
    progress: Progress,
) -> Learned:
    """Learn the intents of `catalog`; with `settings.finetune_encoder` `encoder` is changed as well.

    A head on the encoder as it is, is cross-validated. Fine-tuning is too slow for that: it is done once
    without the first fold, which then measures it, and which the head learns from at the end. Raises
    DataFault.
    """
    labels = [intent.label for intent in catalog.intents]
    truth = _truth(labels, examples)
    folds = _folds(truth)
    if settings.finetune_encoder:
        _tune(encoder, catalog, _without(examples, folds, 0), settings, progress)
    material = _encode(encoder, catalog, examples, truth, folds)
    return _learn(labels, material, [0] if settings.finetune_encoder else range(FOLDS), settings, progress)


def _learn(
    labels: Sequence[str],
    material: _Material,
    folds: Sequence[int],
    settings: TrainingSettings,
    progress: Progress,
) -> Learned:
    """Hold out each of `folds` in turn, choose the pull that is best then, and learn from everything."""
    if not any(bool((material.folds == fold).any() and (material.truth >= 0).any()) for fold in folds):
        raise DataFault("there are no examples to hold out; give each intent at least two")
    tried: list[tuple[float, list[Held]]] = []
    for pull in _PULLS:
        held: list[Held] = []
        for fold in folds:
            progress("cross-validating", len(tried) * len(folds) + len(held), len(_PULLS) * len(folds) + 1)
            held.append(_hold_out(material, fold, pull))
        tried.append((pull, held))
    pull, best = max(tried, key=lambda result: _accuracy(result[1]))
    progress("cross-validating", len(_PULLS) * len(folds), len(_PULLS) * len(folds) + 1)
    weights, none = _fit(material, None, pull)
    progress("cross-validating", 1, 1)
    strangers = sum(int((part.truth < 0).sum()) for part in best)
    if strangers >= LEAST_OUT_OF_SCOPE:
        calibration = fitting.fit(best, settings.most_refused)
    elif settings.finetune_encoder and (parts := fitting.without_some_intents(best)):
        # The shipped numbers do not fit an encoder that was changed: it finds everything more similar.
        calibration = fitting.fit(parts, settings.most_refused)
    else:
        shipped = Calibration.shipped("examples")
        calibration = Calibration(
            fitting.scale(best), shipped.bias, shipped.best, shipped.lead, shipped.known
        )
    return Learned(Head(tuple(labels), weights, none, calibration), _scores(labels, best, calibration), pull)


def _hold_out(material: _Material, fold: int, pull: float) -> Held:
    weights, none = _fit(material, fold, pull)
    out = material.folds == fold
    messages = material.examples[out]
    return Held(messages @ weights.T, material.truth[out], None if none is None else messages @ none)


def _fit(material: _Material, without: int | None, pull: float) -> tuple[Tensor, Tensor | None]:
    """Weights (intents, dimensions), and those (dimensions) of what is out of scope if that is known."""
    learned = material.folds != (-1 if without is None else without)
    groups = [
        torch.cat([texts, material.examples[learned & (material.truth == intent)]])
        for intent, texts in enumerate(material.described)
    ]
    strangers = material.examples[learned & (material.truth < 0)]
    if len(strangers) >= LEAST_OUT_OF_SCOPE // 2:
        weights = head.of_texts([*groups, strangers], pull)
        return weights[:-1], weights[-1]
    return head.of_texts(groups, pull), None


def _accuracy(held: Sequence[Held]) -> float:
    right = sum(int((part.similarities.argmax(dim=1) == part.truth).sum()) for part in held)
    return right / sum(int((part.truth >= 0).sum()) for part in held)


def _scores(labels: Sequence[str], held: Sequence[Held], calibration: Calibration) -> dict[str, Any]:
    answers = [
        Answer(
            None if truth < 0 else labels[truth],
            verdict.ranking[0].label,
            verdict.ranking[0].score,
            verdict.known,
        )
        for part in held
        for truth, verdict in zip(
            part.truth.tolist(),
            calibration.verdicts(labels, part.similarities, 1.0, part.none),
            strict=True,
        )
    ]
    measured = {
        measure.__name__: measure(answers)
        for measure in (
            metrics.accuracy,
            metrics.overall_accuracy,
            metrics.macro_f1,
            metrics.oos_recall,
            metrics.in_scope_refused,
            metrics.ece,
        )
    }
    rounded = {name: None if value is None else round(value, 4) for name, value in measured.items()}
    return {"held_out_messages": len(answers), **rounded}


def _truth(labels: Sequence[str], examples: Sequence[Example]) -> Tensor:
    index = {label: row for row, label in enumerate(labels)}
    return torch.tensor([index[e.intent] if e.in_scope else -1 for e in examples], dtype=torch.long)


def _folds(truth: Tensor) -> Tensor:
    """Deal the examples of each intent to the folds in turn, beginning where the last intent ended."""
    folds = torch.zeros(len(truth), dtype=torch.long)
    order = torch.argsort(truth, stable=True)
    folds[order] = torch.arange(len(truth)) % FOLDS
    return folds


def _without(examples: Sequence[Example], folds: Tensor, fold: int) -> list[Example]:
    return [example for example, its in zip(examples, folds.tolist(), strict=True) if its != fold]


def _encode(
    encoder: SentenceEncoder, catalog: Catalog, examples: Sequence[Example], truth: Tensor, folds: Tensor
) -> _Material:
    if not examples:
        raise DataFault("there are no examples to learn from")
    encoded = encoder.encode([example.text for example in examples], encoder.recipe.query_prompt)
    return _Material(vectors(encoder, catalog), encoded, truth, folds)


def _tune(
    encoder: SentenceEncoder,
    catalog: Catalog,
    examples: Sequence[Example],
    settings: TrainingSettings,
    progress: Progress,
) -> None:
    texts = [
        [intent.phrase, *([intent.description] if intent.description else []), *intent.examples]
        + [example.text for example in examples if example.intent == intent.label]
        for intent in catalog.intents
    ]
    count = sum(len(group) for group in texts)
    finetune.tune(
        encoder,
        texts,
        steps=settings.steps or min(math.ceil(settings.epochs * count / finetune.TEXTS_A_STEP), _MOST_STEPS),
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        progress=lambda done, total: progress("fine-tuning", done, total),
    )
