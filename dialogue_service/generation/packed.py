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
    """Keys and values of one sequence in all layers, a tensor (layers, 2, 1, heads, capacity, dim)."""

    def __init__(self) -> None:
        self.length = 0
        """How many positions hold what they should; what lies behind is free."""
        self._held: Tensor | None = None
        self._open = (0, 0)
        self._new: tuple[Tensor, ...] = ()
        self._all: tuple[tuple[Tensor, ...], ...] = ()

    @property
    def bytes(self) -> int:
        """Memory held."""
        return 0 if self._held is None else self._held.nbytes

    def write(self, layer: int, layers: int, new: Tensor) -> tuple[Tensor, ...]:
        """Put keys and values (2, 1, heads, n, dim) after the first `length` ones.

        Returns views of all keys and of all values. `length` moves when the pass is through all layers.
        """
        if self._open != (self.length, new.shape[3]):
            self._view(layers, new)
        self._new[layer].copy_(new)
        return self._all[layer]

    def _view(self, layers: int, new: Tensor) -> None:
        """The views of all layers at once: one by one they would cost as much time as attention."""
        begin, n = self.length, new.shape[3]
        if self._held is None:
            self._held = _enlarged(new.new_empty((layers, *new.shape)), 0, n)
        elif begin + n > self._held.shape[4]:
            self._held = _enlarged(self._held, begin, begin + n)
        self._new = self._held.narrow(4, begin, n).unbind()
        self._all = tuple(both.unbind() for both in self._held.narrow(4, 0, begin + n).unbind())
        self._open = begin, n

    def copy(self, length: int) -> "KeyValues":
        """The first `length` positions, with memory of their own."""
        made = KeyValues()
        made.length = length
        made._held = None if self._held is None else _enlarged(self._held, length, length)
        return made

    def keep(self, length: int, chosen: Sequence[int]) -> None:
        """Keep the first `length` positions, and the `chosen` ones after them."""
        if chosen and self._held is not None:
            index = torch.tensor(chosen, dtype=torch.long, device=self._held.device)
            self._held[..., length : length + len(chosen), :] = self._held[..., index, :]
        self.length = length + len(chosen)


def _blocks(length: int) -> int:
    return math.ceil(length / _BLOCK) * _BLOCK


def _enlarged(held: Tensor, length: int, capacity: int) -> Tensor:
    shape = list(held.shape)
    shape[4] = _blocks(capacity)
    made = held.new_empty(shape)
    if length:
        made.narrow(4, 0, length).copy_(held.narrow(4, 0, length))
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
    _masks: dict[int, Tensor | None] = field(default_factory=dict, init=False)

    def mask_for(self, groups: int) -> Tensor | None:
        """The mask where `groups` query heads share a key head and their tokens lie end to end."""
        if groups not in self._masks:
            self._masks[groups] = None if self.mask is None else self.mask.repeat(groups, 1)
        return self._masks[groups]


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
    (_, heads, _, dim), key_heads = query.shape, key.shape[1]
    sizes, layers = [len(piece.ids) for piece in packed], module.config.num_hidden_layers
    new, made = torch.stack((key, value)), []
    for piece, n, asking, added in zip(
        packed, sizes, query.split_with_sizes(sizes, 2), new.split_with_sizes(sizes, 3), strict=True
    ):
        keys, values = piece.keys_values.write(module.layer_idx, layers, added)
        # Query heads that share a key head are laid end to end: nothing has to be copied for them.
        seen = scaled_dot_product_attention(
            asking if heads == key_heads else asking.reshape(1, key_heads, -1, dim),
            keys,
            values,
            attn_mask=piece.mask_for(heads // key_heads),
            scale=scaling,
        )
        made.append(seen if heads == key_heads else seen.reshape(1, heads, n, dim))
    return torch.cat(made, 2).transpose(1, 2), None


AttentionInterface.register(_NAME, _attention)


class PackedModel:
    """A transformers causal language model that computes pieces of many sequences in one pass."""

    def __init__(self, model: Any) -> None:
        """Take over `model`. Raises ModelUnavailable where its architecture cannot work like this."""
        self._model = model
        self.device: torch.device = model.device
        probe = torch.arange(8, device=self.device)[None] % model.config.vocab_size
        with torch.inference_mode():
            self.like = model.get_input_embeddings()(probe).new_empty(0)
            """Has the type and the place that masks must have."""
            expected = model(probe, use_cache=False).logits[0, -2:].float()
            try:
                if not model._supports_attention_backend:
                    raise NotImplementedError("an attention of its own")
                model.set_attn_implementation(_NAME)
                error = (self._probe(probe[0].tolist()) - expected).abs().max()
                if not error <= 0.05 * expected.abs().max():  # nor if it is no number
                    raise NotImplementedError("its logits come out differently")
            except (NotImplementedError, RuntimeError, TypeError, ValueError) as fault:
                reason = str(fault).splitlines()[0]
                raise ModelUnavailable(
                    f"{type(model).__name__} does not compute as Parley needs it ({reason})",
                    "Name a model of another architecture, such as GPT-2, Llama, Qwen2 or Mistral.",
                    lasting=True,
                ) from fault

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
            ids += piece.ids
            positions += piece.positions
            wanted += range(len(ids) - piece.wanted, len(ids))
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
