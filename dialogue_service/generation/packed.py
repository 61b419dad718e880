"""One forward pass of a transformers model over pieces of many sequences at once.

The pieces lie end to end in a single row of tokens, so that the linear layers, which are nearly all of the
work, read their weights once for all of them and nothing is padded. Only attention must know where a piece
begins: this module registers an attention function with transformers that gives each piece its own keys and
values. The rest is the model's ordinary code.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from shared.hub import ModelUnavailable

_NAME = "parley_packed"
_BLOCK = 128
"""Keys and values grow by this many positions, so that growing (a copy) is rare."""
_BEYOND_US = ("softcap", "s_aux", "position_bias")


class KeyValues:
    """Keys and values of one sequence in all layers, each of shape (2, heads, capacity, dim)."""

    def __init__(self) -> None:
        self.length = 0
        """How many positions hold what they should; what lies behind is free."""
        self._layers: dict[int, Tensor] = {}

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(layer.nbytes for layer in self._layers.values())

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put keys and values (heads, n, dim) after the first `length` ones; returns views of all of them.

        `length` itself moves when the pass has gone through all layers.
        """
        end = self.length + keys.shape[1]
        held = self._layers.get(layer)
        if held is None:
            held = self._layers[layer] = keys.new_empty(2, keys.shape[0], _blocks(end), keys.shape[2])
        elif end > held.shape[2]:
            held = self._layers[layer] = _enlarged(held, self.length, end)
        held[0, :, self.length : end] = keys
        held[1, :, self.length : end] = values
        return held[0, :, :end], held[1, :, :end]

    def copy(self, length: int) -> "KeyValues":
        """The first `length` positions, with memory of their own."""
        made = KeyValues()
        made.length = length
        made._layers = {i: _enlarged(held, length, length) for i, held in self._layers.items()}
        return made

    def keep(self, length: int, chosen: Sequence[int]) -> None:
        """Keep the first `length` positions, and the `chosen` ones after them."""
        index = torch.tensor(chosen, dtype=torch.long)
        for held in self._layers.values() if chosen else ():
            held[:, :, length : length + len(chosen)] = held[:, :, index.to(held.device)]
        self.length = length + len(chosen)


def _blocks(length: int) -> int:
    return math.ceil(length / _BLOCK) * _BLOCK


def _enlarged(held: Tensor, length: int, capacity: int) -> Tensor:
    made = held.new_empty(2, held.shape[1], _blocks(capacity), held.shape[3])
    made[:, :, :length] = held[:, :, :length]
    return made


@dataclass
class Piece:
    """Tokens to feed to one sequence."""

    keys_values: KeyValues
    ids: Sequence[int]
    positions: Sequence[int]
    mask: Tensor | None
    """(tokens, length + tokens), added to the attention scores; None: every token sees everything."""
    wanted: int
    """The logits of how many of its last tokens are wanted."""
    begin: int = field(default=0, init=False)
    _masks: dict[int, Tensor] = field(default_factory=dict, init=False)

    @property
    def end(self) -> int:
        """Where in the packed row it ends."""
        return self.begin + len(self.ids)

    def mask_for(self, groups: int) -> Tensor | None:
        """The mask where `groups` query heads share a key head and their tokens lie end to end."""
        if self.mask is None or groups == 1:
            return self.mask
        return self._masks.setdefault(groups, self.mask.repeat(groups, 1))


def causal(begin: int, tokens: int, like: Tensor) -> Tensor | None:
    """The mask of `tokens` that come after `begin` others in one line."""
    if tokens == 1:
        return None
    mask = like.new_full((tokens, begin + tokens), -math.inf)
    return mask.triu_(begin + 1)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: Sequence[Piece],
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention within each piece; see transformers' AttentionInterface.

    query: (1, heads, tokens, dim), key and value: (1, key heads, tokens, dim); returns (1, tokens, heads,
    dim).
    """
    if any(options.get(name) is not None for name in _BEYOND_US):
        raise NotImplementedError(f"attention with one of {', '.join(_BEYOND_US)}")
    _, heads, _, dim = query.shape
    key_heads = key.shape[1]
    groups = heads // key_heads
    made = []
    for piece in packed:
        here = slice(piece.begin, piece.end)
        keys, values = piece.keys_values.write(module.layer_idx, key[0, :, here], value[0, :, here])
        # Query heads that share a key head are laid end to end: nothing has to be copied for them.
        asked = query[:, :, here].reshape(1, key_heads, -1, dim)
        seen = scaled_dot_product_attention(
            asked, keys[None], values[None], attn_mask=piece.mask_for(groups), scale=scaling
        )
        made.append(seen.view(1, heads, len(piece.ids), -1))
    attended = made[0] if len(made) == 1 else torch.cat(made, 2)
    return attended.transpose(1, 2), None


AttentionInterface.register(_NAME, _attention)


class PackedModel:
    """A transformers causal language model that computes pieces of many sequences in one pass."""

    def __init__(self, model: Any) -> None:
        """Take over `model`. Raises ModelUnavailable where its architecture cannot work like this."""
        self._model = model
        self.device: torch.device = model.device
        probe = torch.arange(8, device=self.device)[None] % model.config.vocab_size
        with torch.inference_mode():
            logits = model(probe, use_cache=False).logits
            expected = logits[0, -2:].float()
            self.like = logits.new_empty(0)
            """Has the type and the place that masks must have."""
            try:
                if not model._supports_attention_backend:
                    raise NotImplementedError("an attention of its own")
                model.set_attn_implementation(_NAME)
                got = self._probe(probe[0].tolist())
                torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05 * expected.abs().max().item())
            except (NotImplementedError, TypeError, ValueError, AssertionError) as error:
                reason = str(error).splitlines()[0]
                raise ModelUnavailable(
                    f"{type(model).__name__} does not compute as Parley needs it ({reason})",
                    "Name a model of another architecture, such as GPT-2, Llama, Qwen2 or Mistral.",
                    lasting=True,
                ) from error

    def _probe(self, ids: list[int]) -> Tensor:
        """The last two logits, computed as they will be: a prefix, and two tokens that do not see each
        other's candidates, of which the second goes on."""
        kept = KeyValues()
        self([Piece(kept, ids[:5], range(5), causal(0, 5, self.like), 1)])
        rest = Piece(kept, ids[5:], range(5, 8), causal(5, 3, self.like), 2)
        return self([Piece(KeyValues(), ids[:2], range(2), causal(0, 2, self.like), 1), rest])[1]

    def __call__(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """Feed all pieces; returns for each the wanted logits (wanted, vocabulary) in float32."""
        ids: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        for piece in pieces:
            piece.begin = len(ids)
            ids += piece.ids
            positions += piece.positions
            wanted += range(piece.end - piece.wanted, piece.end)
        row = torch.tensor([ids, positions, wanted + [0] * (len(ids) - len(wanted))], device=self.device)
        logits = self._model(
            input_ids=row[:1],
            position_ids=row[1:2],
            use_cache=False,
            logits_to_keep=row[2, : len(wanted)],
            packed=pieces,
        ).logits[0]
        for piece in pieces:
            piece.keys_values.length += len(piece.ids)
        return list(logits.float().split([piece.wanted for piece in pieces]))
