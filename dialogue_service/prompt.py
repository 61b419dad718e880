"""From turns to the token ids a model reads. Knows formats, not models.

With a chat template in the tokenizer that is used; otherwise DialoGPT's format (Zhang et al. 2020): every
turn's tokens and the EOS id, nothing between them. Either way a special token that somebody typed is
plain text.

When a conversation outgrows the window, its oldest exchanges are left out until the rest fills half of it.
Most prompts therefore begin exactly like the one before, and what was computed for that serves again. Where
the cut lies follows from `turns` alone: who passes a list that keeps its beginning for many turns gets
prompts that do so too.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

_ROLES = ("user", "assistant")
_SEAM = 2  # tokens by which a turn inside a template may be longer than alone
_TURNS = 512

Ids = Callable[[str], Sequence[int]]
"""From a text to its token ids, with none added."""


def plain(tokenizer: Any) -> Ids:
    """A tokenizer of single turns that remembers them: nearly all of a prompt was in the one before."""

    @lru_cache(_TURNS)
    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    return ids


def encode(tokenizer: Any, turns: Sequence[str], window: int, ids_of: Ids | None = None) -> list[int]:
    """Token ids of the newest turns, `window` at most; older exchanges are left out whole.

    `turns` alternate between person and model and end with the person's message. A message longer than
    the window keeps its end. `tokenizer` is a transformers tokenizer with an EOS token, `ids_of` what
    `plain` made of it before.
    """
    turns = turns[(len(turns) - 1) % 2 :]
    alone = list(map(ids_of or plain(tokenizer), turns))
    if tokenizer.chat_template is not None:
        return _encode_chat(tokenizer, turns, window, [len(ids) for ids in alone])
    parts = [[*ids, tokenizer.eos_token_id] for ids in alone]
    kept = parts[first_kept([len(part) for part in parts], window) :]
    return [id_ for part in kept for id_ in part][-window:]


def blank(tokenizer: Any) -> list[int]:
    """What stands before a reply to nothing: the prompt of a conversation that has not begun."""
    if tokenizer.chat_template is not None:
        return _render(tokenizer, [""])
    return [tokenizer.eos_token_id]


def first_kept(lengths: Sequence[int], window: int) -> int:
    """Which turn the prompt begins with, given how many tokens (or whatever `window` counts) each turn has.

    Goes through the conversation as it went: whenever a message found no room any more, the oldest exchanges
    were left out until the others took half of the room that it left.
    """
    first = total = 0
    for turn in range(0, len(lengths), 2):
        total += lengths[turn]
        if total > window:
            room = max(0, window - lengths[turn])
            while first < turn and total - lengths[turn] > room // 2:
                total -= lengths[first] + lengths[first + 1]
                first += 2
        total += sum(lengths[turn + 1 : turn + 2])
    return first


def _encode_chat(tokenizer: Any, turns: Sequence[str], window: int, sizes: Sequence[int]) -> list[int]:
    # A template's own tokens are counted once, on short conversations; rendering all prefixes would take
    # long.
    one, three = (len(_render(tokenizer, ["a"] * n)) for n in (1, 3))
    lengths = [size + (three - one) // 2 + _SEAM for size in sizes]
    for first in range(first_kept(lengths, window - one), len(turns), 2):
        ids = _render(tokenizer, turns[first:])
        if len(ids) <= window:
            return ids
    return ids[-window:]


def _render(tokenizer: Any, turns: Sequence[str]) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(
        [{"role": _ROLES[i % 2], "content": text} for i, text in enumerate(turns)],
        add_generation_prompt=True,
        return_dict=False,
        sanitize_control_tokens=True,
    )
    return ids
