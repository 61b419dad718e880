"""Fits the shipped calibration: `python -m intent_service.training.calibrate --data clinc150`.

So that the numbers carry over to catalogues of any size, they are fitted on many made from one data set:
from 1 to all of its intents, those of few subjects or of many, described by their names or by examples too.
Out of scope are then the data set's own such messages, and those of the intents left out: of the same
subjects (hard to tell) and of others. Nothing of a test split is read.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from intent_service import bundled, examples
from intent_service.catalog import Catalog
from intent_service.classifiers import head
from intent_service.classifiers.calibration import SHIPPED, Calibration
from intent_service.classifiers.embedding import vectors
from intent_service.classifiers.encoder import SentenceEncoder
from intent_service.examples import DataFault
from intent_service.training import fitting
from intent_service.training.fitting import OUT_OF_SCOPE_SHARE, Held

_MESSAGES = 400  # at most, in scope, of a catalogue
_REPEATS = 3
_SIZES = (
    *((1, 1), (2, 1), (3, 2), (5, 1), (8, 1), (12, 1), (10, 2), (20, 2)),
    *((25, 2), (40, 4), (60, 5), (100, 8), (130, 10), (150, 10)),
)
"""Catalogues: of how many intents, from how many subjects."""
_SHOTS = {"names": (0,), "examples": (1, 3, 10)}


@dataclass(frozen=True)
class Material:
    """Unit vectors of a data set: of each intent's name, examples and messages, and what is out of scope."""

    subjects: dict[str, list[str]]  # the intents of a subject
    names: dict[str, Tensor]  # (1, dimensions)
    examples: dict[str, Tensor]  # (texts, dimensions)
    messages: dict[str, Tensor]  # (texts, dimensions)
    out_of_scope: Tensor  # (texts, dimensions)


def read(folder: Path, encoder: SentenceEncoder) -> Material:
    """Encode the train and valid splits of a folder like CLINC150's. Raises DataFault."""
    subjects: dict[str, list[str]] = json.loads((folder / "domains.json").read_text(encoding="utf-8"))
    intents = [intent for subject in subjects.values() for intent in subject]
    names = vectors(encoder, Catalog.of(intents))
    train, valid = (_by_intent(folder / f"{split}.jsonl", encoder) for split in ("train", "valid"))
    strange = [_by_intent(folder / f"oos_{split}.jsonl", encoder) for split in ("train", "valid")]
    return Material(
        subjects=subjects,
        names=dict(zip(intents, names, strict=True)),
        examples=train,
        messages=valid,
        out_of_scope=torch.cat([vectors for part in strange for vectors in part.values()]),
    )


def calibrate(material: Material, kind: str) -> Calibration:
    """The calibration for intents described by their "names" or by "examples" too."""
    episodes = [
        _episode(material, count, subjects, shots, random.Random(f"{count} {subjects} {shots} {repeat}"))  # noqa: S311
        for count, subjects in _SIZES
        for shots in _SHOTS[kind]
        for repeat in range(_REPEATS)
    ]
    return fitting.fit(episodes)


def _episode(material: Material, count: int, subjects: int, shots: int, rng: random.Random) -> Held:
    """A catalogue of `count` intents of so many subjects, and how similar messages are to them."""
    pool = [i for name in rng.sample(sorted(material.subjects), subjects) for i in material.subjects[name]]
    inside = sorted(rng.sample(pool, count))
    groups = [_described(material, intent, shots, rng) for intent in inside]
    weights = head.of_texts(groups)
    rows = [(row, truth) for truth, intent in enumerate(inside) for row in material.messages[intent]]
    rows = rng.sample(rows, min(_MESSAGES, len(rows)))
    strangers = round(len(rows) * OUT_OF_SCOPE_SHARE / (1 - OUT_OF_SCOPE_SHARE))
    near = _messages(material, set(pool) - set(inside))
    far = _messages(material, set(material.messages) - set(pool))
    outside = rng.sample(near, min(strangers // 3, len(near))) + rng.sample(
        far, min(strangers // 6, len(far))
    )
    own = list(material.out_of_scope)
    outside += rng.sample(own, min(strangers - len(outside), len(own)))
    return Held(
        torch.stack([row for row, _ in rows] + outside) @ weights.T,
        torch.tensor([truth for _, truth in rows] + [-1] * len(outside)),
    )


def _described(material: Material, intent: str, shots: int, rng: random.Random) -> Tensor:
    drawn = rng.sample(range(len(material.examples[intent])), shots)
    return torch.cat([material.names[intent], material.examples[intent][drawn]])


def _messages(material: Material, intents: set[str]) -> list[Tensor]:
    return [row for intent in sorted(intents) for row in material.messages[intent]]


def _by_intent(file: Path, encoder: SentenceEncoder) -> dict[str, Tensor]:
    rows = examples.read(file)
    encoded = encoder.encode([row.text for row in rows], encoder.recipe.query_prompt)
    return {
        intent: encoded[[index for index, row in enumerate(rows) if row.intent == intent]]
        for intent in dict.fromkeys(row.intent for row in rows)
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit and write the shipped calibration. Returns the exit status: 0, or 2 for wrong input."""
    parser = argparse.ArgumentParser(
        prog="python -m intent_service.training.calibrate",
        description="Fit the shipped calibration with the bundled encoder.",
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of CLINC150, with domains.json")
    given = parser.parse_args(arguments)
    folder = bundled.folder()
    if folder is None:
        print("the bundled encoder is not installed", file=sys.stderr)
        return 2
    try:
        material = read(given.data, SentenceEncoder.load(folder))
    except (DataFault, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    fitted = {kind: calibrate(material, kind).recorded() for kind in _SHOTS}
    SHIPPED.write_text(json.dumps(fitted, indent=2) + "\n", encoding="utf-8")
    print(f"{SHIPPED}: {json.dumps(fitted)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
