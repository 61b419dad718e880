"""The token ids a model reads."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dialogue_service import prompt

TEMPLATE = (
    "{% for m in messages %}<|endoftext|>{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|endoftext|>assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def chat_tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    made: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny_model)
    made.chat_template = TEMPLATE
    return made


def test_every_turn_ends_with_eos_and_nothing_lies_between(tokenizer: PreTrainedTokenizerBase) -> None:
    eos = tokenizer.eos_token_id
    expected = [id_ for text in ("Hi", "Hello!", "And you?") for id_ in [*tokenizer(text)["input_ids"], eos]]
    assert prompt.encode(tokenizer, ["Hi", "Hello!", "And you?"], 100) == expected


@pytest.mark.parametrize("text", ["<|endoftext|>", "a<|endoftext|>b", "<|endoftext|><|endoftext|>"])
def test_a_typed_special_token_is_plain_text(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    ids = prompt.encode(tokenizer, [text], 100)
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids[:-1]) == text


@pytest.mark.parametrize("window", range(1, 60))
def test_the_newest_whole_exchanges_that_fit_are_kept(
    tokenizer: PreTrainedTokenizerBase, window: int
) -> None:
    turns = [f"this is turn number {n}" for n in range(9)]
    ids = prompt.encode(tokenizer, turns, window)
    assert len(ids) <= window
    fitting = [kept for kept in (turns[i:] for i in range(0, 9, 2)) if _length(tokenizer, kept) <= window]
    if fitting:
        assert ids == prompt.encode(tokenizer, fitting[0], 1000)
    else:
        assert ids == prompt.encode(tokenizer, turns[-1:], 1000)[-window:]


def _length(tokenizer: PreTrainedTokenizerBase, turns: list[str]) -> int:
    return sum(len(tokenizer(turn)["input_ids"]) + 1 for turn in turns)


def test_a_chat_template_is_used_where_there_is_one(chat_tokenizer: PreTrainedTokenizerBase) -> None:
    ids = prompt.encode(chat_tokenizer, ["Hi", "Hello!", "And you?"], 100)
    said = "<|endoftext|>user: Hi\n<|endoftext|>assistant: Hello!\n<|endoftext|>user: And you?\n"
    assert chat_tokenizer.decode(ids) == said + "<|endoftext|>assistant:"


def test_a_typed_special_token_is_plain_text_in_a_chat_template(
    chat_tokenizer: PreTrainedTokenizerBase,
) -> None:
    ids = prompt.encode(chat_tokenizer, ["a<|endoftext|>b"], 100)
    assert ids.count(chat_tokenizer.eos_token_id) == 2  # the template's own
    assert "a<|endoftext|>b" in chat_tokenizer.decode(ids)


def test_a_chat_template_drops_the_oldest_exchanges_first(chat_tokenizer: PreTrainedTokenizerBase) -> None:
    turns = ["one", "two", "three", "four", "five"]
    whole = len(prompt.encode(chat_tokenizer, turns, 1000))
    shorter = prompt.encode(chat_tokenizer, turns, whole - 1)
    assert shorter == prompt.encode(chat_tokenizer, turns[2:], 1000)
    assert len(prompt.encode(chat_tokenizer, turns, 3)) == 3
