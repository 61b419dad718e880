"""Learning from thumbs alone: preference tuning by KTO (Ethayarajh et al. 2024, arXiv:2402.01306).

KTO needs no pairs: each thumb says of one reply whether it was wanted. The loss raises wanted replies and
lowers unwanted ones against the model that training began with, so that little else changes.
"""

import random
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from dialogue_service.training.data import Dialogue, Thumb
from dialogue_service.training.rows import IGNORED, Row, collate, encode

BATCH = 8
KEPT = 0.5
"""The share of what the weights moved that is kept.

Between a model and what was tuned of it, what was learned changes with the share, what was forgotten with
its square (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", arXiv:2109.01903). Measured on the
starter with 300 votes: at a rate of 2e-4 perplexity rises by 11.5 %, with half of it kept by 2.3 %; at 1e-4
it rises by 3.3 %, for like shares of liked replies.
"""


def encode_thumb(thumb: Thumb, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Row | None:
    """The turns and the reply as a row in which the reply is learned; None where they do not fit."""
    said = [False] * (len(thumb.turns) - 1)
    return encode(Dialogue(thumb.turns, (*said, True)), tokenizer, max_length)


def encode_thumbs(
    thumbs: Sequence[Thumb], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[tuple[Row, bool]]:
    """The rows of those that fit, and whether they are up."""
    encoded = ((encode_thumb(thumb, tokenizer, max_length), thumb.up) for thumb in thumbs)
    return [(row, up) for row, up in encoded if row is not None]


def mean_log_probabilities(model: PreTrainedModel, rows: Sequence[Row]) -> list[float]:
    """For each row the mean log probability (nats) of its learned tokens."""
    model.train(False)
    scores: list[float] = []
    for begin in range(0, len(rows), BATCH):
        batch = collate(rows[begin : begin + BATCH], pad_id=0)
        inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
        labels = inputs.pop("labels")[:, 1:]
        with torch.no_grad():
            logits = model(**inputs).logits[:, :-1].float()
        learned = labels != IGNORED
        chosen = logits.gather(2, labels.clamp_min(0)[..., None])[..., 0] - logits.logsumexp(-1)
        scores += ((chosen * learned).sum(1) / learned.sum(1)).tolist()
    return scores


@torch.no_grad()
def step_back(model: PreTrainedModel, begun: PreTrainedModel) -> None:
    """Keep the share KEPT of what `model` has moved from `begun`."""
    for weights, before in zip(model.parameters(), begun.parameters(), strict=True):
        weights.copy_(torch.lerp(before.to(weights.device), weights, KEPT))


def examples(
    thumbs: Sequence[Thumb], tokenizer: PreTrainedTokenizerBase, max_length: int, seed: int
) -> list[dict[str, Any]]:
    """What TRL's KTO trainer computes with, shuffled by `seed`.

    Every prompt also gets the reply to another one (`KL_completion_ids`), by which KTO estimates how far the
    model has moved from where it began.
    """
    made: list[dict[str, Any]] = []
    for thumb in thumbs:
        if row := encode_thumb(thumb, tokenizer, max_length):
            said, ids = sum(label == IGNORED for label in row.labels), list(row.input_ids)
            made.append({"prompt_ids": ids[:said], "completion_ids": ids[said:], "label": thumb.up})
    random.Random(seed).shuffle(made)  # noqa: S311 - a seeded shuffle, no secret
    for example, other in zip(made, [*made[-1:], *made], strict=False):
        example["KL_completion_ids"] = other["completion_ids"]
    return made


def _balance(learned: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Weights by which both kinds count alike, however many there are of each (eq. 8 of the paper)."""
    up = sum(example["label"] for example in learned)
    down = len(learned) - up
    return {"desirable_weight": max(1.0, down / up), "undesirable_weight": max(1.0, up / down)}


def trainer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    learned: list[dict[str, Any]],
    held_out: list[dict[str, Any]],
    beta: float,
    arguments: dict[str, Any],
) -> Trainer:
    """TRL's, over `examples`; the model may be a PeftModel, `arguments` are those of TrainingArguments.

    beta: how firmly the model is held to what it was. With the paper's 0.1 too much else changed: tried once
    on a starter with 300 votes (rate 1e-4, 3 passes), perplexity on dialogues rose by 42 %. For a like share
    of liked replies it rose by 3.0 % with 1.0 (2 passes) and by 2.1 % with 3.0 (6 passes), at a rate of 5e-5.
    """
    # Imported here because it takes seconds that only who tunes by thumbs should spend.
    from datasets import Dataset, disable_progress_bars
    from trl.trainer.kto_config import KTOConfig
    from trl.trainer.kto_trainer import KTOTrainer

    class _Tokenized(KTOTrainer):
        """Takes token ids as they are: TRL's own reading would take a typed special token for one."""

        def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
            return dataset

    disable_progress_bars()
    config = KTOConfig(
        **arguments,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        bf16=False,
        beta=beta,
        **_balance(learned),
        precompute_ref_log_probs=True,  # then no second copy of the model is needed
        activation_checkpointing=False,
        max_length=None,
    )
    made: Trainer = _Tokenized(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(learned),
        eval_dataset=Dataset.from_list(held_out) if held_out else None,
        processing_class=tokenizer,
    )
    return made
