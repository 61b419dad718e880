"""What classifies messages. The kind follows from the model: a trained head, an NLI model, or an encoder.

Importing this package imports torch, which takes seconds. It is done before the service listens and not
in the loading thread: there it would hold up the event loop by as much as 0.3 s at a time.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from intent_service.catalog import Catalog
from intent_service.classifiers.embedding import EmbeddingClassifier
from intent_service.classifiers.nli import BY_HAND, NliClassifier
from intent_service.classifiers.trained import WEIGHTS, TrainedClassifier
from intent_service.classifiers.verdict import Rule, Verdict
from shared.model_folder import check_files, read_json


class Classifier(Protocol):
    """Ranks a catalogue's intents for messages.

    `classify` is not for two threads at once; `prepare` may run in another thread beside it.
    """

    @property
    def dtype(self) -> str:
        """What its layers compute with, such as float32."""
        ...

    def classify(self, texts: Sequence[str], catalog: Catalog) -> list[Verdict]:
        """Classify messages, at least one, together; one verdict each, in their order."""
        ...

    def prepare(self, catalog: Catalog) -> None:
        """Do beforehand what the first `classify` with this catalogue would do once."""
        ...


def load(folder: Path, hypothesis: str, *, rule: Rule = BY_HAND, fast: bool = False) -> Classifier:
    """Load the model in `folder` as the kind of classifier it is fit for.

    `hypothesis` is the template of NLI models and `rule` what they name a label by; with `fast` any model
    computes with fewer bits where that keeps its results. Raises ModelUnavailable.
    """
    check_files(folder)
    if (folder / WEIGHTS).is_file():
        return TrainedClassifier.load(folder, fast=fast)
    if entails(folder):
        return NliClassifier.load(folder, hypothesis, rule=rule, fast=fast)
    return EmbeddingClassifier.load(folder, fast=fast)


def entails(folder: Path) -> bool:
    """Whether the folder holds a classifier with an entailment label."""
    config = read_json(folder / "config.json")
    classifies = any("ForSequenceClassification" in name for name in config.get("architectures") or [])
    return classifies and any(label.lower().startswith("entail") for label in config.get("label2id") or {})
