"""The token ids a model reads."""

import random
from itertools import pairwise
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


def talk(exchanges: int, seed: int = 0) -> list[str]:
    """Turns of many lengths, the last one a message."""
    chance = random.Random(seed)
    return [" ".join(["word"] * chance.randint(1, 9)) + f" {n}" for n in range(2 * exchanges + 1)]


@pytest.mark.parametrize("window", [1, 2, 5, 20, 60, 200])
@pytest.mark.parametrize("kind", ["tokenizer", "chat_tokenizer"])
def test_whole_exchanges_are_kept_and_never_more_than_fits(
    request: pytest.FixtureRequest, kind: str, window: int
) -> None:
    tokenizer = request.getfixturevalue(kind)
    turns = talk(40)
    for last in range(0, len(turns), 2):
        said = turns[: last + 1]
        ids = prompt.encode(tokenizer, said, window)
        whole = [prompt.encode(tokenizer, said[first:], 10**6) for first in range(0, last + 1, 2)]
        assert ids in whole if len(whole[-1]) <= window else ids == whole[-1][-window:]
        assert len(ids) <= window


@pytest.mark.parametrize("kind", ["tokenizer", "chat_tokenizer"])
def test_the_beginning_stays_the_same_for_many_turns(request: pytest.FixtureRequest, kind: str) -> None:
    tokenizer = request.getfixturevalue(kind)
    turns, window = talk(200), 400
    prompts = [prompt.encode(tokenizer, turns[: last + 1], window) for last in range(0, len(turns), 2)]
    # A prompt goes on from the one before, but for what asks for the reply at the end of a template.
    moved = [new for old, new in pairwise(prompts) if new[: len(old) - 3] != old[:-3]]
    assert 3 < len(moved) < 200 / 8
    assert all(window // 3 < len(new) < 2 * window // 3 for new in moved)


def test_a_long_message_leaves_room_for_what_was_said_just_before(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = prompt.encode(tokenizer, [*talk(40)[:-1], "long " * 200], 300)
    assert 210 < len(ids) <= 300


def test_a_history_that_begins_with_a_reply_begins_after_it(tokenizer: PreTrainedTokenizerBase) -> None:
    assert prompt.encode(tokenizer, ["reply", "message"], 100) == prompt.encode(tokenizer, ["message"], 100)


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


def test_before_the_first_turn_there_is_what_a_reply_follows(
    tokenizer: PreTrainedTokenizerBase, chat_tokenizer: PreTrainedTokenizerBase
) -> None:
    assert prompt.blank(tokenizer) == [tokenizer.eos_token_id]
    assert chat_tokenizer.decode(prompt.blank(chat_tokenizer)).endswith("assistant:")
