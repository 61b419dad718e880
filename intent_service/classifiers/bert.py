"""BERT's forward pass in as few operations as it takes.

transformers' own pass computes the same, but for one short message a quarter of its time is the Python
between the products, and its pooler, which nobody asks for. It uses the layers of the model as they are,
also after training has changed them or others have taken their places.
"""

from typing import Any

from torch import Tensor, layer_norm
from torch.nn.functional import gelu, scaled_dot_product_attention
from transformers import BertModel


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
        self._layers = [
            (layer.attention.self, layer.attention.output, layer.intermediate, layer.output)
            for layer in body.encoder.layer
        ]

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


def _normal(state: Tensor, norm: Any) -> Tensor:
    return layer_norm(state, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
