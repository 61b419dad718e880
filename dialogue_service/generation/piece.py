"""Tokens to feed to one sequence, and what the model computed for those before them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

_BLOCK = 128
"""Keys and values grow by this many positions, so that growing (a copy) is rare."""


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

    def room(self, layers: int, heads: int, n: int, dim: int, like: Tensor) -> Tensor:
        """Memory for `n` positions more, all of it: (layers, 2, 1, heads, capacity, dim)."""
        if self._held is None:
            self._held = _enlarged(like.new_empty((layers, 2, 1, heads, 0, dim)), 0, n)
        elif self.length + n > self._held.shape[4]:
            self._held = _enlarged(self._held, self.length, self.length + n)
        return self._held

    def _view(self, layers: int, new: Tensor) -> None:
        """The views of all layers at once: one by one they would cost as much time as attention."""
        (_, _, heads, n, dim), begin = new.shape, self.length
        held = self.room(layers, heads, n, dim, new)
        self._new = held.narrow(4, begin, n).unbind()
        views = held.narrow(4, 0, begin + n).flatten(0, 1).unbind()
        self._all = tuple(zip(views[::2], views[1::2], strict=True))
        self._open = begin, n

    def copy(self, length: int) -> "KeyValues":
        """The first `length` positions, with memory of their own."""
        made = KeyValues()
        made.length = length
        made._held = None if self._held is None else _enlarged(self._held, length, length)
        return made

    def keep(self, length: int, chosen: Sequence[int]) -> None:
        """Keep the first `length` positions, and the `chosen` ones after them."""
        if self._held is not None and list(chosen) != list(range(length, length + len(chosen))):
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
    terms: Tensor | None = field(default=None, init=False)
    """Set by the model where there is a preference: its terms of the wanted tokens."""
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
