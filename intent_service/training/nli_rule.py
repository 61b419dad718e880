"""Fits when an NLI model's answer is "unknown": `python -m intent_service.training.nli_rule --data clinc150`.

How high an NLI model scores is its own, and its scores are spread over all intents: the two numbers hold
for the model, the hypothesis and about the number of intents that they were fitted with. Nothing of a test
split is read. An encoder has no need of this: its calibration is shipped.
"""

import argparse
import random
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from intent_service import bundled, catalog, classifiers, examples, metrics
from intent_service.catalog import Catalog
from intent_service.classifiers.nli import BY_HAND, NliClassifier
from intent_service.classifiers.verdict import Rule
from intent_service.examples import DataFault, Example
from intent_service.metrics import Answer
from intent_service.settings import IntentSettings
from shared.hub import ModelUnavailable
from shared.settings import SettingsFault, load

_BATCH = 8  # few, as each message is as many pairs as there are intents


def read(folder: Path, limit: int) -> tuple[list[str], list[Example]]:
    """The intents of a data folder and its messages: up to `limit` in scope and as many out of scope.

    They are of the valid split, or of the train split where that has none. Raises DataFault.
    """
    train, valid = (_split(folder, name) for name in ("train", "valid"))
    intents = examples.intents([*train, *valid])
    if wrong := catalog.unusable(intents):
        raise DataFault(f"{folder}: the intent {intents[wrong[0]]}: {wrong[1]}")
    drawn: list[Example] = []
    for in_scope, file in ((True, "valid.jsonl"), (False, "oos_valid.jsonl")):
        rows = next((rows for s in (valid, train) if (rows := [r for r in s if r.in_scope == in_scope])), [])
        if not rows:
            raise DataFault(f"{folder / file}: there must be messages {'in' if in_scope else 'out of'} scope")
        drawn += random.Random(0).sample(rows, min(limit, len(rows)))  # noqa: S311 - no secret
    return intents, drawn


def fit(scores: Tensor, inside: Tensor) -> Rule:
    """The rule at which recall out of scope less the share wrongly refused is greatest (Youden 1950).

    `scores` has shape (texts, intents), `inside` (texts): whether a message is in scope; there must be some
    of both kinds. Of rules equally good that with the least lead, then the least score, is taken.
    """
    best, second = torch.cat([scores, torch.zeros(len(scores), 1)], dim=1).double().topk(2).values.T
    known, lead = _between(best), _between(best - second)
    # The share named out of scope less that in scope, summed over the messages that pass both numbers.
    weight = torch.where(inside, -1 / inside.sum(), 1 / (~inside).sum()).double()
    passes = (best - second >= lead[:, None]).double() * weight
    wrong = passes @ (best >= known[:, None]).double().T
    at_lead, at_known = (wrong <= wrong.min() + 1e-9).nonzero()[0].tolist()
    return replace(BY_HAND, known=_short(known[at_known]), lead=_short(lead[at_lead]))


def answers(rule: Rule, scores: Tensor, intents: Sequence[str], rows: Sequence[Example]) -> list[Answer]:
    """What the rule makes of the scores (texts, intents) of these messages."""
    verdicts = [rule.verdict(intents, row) for row in scores.tolist()]
    return [
        Answer(row.intent if row.in_scope else None, v.ranking[0].label, v.ranking[0].score, v.known)
        for row, v in zip(rows, verdicts, strict=True)
    ]


def _split(folder: Path, name: str) -> list[Example]:
    files = (folder / f"{name}.jsonl", folder / f"oos_{name}.jsonl")
    return [example for file in files if file.is_file() for example in examples.read(file)]


def _between(values: Tensor) -> Tensor:
    """0, which refuses nothing, and the middle between each value and the next."""
    ordered = values.unique()  # type: ignore[no-untyped-call]
    return torch.cat([torch.zeros(1).double(), (ordered[1:] + ordered[:-1]) / 2])


def _short(value: Tensor) -> float:
    return float(f"{float(value):.4g}")


def _classifier(name: str, settings: IntentSettings) -> NliClassifier:
    """The model as the service would use it. Raises ModelUnavailable."""
    revision = settings.revision if name == settings.model else None
    folder = bundled.fetch(name, lambda _: None, threading.Event(), revision)
    if not classifiers.entails(folder):
        raise ModelUnavailable(
            "it is no NLI model", "Name one: no other has these two numbers.", lasting=True
        )
    return NliClassifier.load(folder, settings.hypothesis, fast=settings.precision == "auto")


def _scores(classifier: NliClassifier, texts: Sequence[str], intents: Catalog) -> Tensor:
    with Progress(console=Console(stderr=True), transient=True) as bars:
        starts = bars.track(range(0, len(texts), _BATCH), description="classifying")
        return torch.cat([classifier.scores(texts[start : start + _BATCH], intents) for start in starts])


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit as the arguments say and print the settings. Returns the exit status: 0, or 2 for wrong input."""
    parser = argparse.ArgumentParser(
        prog="python -m intent_service.training.nli_rule",
        description="Fit INTENT_NLI_KNOWN and INTENT_NLI_LEAD to a model; other settings are read as usual.",
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with valid.jsonl and oos_valid.jsonl"
    )
    parser.add_argument("--model", help="NLI model: folder, or hub id (INTENT_MODEL)")
    parser.add_argument("--limit", type=int, default=300, help="messages of each kind at most (%(default)s)")
    given = parser.parse_args(arguments)
    if given.limit < 1:
        parser.error("argument --limit: must be a whole number from 1 on")
    try:
        settings = load(IntentSettings)
        intents, rows = read(given.data, given.limit)
        classifier = _classifier(given.model or settings.model, settings)
    except (DataFault, ModelUnavailable, SettingsFault) as error:
        print(error, file=sys.stderr)
        return 2
    scores = _scores(classifier, [row.text for row in rows], Catalog.of(intents))
    rule = fit(scores, torch.tensor([row.in_scope for row in rows]))
    found = answers(rule, scores, intents, rows)
    print(f"INTENT_NLI_KNOWN={rule.known} INTENT_NLI_LEAD={rule.lead}")
    print(
        f"out of scope recognised {metrics.oos_recall(found):.1%}, wrongly refused "
        f"{metrics.in_scope_refused(found):.1%}, ECE {metrics.ece(found):.3f}: {len(rows)} messages, "
        f"{len(intents)} intents, fitted on the same messages"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
