"""A head that was trained by `python -m intent_service.training`, on top of a sentence encoder.

Its folder holds `head.safetensors`, and in `config.json` the labels, the fitted calibration and the encoder's
name; an encoder that was fine-tuned with it lies in the subfolder `encoder`.
"""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from intent_service import bundled
from intent_service.catalog import Catalog
from intent_service.classifiers.calibration import Calibration
from intent_service.classifiers.embedding import SURE, EmbeddingClassifier
from intent_service.classifiers.encoder import SentenceEncoder
from intent_service.classifiers.verdict import Verdict
from shared.hub import ModelUnavailable
from shared.model_folder import read_json

WEIGHTS = "head.safetensors"
ENCODER = "encoder"


@dataclass(frozen=True)
class Head:
    """What training leaves."""

    labels: tuple[str, ...]
    weights: Tensor  # (labels, dimensions)
    none: Tensor | None  # (dimensions), like a label's weights, for what is out of scope
    calibration: Calibration

    def similarities(self, messages: Tensor) -> tuple[Tensor, Tensor | None]:
        """Of unit vectors (texts, dimensions): to the labels (texts, labels), to out of scope (texts)."""
        return messages @ self.weights.T, None if self.none is None else messages @ self.none

    def save(self, folder: Path, encoder: str | None) -> None:
        """Write the head into `folder`; `encoder` is its name, None where it lies in the subfolder."""
        none = {} if self.none is None else {"none": self.none.contiguous()}
        save_file({"weights": self.weights.contiguous(), **none}, folder / WEIGHTS)
        content = {"encoder": encoder, "labels": self.labels, "calibration": self.calibration.recorded()}
        (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. Raises ModelUnavailable."""
        config = read_json(folder / "config.json")
        tensors = load_file(folder / WEIGHTS)
        head = cls(
            tuple(config["labels"]),
            tensors["weights"],
            tensors.get("none"),
            Calibration(**config["calibration"]),
        )
        if len(head.labels) != len(head.weights):
            raise ModelUnavailable(
                f"its head has {len(head.weights)} rows for {len(head.labels)} labels",
                "Train it again with python -m intent_service.training.",
                lasting=True,
            )
        return head


class TrainedClassifier:
    """Ranks by a trained head. Labels it has not learned are ranked by similarity, as without a head."""

    def __init__(self, encoder: SentenceEncoder, head: Head) -> None:
        self._encoder = encoder
        self._head = head
        self._rows = {label: row for row, label in enumerate(head.labels)}
        self._untrained = EmbeddingClassifier(encoder)

    @classmethod
    def load(cls, folder: Path, *, fast: bool = False) -> Self:
        """Load a trained folder and the encoder it names. Raises ModelUnavailable."""
        return cls(SentenceEncoder.load(encoder_folder(folder), fast=fast), Head.load(folder))

    @property
    def dtype(self) -> str:
        """What the encoder computes with."""
        return self._encoder.dtype

    def classify(self, texts: Sequence[str], catalog: Catalog) -> list[Verdict]:
        """Classify messages together."""
        labels = [intent.label for intent in catalog.intents]
        if any(label not in self._rows for label in labels):
            return self._untrained.classify(texts, catalog)
        messages = self._encoder.encode(texts, self._encoder.recipe.query_prompt)
        similarities, none = self._head.similarities(messages)
        chosen = similarities[:, torch.tensor([self._rows[label] for label in labels])]
        return self._head.calibration.verdicts(labels, chosen, SURE, none)

    def prepare(self, catalog: Catalog) -> None:
        """Make ready for labels that the head has not learned."""
        if any(intent.label not in self._rows for intent in catalog.intents):
            self._untrained.prepare(catalog)


def encoder_folder(folder: Path) -> Path:
    """Where the encoder of a trained folder lies, fetched if it is on the hub. Raises ModelUnavailable."""
    return find_encoder(encoder_name(folder))


def encoder_name(folder: Path) -> str:
    """Of the encoder of a trained folder: the one within it, or what `find_encoder` takes."""
    name = read_json(folder / "config.json")["encoder"]
    return str(folder / ENCODER if name is None else name)


def find_encoder(name: str) -> Path:
    """The folder of the encoder `name`: the bundled one, a folder, or a hub id. Raises ModelUnavailable."""
    return bundled.fetch(name, lambda _: None, threading.Event())
