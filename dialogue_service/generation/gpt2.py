"""GPT-2's forward pass in as few operations as it takes.

transformers' own pass computes the same, but for one token at a time the Python between its products takes
longer than many of them. `PackedModel` compares both before it uses this one. Whatever architecture is not
plainly GPT-2 computes by its own code.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, scaled_dot_product_attention
from transformers import GPT2LMHeadModel

from dialogue_service.generation.piece import Piece


class Gpt2:
    """A pass over pieces that lie end to end. Uses the modules of a model, of whatever precision they are."""

    @classmethod
    def of(cls, model: Any) -> "Gpt2 | None":
        """None unless `model` is a GPT-2 without variations."""
        plain = type(model) is GPT2LMHeadModel and not model.config.add_cross_attention
        return cls(model) if plain else None

    def __init__(self, model: GPT2LMHeadModel) -> None:
        body: Any = model.transformer
        config = model.config
        self._embed, self._place, self._head = body.wte, body.wpe, model.lm_head
        self._last, self._heads, self._dim = body.ln_f, config.n_head, config.n_embd // config.n_head
        self._blocks = [
            (block.ln_1, block.attn.c_attn, block.attn.c_proj, block.ln_2, block.mlp.c_fc, block.mlp.act,
             block.mlp.c_proj, block.attn.scaling)
            for block in body.h
        ]  # fmt: skip

    def __call__(self, ids: Tensor, positions: Tensor, wanted: Tensor, pieces: Sequence[Piece]) -> Tensor:
        """The logits (wanted, vocabulary); ids and positions are (tokens,), `wanted` are indices of them."""
        state = self._embed(ids) + self._place(positions)
        for layer, (before, ask, answer, between, widen, bend, narrow, scale) in enumerate(self._blocks):
            state = state + answer(self._attend(ask(_normal(before, state)), pieces, layer, scale))
            state = state + narrow(bend(widen(_normal(between, state))))
        logits: Tensor = self._head(_normal(self._last, state[wanted]))
        return logits

    def _attend(self, asked: Tensor, pieces: Sequence[Piece], layer: int, scale: float) -> Tensor:
        """Attention within each piece; `asked` holds queries, keys and values (tokens, 3 * width)."""
        layers, tokens, width, dim = len(self._blocks), len(asked), self._heads * self._dim, self._dim
        # Strides instead of several views: (queries, keys and values; one sequence; heads; tokens; dim).
        parts = asked.as_strided((3, 1, self._heads, tokens, dim), (width, 0, dim, 3 * width, 1))
        sizes = [len(piece.ids) for piece in pieces]
        made = []
        for piece, n, query, new in zip(
            pieces,
            sizes,
            parts[0].split_with_sizes(sizes, 2),
            parts[1:].split_with_sizes(sizes, 3),
            strict=True,
        ):
            keys, values = piece.keys_values.write(layer, layers, new)
            seen = scaled_dot_product_attention(query, keys, values, attn_mask=piece.mask, scale=scale)
            made.append(seen.view(1, width) if n == 1 else seen.transpose(1, 2).reshape(n, width))
        return made[0] if len(made) == 1 else torch.cat(made)


def _normal(norm: Any, x: Tensor) -> Tensor:
    return layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
