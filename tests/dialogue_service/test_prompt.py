"""The token ids a model reads."""

import random
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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


@pytest.mark.parametrize("kind", ["tokenizer", "chat_tokenizer"])
def test_turns_that_were_encoded_before_are_remembered(request: pytest.FixtureRequest, kind: str) -> None:
    tokenizer, turns, asked = request.getfixturevalue(kind), talk(20), []

    def counting(text: str, **options: Any) -> Any:
        asked.append(text)
        return tokenizer(text, **options)

    ids_of = prompt.plain(counting)
    for last in range(0, len(turns), 2):
        said = turns[: last + 1]
        assert prompt.encode(tokenizer, said, 400, ids_of) == prompt.encode(tokenizer, said, 400)
    assert sorted(asked) == sorted(set(turns))


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


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60).filter(lambda lengths: len(lengths) % 2)


@given(lengths=LENGTHS, window=st.integers(1, 120))
def test_what_is_kept_fits_or_is_the_message_alone(lengths: list[int], window: int) -> None:
    first = prompt.first_kept(lengths, window)
    assert first % 2 == 0
    assert sum(lengths[first:]) <= window or first == len(lengths) - 1


@given(lengths=LENGTHS, window=st.integers(1, 120))
def test_the_beginning_only_moves_on_and_only_when_it_must(lengths: list[int], window: int) -> None:
    firsts = [prompt.first_kept(lengths[: last + 1], window) for last in range(0, len(lengths), 2)]
    for last, (before, after) in enumerate(pairwise(firsts)):
        assert before <= after
        if sum(lengths[before : 2 * last + 3]) <= window:
            assert after == before, "the one before still began a prompt that fits"
        else:
            room = max(0, window - lengths[2 * last + 2])
            assert sum(lengths[after : 2 * last + 2]) <= room // 2, "it made room for several turns"


@lru_cache
def _tokenizer(folder: Path, template: str) -> PreTrainedTokenizerBase:
    made: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    made.chat_template = template or None
    return made


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    turns=st.lists(st.text(max_size=60), min_size=1, max_size=12),
    window=st.integers(1, 90),
    kind=st.sampled_from(["", TEMPLATE]),
)
def test_any_turns_make_a_prompt_that_fits_and_ends_with_the_message(
    tiny_model: Path, turns: list[str], window: int, kind: str
) -> None:
    tokenizer = _tokenizer(tiny_model, kind)
    ids = prompt.encode(tokenizer, turns, window)
    assert 0 < len(ids) <= window
    alone = prompt.encode(tokenizer, turns[-1:], 10**6)
    shared = min(len(ids), len(alone) - 5 if tokenizer.chat_template else len(alone))
    if shared > 0:
        assert ids[-shared:] == alone[-shared:]
