"""From turns to the token ids a model reads. Knows formats, not models.

With a chat template in the tokenizer that is used; otherwise DialoGPT's format (Zhang et al. 2020): every
turn's tokens and the EOS id, nothing between them. Either way a special token that somebody typed is
plain text.
"""

from collections.abc import Sequence
from typing import Any

_ROLES = ("user", "assistant")


def encode(tokenizer: Any, turns: Sequence[str], window: int) -> list[int]:
    """Token ids of the newest turns that fit into `window` tokens; older exchanges are left out whole.

    `turns` alternate between person and model and end with the person's message. A message longer than
    the window keeps its end. `tokenizer` is a transformers tokenizer with an EOS token.
    """
    if tokenizer.chat_template is not None:
        return _encode_chat(tokenizer, turns, window)
    parts = [[*_plain(tokenizer, turn), tokenizer.eos_token_id] for turn in turns]
    ids = parts[-1][-window:]
    for message, reply in zip(parts[-3::-2], parts[-2::-2], strict=False):
        if len(message) + len(reply) + len(ids) > window:
            break
        ids = [*message, *reply, *ids]
    return ids


def _plain(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def _encode_chat(tokenizer: Any, turns: Sequence[str], window: int) -> list[int]:
    for oldest in range((len(turns) - 1) % 2, len(turns), 2):
        kept = turns[oldest:]
        ids: list[int] = tokenizer.apply_chat_template(
            [{"role": _ROLES[i % 2], "content": text} for i, text in enumerate(kept)],
            add_generation_prompt=True,
            return_dict=False,
            sanitize_control_tokens=True,
        )
        if len(ids) <= window:
            return ids
    return ids[-window:]
