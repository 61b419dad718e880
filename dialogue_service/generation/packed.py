"""One forward pass of a transformers model over pieces of many sequences at once.

The pieces lie end to end in a single row of tokens, so that the linear layers, which are nearly all of the
work, read their weights once for all of them and nothing is padded. Only attention must know where a piece
begins: this module registers an attention function with transformers that gives each piece its own keys and
values. The rest is the model's ordinary code, or for GPT-2, the default, a leaner equal of it (`gpt2`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from dialogue_service.generation.gpt2 import Gpt2, NativeGpt2
from dialogue_service.generation.piece import KeyValues, Piece, causal
from dialogue_service.generation.preference import LastStates, Preference
from shared.hub import ModelUnavailable

_NAME = "parley_packed"
_BEYOND_US = ("softcap", "s_aux", "position_bias")


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

    def __init__(self, model: Any, preference: Preference | None = None) -> None:
        """Take over `model`. Raises ModelUnavailable where its architecture cannot work like this."""
        self._model = model
        self._preference = preference
        self._states = LastStates(model) if preference else None
        self._pass: Pass = self._own_pass
        self.device: torch.device = model.device
        probe = torch.arange(8, device=self.device)[None] % model.config.vocab_size
        with torch.inference_mode():
            self.like = model.get_input_embeddings()(probe).new_empty(0)
            """Has the type and the place that masks must have."""
            expected = model(probe, use_cache=False).logits[0, -2:].float()
            for lean in (NativeGpt2.of(model), Gpt2.of(model)):
                if lean and self._computes(lean, probe[0].tolist(), expected):
                    return
            try:
                if not model._supports_attention_backend:
                    raise NotImplementedError("an attention of its own")
                model.set_attn_implementation(_NAME)
                if not self._computes(self._own_pass, probe[0].tolist(), expected):
                    raise NotImplementedError("its logits come out differently")
            except (NotImplementedError, RuntimeError, TypeError, ValueError) as fault:
                reason = str(fault).splitlines()[0]
                raise ModelUnavailable(
                    f"{type(model).__name__} does not compute as Parley needs it ({reason})",
                    "Name a model of another architecture, such as GPT-2, Llama, Qwen2 or Mistral.",
                    lasting=True,
                ) from fault

    def _computes(self, way: "Pass", ids: list[int], expected: Tensor) -> bool:
        """Whether the logits come out as they should, and from now on in this way."""
        self._pass = way
        error = (self._probe(ids) - expected).abs().max()
        return bool(error <= 0.05 * expected.abs().max())  # not if it is no number

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
        logits = self._pass(row[0], row[1], row[2, : len(wanted)], pieces)
        sizes = [piece.wanted for piece in pieces]
        for piece in pieces:
            piece.keys_values.length += len(piece.ids)
        if self._preference and self._states and self._states.seen is not None:
            terms = self._preference.terms(self._states.seen)
            for piece, own in zip(pieces, terms.split_with_sizes(sizes), strict=True):
                piece.terms = own
        return list(logits.float().split_with_sizes(sizes))

    def _own_pass(self, ids: Tensor, positions: Tensor, wanted: Tensor, pieces: Sequence[Piece]) -> Tensor:
        """transformers' own code of this architecture."""
        logits: Tensor = self._model(
            input_ids=ids[None],
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=wanted,
            packed=pieces,
        ).logits[0]
        return logits


Pass = Callable[[Tensor, Tensor, Tensor, Sequence[Piece]], Tensor]
"""(ids, positions, indices of those whose logits are wanted, pieces) to logits (wanted, vocabulary)."""
