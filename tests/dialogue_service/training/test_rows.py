import pytest
import torch
from transformers import GPT2Config, PreTrainedTokenizerBase

from dialogue_service.training.data import Dialogue
from dialogue_service.training.model import create
from dialogue_service.training.rows import IGNORED, Row, batches, collate, encode


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    sizes = GPT2Config(vocab_size=280, n_positions=64, n_embd=8, n_layer=1, n_head=1)
    return create(sizes, ["hello there", "how are you"])[1]


def ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]


def test_labels_are_the_learned_turns_with_their_eos(tokenizer: PreTrainedTokenizerBase) -> None:
    turns = ("hello", "hi", "how are you", "fine")
    row = encode(Dialogue(turns, (False, True, False, True)), tokenizer, 64)
    a, b, c, d = (ids(tokenizer, turn) for turn in turns)
    assert row == Row(tuple(a + b + c + d), tuple([IGNORED] * len(a) + b + [IGNORED] * len(c) + d))
    assert row.labels[-1] == tokenizer.eos_token_id


def test_a_typed_special_token_stays_text(tokenizer: PreTrainedTokenizerBase) -> None:
    row = encode(Dialogue(("<|endoftext|>", "no <|endoftext|> here"), (False, True)), tokenizer, 64)
    assert row is not None
    assert row.input_ids.count(tokenizer.eos_token_id) == 2
    assert tokenizer.decode(row.input_ids).count("<|endoftext|>") == 4


def test_too_long_a_dialogue_loses_its_oldest_whole_turns(tokenizer: PreTrainedTokenizerBase) -> None:
    turns = ("a" * 20, "b" * 20, "c" * 10, "d" * 5)
    dialogue = Dialogue(turns, (False, True, True, True))
    kept = [ids(tokenizer, turn) for turn in turns]
    longest = len(kept[1]) + len(kept[2]) + len(kept[3])
    row = encode(dialogue, tokenizer, longest)
    # The second turn has lost its context, so it is context now.
    assert row == Row(tuple(kept[1] + kept[2] + kept[3]), tuple([IGNORED] * len(kept[1]) + kept[2] + kept[3]))
    row = encode(dialogue, tokenizer, longest - 1)
    assert row == Row(tuple(kept[2] + kept[3]), tuple([IGNORED] * len(kept[2]) + kept[3]))
    assert encode(dialogue, tokenizer, len(kept[3])) is None


def test_a_cut_that_leaves_only_prompts_gives_no_row(tokenizer: PreTrainedTokenizerBase) -> None:
    dialogue = Dialogue(("a" * 20, "b" * 20, "c" * 5), (False, True, False))
    assert encode(dialogue, tokenizer, 64) is not None
    assert encode(dialogue, tokenizer, 30) is None


def test_padding_is_masked_and_a_real_eos_is_not() -> None:
    eos = 0
    batch = collate(
        [Row((5, eos, 6, eos), (IGNORED, IGNORED, 6, eos)), Row((7, eos), (IGNORED, eos))], pad_id=eos
    )
    assert batch["input_ids"].tolist() == [[5, 0, 6, 0], [7, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 6, 0], [-100, 0, -100, -100]]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_batches_hold_every_row_once_within_the_token_budget() -> None:
    rows = [Row((number,) * (1 + number % 13), (number,) * (1 + number % 13)) for number in range(100)]
    grouped = batches(rows, tokens=24, seed=1)
    assert sorted(row.input_ids for batch in grouped for row in batch) == sorted(
        row.input_ids for row in rows
    )
    assert all(len(batch) * max(len(row.input_ids) for row in batch) <= 24 for batch in grouped)
    assert len(grouped) < 50
    assert grouped == batches(rows, tokens=24, seed=1)
    assert grouped != batches(rows, tokens=24, seed=2)
