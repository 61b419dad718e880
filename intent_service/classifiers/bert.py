"""BERT's forward pass in as few operations as it takes.

transformers' own pass computes the same, but for one short message a quarter of its time is the Python
between the products, and its pooler, which nobody asks for. `Bert` uses the layers of the model as they are,
also after training has changed them. `EightBitBert` has weights of its own, and is one call of native code.
"""

from typing import Any

import torch
from torch import Tensor, layer_norm, nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from transformers import BertModel

from shared import native


class Bert:
    """A pass of a model that does not train."""

    @classmethod
    def of(cls, model: Any) -> "Bert | None":
        """None unless `model` is a BERT without variations."""
        plain = type(model) is BertModel and not model.config.is_decoder and model.config.hidden_act == "gelu"
        return cls(model) if plain else None

    def __init__(self, model: BertModel) -> None:
        body: Any = model
        self._embeddings, self._heads = body.embeddings, body.config.num_attention_heads
        self._layers = _layers(model)

    def __call__(
        self, *, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """The last hidden states (texts, tokens, width) of what is fed, each of shape (texts, tokens).

        What pads a text is zero: only attention sees it, all else is computed of the others, end to end.
        """
        texts, tokens = input_ids.shape
        table = self._embeddings
        kinds = table.token_type_embeddings.weight
        state = table.word_embeddings(input_ids) + (
            kinds[0] if token_type_ids is None else kinds[token_type_ids]
        )
        state = _normal(state + table.position_embeddings.weight[:tokens], table.LayerNorm)
        rows = _Rows(attention_mask)
        state = rows.joined(state)
        for own, joined, widened, narrowed in self._layers:
            asked, keys, values = (
                rows.apart(each(state)).view(texts, tokens, self._heads, -1).transpose(1, 2)
                for each in (own.query, own.key, own.value)
            )
            found = scaled_dot_product_attention(asked, keys, values, attn_mask=rows.seen).transpose(1, 2)
            found = rows.joined(found.flatten(2))
            state = _normal(state + joined.dense(found), joined.LayerNorm)
            wide = gelu(widened.dense(state))
            state = _normal(state + narrowed.dense(wide), narrowed.LayerNorm)
        return rows.apart(state)


class EightBitBert:
    """A pass with weights in 8 bits, and about 16 for what is multiplied with them."""

    @classmethod
    def of(cls, model: Any) -> "EightBitBert | None":
        """None unless there is native code for `model`, which is used up: its layers are taken out of it."""
        if Bert.of(model) is None:
            return None
        width, wide = model.config.hidden_size, model.config.intermediate_size
        even = width % (16 * model.config.num_attention_heads) == 0 and wide % 16 == 0
        return cls(model) if even and native.Weights.fit(width, width) else None

    def __init__(self, model: BertModel) -> None:
        body: Any = model
        self._kept: list[Any] = []
        table = body.embeddings
        tables = (table.word_embeddings, table.position_embeddings, table.token_type_embeddings)
        layers = [
            native.Layer(
                self._linear(own.query, own.key, own.value),
                self._linear(joined.dense),
                self._linear(widened.dense),
                self._linear(narrowed.dense),
                self._norm(joined.LayerNorm),
                self._norm(narrowed.LayerNorm),
            )
            for own, joined, widened, narrowed in _layers(model)
        ]
        self._kept += tables
        self._native = native.Bert(
            *(each.weight.data_ptr() for each in tables),
            *(len(each.weight) for each in tables),
            self._norm(table.LayerNorm),
            (native.Layer * len(layers))(*layers),
            len(layers),
            body.config.num_attention_heads,
            body.config.hidden_size,
        )
        body.encoder.layer = nn.ModuleList()

    def _linear(self, *layers: nn.Linear) -> native.Linear:
        """Of layers that are asked the same, as one."""
        weight, scales = native.rounded(torch.cat([layer.weight.detach().float() for layer in layers]))
        bias = torch.cat([layer.bias.detach() for layer in layers])
        weights = native.Weights(weight, scales[:, 0], bias)
        self._kept.append(weights)
        return weights.native

    def _norm(self, norm: nn.LayerNorm) -> native.Norm:
        self._kept.append(norm)
        return native.Norm(norm.weight.data_ptr(), norm.bias.data_ptr(), norm.eps)

    def __call__(
        self, *, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """As `Bert`'s."""
        rows = _Rows(attention_mask)
        kinds = None if token_type_ids is None else rows.joined(token_type_ids)
        lengths = attention_mask.sum(1).tolist()
        return rows.apart(native.bert(self._native, rows.joined(input_ids), kinds, lengths))


class _Rows:
    """The tokens of several texts, side by side as a batch and, without what pads it, end to end."""

    def __init__(self, attention_mask: Tensor) -> None:
        self._shape = attention_mask.shape
        several = len(attention_mask) > 1  # a single text has no padding
        self._kept = attention_mask.flatten().nonzero()[:, 0] if several else None
        self.seen = attention_mask[:, None, None, :].bool() if several else None
        """Which tokens attention may see; None: all."""

    def joined(self, batch: Tensor) -> Tensor:
        """(texts, tokens, width) to (kept tokens, width)."""
        together = batch.flatten(0, 1)
        return together if self._kept is None else together[self._kept]

    def apart(self, together: Tensor) -> Tensor:
        """The other way round; zero where there was padding."""
        if self._kept is None:
            return together.view(*self._shape, -1)
        batch = together.new_zeros(self._shape.numel(), together.shape[1])
        batch[self._kept] = together
        return batch.view(*self._shape, -1)


def _layers(model: Any) -> list[tuple[Any, Any, Any, Any]]:
    return [
        (layer.attention.self, layer.attention.output, layer.intermediate, layer.output)
        for layer in model.encoder.layer
    ]


def _normal(state: Tensor, norm: Any) -> Tensor:
    return layer_norm(state, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
