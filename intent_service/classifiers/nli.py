"""Zero-shot classification by natural language inference: does the message entail "This example is joke."?

The method of Yin et al. 2019 ("Benchmarking Zero-shot Text Classification"), run by transformers'
zero-shot-classification pipeline: one forward pass a label, all labels of a message in batches.
"""

from pathlib import Path
from typing import Self

from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ZeroShotClassificationPipeline,
)

from intent_service.catalog import Catalog
from intent_service.classifiers.tokenizer import load_tokenizer
from intent_service.classifiers.verdict import Rule, Verdict
from shared.checkpoint import load_model

# Not fitted to data. The score is spread over all labels: with 20 of them 0.3 is six times the even share.
_RULE = Rule(known=0.3, lead=0.05, sure=0.8)
_LARGEST_BATCH = 32  # bounds the memory that 100 labels with a long message take


class NliClassifier:
    """Ranks by how strongly the message entails each label's hypothesis; scores sum to 1.

    With a single label the score is entailment against contradiction.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, hypothesis: str) -> None:
        self._pipeline = ZeroShotClassificationPipeline(model=model, tokenizer=tokenizer, device="cpu")  # type: ignore[no-untyped-call]
        self._hypothesis = hypothesis

    @classmethod
    def load(cls, folder: Path, hypothesis: str) -> Self:
        """Load an NLI model; `hypothesis` has {} where the label goes. Raises ModelUnavailable."""
        model = load_model(AutoModelForSequenceClassification, folder)
        return cls(model, load_tokenizer(folder), hypothesis)

    def classify(self, text: str, catalog: Catalog) -> Verdict:
        """Classify one message."""
        # The pipeline takes a label "{}" for a template that nothing was filled into, and raises.
        labels = {intent.phrase.replace("{}", "()"): intent.label for intent in catalog.intents}
        found = self._pipeline(
            text,
            candidate_labels=list(labels),
            hypothesis_template=self._hypothesis,
            multi_label=False,
            batch_size=min(len(labels), _LARGEST_BATCH),
        )
        return _RULE.verdict([labels[phrase] for phrase in found["labels"]], found["scores"])
