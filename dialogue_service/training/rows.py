"""Token rows made of dialogues, and the batches that a training step sees."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from dialogue_service.training.data import Dialogue

IGNORED = -100
"""The label that the loss leaves out."""


@dataclass(frozen=True)
class Row:
    """One dialogue as token ids, and as many labels: the id where it is learned, else `IGNORED`."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]


def encode(dialogue: Dialogue, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Row | None:
    """Write a dialogue in DialoGPT's format: each turn's tokens and the EOS id, one turn after the other.

    The EOS that ends a learned turn is learned with it. Text that looks like a special token stays text.
    Beyond `max_length` tokens whole turns are left out, oldest first; the first one kept is context only.
    Returns None when no learned turn fits together with the turn before it.
    """
    texts = tokenizer(list(dialogue.turns), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    turns = [[*ids, tokenizer.eos_token_id] for ids in texts]
    length = sum(map(len, turns))
    first = 0
    while length > max_length:
        length -= len(turns[first])
        first += 1
    learned = [False, *dialogue.learned[first + 1 :]]
    if not any(learned):
        return None
    input_ids: list[int] = []
    labels: list[int] = []
    for turn, is_learned in zip(turns[first:], learned, strict=True):
        input_ids += turn
        labels += turn if is_learned else [IGNORED] * len(turn)
    return Row(tuple(input_ids), tuple(labels))


def batches(rows: Sequence[Row], tokens: int, seed: int) -> list[list[Row]]:
    """Group rows of similar length so that no padded batch exceeds `tokens`, except by one single long row.

    Rows of equal length are shuffled by `seed`; the order of the batches themselves is left to the training.
    """
    shuffled = random.Random(seed).sample(rows, len(rows))  # noqa: S311 - a seeded shuffle, no secret
    grouped: list[list[Row]] = [[]]
    for row in sorted(shuffled, key=lambda row: len(row.input_ids)):
        # Sorted by length, so the newest row is the widest and sets the width of its batch.
        if grouped[-1] and (len(grouped[-1]) + 1) * len(row.input_ids) > tokens:
            grouped.append([])
        grouped[-1].append(row)
    return grouped


def collate(rows: Sequence[Row], pad_id: int) -> dict[str, torch.Tensor]:
    """Pad to the longest row: `input_ids`, `attention_mask` and `labels`, each of shape (rows, tokens).

    Padding is told apart by its place, never by its id, for with DialoGPT the padding id is the EOS id.
    """
    width = max(len(row.input_ids) for row in rows)
    input_ids = torch.full((len(rows), width), pad_id)
    labels = torch.full((len(rows), width), IGNORED)
    attention_mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        length = len(row.input_ids)
        input_ids[index, :length] = torch.tensor(row.input_ids)
        labels[index, :length] = torch.tensor(row.labels)
        attention_mask[index, :length] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
