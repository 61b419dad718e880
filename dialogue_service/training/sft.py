"""Supervised fine-tuning: the model learns to say the learned turns of dialogues, token by token."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments

from dialogue_service.training.data import DataError, Dialogue
from dialogue_service.training.rows import Row, batches, collate, encode
from dialogue_service.training.settings import TrainingSettings


class Batches(Dataset[list[Row]]):
    """Rows as `Trainer` sees them: an item is a whole batch, grouped by length. `dropped` are too long."""

    def __init__(
        self, dialogues: Sequence[Dialogue], tokenizer: PreTrainedTokenizerBase, settings: TrainingSettings
    ) -> None:
        rows = [encode(dialogue, tokenizer, settings.max_length) for dialogue in dialogues]
        self.rows = [row for row in rows if row is not None]
        self.dropped = len(rows) - len(self.rows)
        if not self.rows:
            raise DataError(
                f"no reply fits into {settings.max_length} tokens together with the turn before it"
            )
        self.batches = batches(self.rows, settings.tokens_per_batch, settings.seed)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[Row]:
        return self.batches[index]


def trainer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    learned: Batches,
    held_out: Batches,
    arguments: dict[str, Any],
) -> Trainer:
    """Transformers' own; the model may be a PeftModel, `arguments` are those of TrainingArguments."""
    pad_id = tokenizer.eos_token_id
    return Trainer(
        model=model,
        args=TrainingArguments(
            **arguments,
            per_device_train_batch_size=1,  # an item of `Batches` is a batch
            per_device_eval_batch_size=1,
            bf16=bf16_in_hardware(),
            remove_unused_columns=False,
        ),
        train_dataset=learned,
        eval_dataset=held_out,
        data_collator=lambda items: collate([row for batch in items for row in batch], pad_id),
        processing_class=tokenizer,
    )


def bf16_in_hardware() -> bool:
    """Whether this machine multiplies bfloat16 faster than float32.

    A processor does so with matrix tiles (AMX); with AVX-512's bfloat16 alone a step of the starter took 1.7
    times as long as in float32 (Xeon without AMX, torch 2.13).
    """
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))
