"""Zero-shot classification by natural language inference: does the message entail "This example is joke."?

The method of Yin et al. 2019 ("Benchmarking Zero-shot Text Classification"), with the results of
transformers' zero-shot-classification pipeline. That one computes a pair of message and hypothesis at a
time; here all pairs go through the model in padded batches, and the hypotheses are tokenized once.

From which score on a label is named is `BY_HAND` unless told: numbers fitted to no model. Those of the model
in use come from `python -m intent_service.training.nli_rule`.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Self

import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from intent_service.catalog import Catalog
from intent_service.classifiers import precision
from intent_service.classifiers.tokenizer import load_tokenizer
from intent_service.classifiers.verdict import Rule, Verdict
from shared.checkpoint import load_model
from shared.hub import ModelUnavailable
from shared.metrics import TOKENIZATION

# The score is spread over all labels: with 20 of them 0.3 is six times the even share.
BY_HAND = Rule(known=0.3, lead=0.05, sure=0.8)
_BATCH_TOKENS = 2048  # bounds the memory that 100 labels with a long message take
_CATALOGS_KEPT = 64


class NliClassifier:
    """Ranks by how strongly the message entails each label's hypothesis; scores sum to 1.

    With a single label the score is entailment against contradiction.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        hypothesis: str,
        rule: Rule = BY_HAND,
    ) -> None:
        self.model = model
        self.dtype = "float32"
        self._tokenizer = tokenizer
        self._backend = _backend(tokenizer)
        self._hypothesis = hypothesis
        self._rule = rule
        self._entailment = next(
            int(index)
            for label, index in (model.config.label2id or {}).items()
            if label.lower().startswith("entail")
        )
        self._hypotheses = lru_cache(maxsize=_CATALOGS_KEPT)(self._tokenize_hypotheses)

    @classmethod
    def load(cls, folder: Path, hypothesis: str, *, rule: Rule = BY_HAND, fast: bool = False) -> Self:
        """Load an NLI model; `hypothesis` has {} where the label goes. Raises ModelUnavailable.

        With `fast` its weights become int8 if that keeps the ranking of some everyday messages.
        """
        classifier = cls(
            load_model(AutoModelForSequenceClassification, folder), load_tokenizer(folder), hypothesis, rule
        )
        if fast and precision.quantize(classifier.model, classifier.scores):
            classifier.dtype = "int8"
        elif fast:
            classifier.model = load_model(AutoModelForSequenceClassification, folder)
        return classifier

    def classify(self, texts: Sequence[str], catalog: Catalog) -> list[Verdict]:
        """Classify messages together."""
        labels = [intent.label for intent in catalog.intents]
        return [self._rule.verdict(labels, row) for row in self.scores(texts, catalog).tolist()]

    def prepare(self, catalog: Catalog) -> None:
        """Tokenize the catalogue's hypotheses."""
        self._hypotheses(catalog)

    def scores(self, texts: Sequence[str], catalog: Catalog) -> Tensor:
        """Probabilities of shape (texts, intents)."""
        hypotheses = self._hypotheses(catalog)
        with TOKENIZATION.labels("intent").time():
            premises = self._backend.encode_batch(list(texts), add_special_tokens=False)
            pairs = [
                self._backend.post_process(premise, hypothesis)
                for premise in premises
                for hypothesis in hypotheses
            ]
        logits = self._logits(pairs).view(len(texts), len(hypotheses), -1)
        if len(hypotheses) > 1:
            return logits[..., self._entailment].softmax(dim=1)
        contradiction = -1 if self._entailment == 0 else 0
        return logits[..., [contradiction, self._entailment]].softmax(dim=2)[..., 1]

    def _tokenize_hypotheses(self, catalog: Catalog) -> list[Encoding]:
        sentences = [self._hypothesis.replace("{}", intent.phrase) for intent in catalog.intents]
        return list(self._backend.encode_batch(sentences, add_special_tokens=False))

    @torch.inference_mode()
    def _logits(self, pairs: Sequence[Encoding]) -> Tensor:
        """Logits of shape (pairs, classes), computed in batches of similar length."""
        by_length = sorted(range(len(pairs)), key=lambda index: len(pairs[index]))
        # Some models would keep a cache for generating otherwise.
        no_cache = {"use_cache": False} if hasattr(self.model.config, "use_cache") else {}
        logits = torch.cat(
            [
                self.model(**self._padded([pairs[index] for index in batch]), **no_cache).logits
                for batch in _cut(by_length, pairs)
            ]
        )
        return logits[torch.tensor(by_length).argsort()]

    def _padded(self, pairs: Sequence[Encoding]) -> dict[str, Tensor]:
        """What the model is fed, each of shape (pairs, longest)."""
        fed = {
            "input_ids": ([pair.ids for pair in pairs], self._tokenizer.pad_token_id),
            "token_type_ids": ([pair.type_ids for pair in pairs], self._tokenizer.pad_token_type_id),
            "attention_mask": ([pair.attention_mask for pair in pairs], 0),
        }
        return {
            name: pad_sequence(
                [torch.tensor(row) for row in rows],
                batch_first=True,
                padding_value=padding,
                padding_side=self._tokenizer.padding_side,
            )
            for name, (rows, padding) in fed.items()
            if name in self._tokenizer.model_input_names
        }


def _backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizer proper, which can tokenize the two texts of a pair apart and put them together later."""
    backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelUnavailable(
            "its tokenizer has no tokenizer.json form", "Name another NLI model.", lasting=True
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    backend.encode_special_tokens = True  # special tokens in a text are text
    backend.no_padding()
    # The hypothesis stays whole, as in the pipeline.
    backend.enable_truncation(
        tokenizer.model_max_length, strategy="only_first", direction=tokenizer.truncation_side
    )
    return backend


def _cut(by_length: Sequence[int], pairs: Sequence[Encoding]) -> Iterator[list[int]]:
    """Batches of the pairs at these places, which come shortest first."""
    batch: list[int] = []
    for index in by_length:
        if batch and (len(batch) + 1) * len(pairs[index]) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    yield batch
