"""GPT-2's forward pass in as few operations as it takes.

transformers' own pass computes the same, but for one token at a time the Python between its products takes
longer than many of them. `PackedModel` compares both before it uses this one. Whatever architecture is not
plainly GPT-2 computes by its own code.

Two classes, one interface: `NativeGpt2` is for models in int8 where there is native code, `Gpt2` for all.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, layer_norm
from torch.nn.functional import scaled_dot_product_attention
from transformers import GPT2LMHeadModel

from dialogue_service.generation.int8 import Int8Embedding, Int8Linear
from dialogue_service.generation.piece import Piece
from shared import native


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
        self._last, self._heads, self._dim = _normal(body.ln_f), config.n_head, config.n_embd // config.n_head
        self._blocks = [
            (_normal(block.ln_1), block.attn.c_attn, block.attn.c_proj, _normal(block.ln_2), block.mlp.c_fc,
             block.mlp.act, block.mlp.c_proj, block.attn.scaling)
            for block in body.h
        ]  # fmt: skip

    def __call__(self, ids: Tensor, positions: Tensor, wanted: Tensor, pieces: Sequence[Piece]) -> Tensor:
        """The logits (wanted, vocabulary); ids and positions are (tokens,), `wanted` are indices of them."""
        state = self._embed(ids) + self._place(positions)
        for layer, (before, ask, answer, between, widen, bend, narrow, scale) in enumerate(self._blocks):
            state = state + answer(self._attend(ask(layer_norm(state, *before)), pieces, layer, scale))
            state = state + narrow(bend(widen(layer_norm(state, *between))))
        logits: Tensor = self._head(layer_norm(state[wanted], *self._last))
        return logits

    def _attend(self, asked: Tensor, pieces: Sequence[Piece], layer: int, scale: float) -> Tensor:
        """Attention within each piece; `asked` holds queries, keys and values (tokens, 3 * width)."""
        tokens, width, dim = len(asked), self._heads * self._dim, self._dim
        # Strides instead of several views: (queries, keys and values; one sequence; heads; tokens; dim).
        parts = asked.as_strided((3, 1, self._heads, tokens, dim), (width, 0, dim, 3 * width, 1))
        sizes = [len(piece.ids) for piece in pieces]
        seen = []
        for piece, query, new in zip(
            pieces, parts[0].split_with_sizes(sizes, 2), parts[1:].split_with_sizes(sizes, 3), strict=True
        ):
            keys, values = piece.keys_values.write(layer, len(self._blocks), new)
            seen.append(scaled_dot_product_attention(query, keys, values, attn_mask=piece.mask, scale=scale))
        together = torch.cat(seen, 2) if len(seen) > 1 else seen[0]
        return together.transpose(1, 2).reshape(tokens, width)


class NativeGpt2:
    """The same as one call of native code, but for the output layer."""

    @classmethod
    def of(cls, model: Any) -> "NativeGpt2 | None":
        """None unless `model` is a GPT-2 without variations of which all layers are native."""
        if Gpt2.of(model) is None or model.config.n_embd != model.config.n_head * native.HEAD_DIM:
            return None
        body = model.transformer
        layers = [layer for block in body.h for layer in _layers(block)]
        if not all(
            isinstance(layer, Int8Linear) and isinstance(layer.weights, native.Weights) for layer in layers
        ):
            return None
        if not all(getattr(block.mlp.act, "approximate", None) == "tanh" for block in body.h):
            return None
        return cls(model) if isinstance(body.wte, Int8Embedding) else None

    def __init__(self, model: GPT2LMHeadModel) -> None:
        body: Any = model.transformer
        self._kept_like = torch.empty(0, dtype=native.KEPT)
        self._body, self._head = body, model.lm_head  # the body owns the memory that is pointed at
        self._layers, self._heads = len(body.h), model.config.n_head
        blocks = (
            native.Block(
                _native_norm(block.ln_1),
                _native_norm(block.ln_2),
                *(layer.weights.native for layer in _layers(block)),
                block.attn.scaling,
            )
            for block in body.h
        )
        self._native = native.Gpt2(
            body.wte.weight.data_ptr(),
            body.wte.scales.data_ptr(),
            body.wpe.weight.data_ptr(),
            len(body.wte.weight),
            len(body.wpe.weight),
            (native.Block * self._layers)(*blocks),
            self._layers,
            self._heads,
            _native_norm(body.ln_f),
        )

    def __call__(self, ids: Tensor, positions: Tensor, wanted: Tensor, pieces: Sequence[Piece]) -> Tensor:
        """See Gpt2."""
        states = native.gpt2(
            self._native,
            (native.Piece * len(pieces))(*(self._native_piece(piece) for piece in pieces)),
            max(piece.keys_values.length + len(piece.ids) for piece in pieces),
            ids,
            positions,
            wanted,
        )
        logits: Tensor = self._head(states)
        return logits

    def _native_piece(self, piece: Piece) -> native.Piece:
        kept, rows, mask = piece.keys_values, len(piece.ids), piece.mask
        held = kept.room(self._layers, self._heads, rows, native.KEPT_DIM, self._kept_like)
        address, stride = (None, 0) if mask is None else (mask.data_ptr(), mask.stride(0))
        return native.Piece(held.data_ptr(), address, stride, held.shape[4], kept.length, rows)


def _layers(block: Any) -> tuple[Any, ...]:
    """In the order of their use."""
    return block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj


def _native_norm(norm: Any) -> native.Norm:
    return native.Norm(norm.weight.data_ptr(), norm.bias.data_ptr(), norm.eps)


def _normal(norm: Any) -> tuple[Any, ...]:
    """All that `layer_norm` takes but what is to be normalised; looking it up each time takes as long."""
    return norm.normalized_shape, norm.weight, norm.bias, norm.eps
