"""A prompt and the candidate replies that branch from it, as positions in one cache.

The candidates share the prompt's keys and values: at each step every living candidate is one query of the
same sequence, and a mask lets it see the prompt and its own tokens only. So memory and reading cost of the
prompt are paid once, however many candidates there are. (SpecInfer, Miao et al. 2024, calls this tree
attention.)
"""

import math
from collections.abc import Sequence

from torch import Tensor

from dialogue_service.generation.piece import KeyValues, Piece, causal


class Tree:
    """One prompt in the making, then its branches. Knows token ids and positions, nothing of sampling."""

    def __init__(self, prompt: Sequence[int], keys_values: KeyValues, like: Tensor) -> None:
        """`keys_values` may hold the beginning of the prompt already. `like` gives masks their type and
        place."""
        self.prompt = list(prompt)
        self.keys_values = keys_values
        self._like = like
        self._owners: list[int] = []  # the branch of each position behind the prompt
        self._mask = like

    @property
    def read(self) -> bool:
        """Whether the model has read the whole prompt."""
        return self.keys_values.length >= len(self.prompt)

    def chunk(self, tokens: int) -> Piece:
        """Up to `tokens` more tokens of the prompt."""
        begin = self.keys_values.length
        ids = self.prompt[begin : begin + tokens]
        return Piece(
            self.keys_values,
            ids,
            range(begin, begin + len(ids)),
            causal(begin, len(ids), self._like),
            wanted=1,
        )

    def step(self, branches: Sequence[int], ids: Sequence[int], depth: int) -> Piece:
        """One token for each of the `branches`, the `depth`-th of its reply (from 0)."""
        end = self.keys_values.length + len(ids)
        rows, columns = list(branches), list(range(self.keys_values.length, end))
        self._owners[self.keys_values.length - len(self.prompt) :] = branches
        position = len(self.prompt) + depth
        if not any(self._owners):  # a single branch sees everything
            return Piece(self.keys_values, ids, [position], None, wanted=1)
        self._grow(max(branches) + 1, end)
        self._mask[rows, columns] = 0
        mask = self._mask[: len(rows)] if rows == list(range(len(rows))) else self._mask[rows]
        return Piece(self.keys_values, ids, [position] * len(ids), mask[:, :end], wanted=len(ids))

    def _grow(self, branches: int, end: int) -> None:
        if self._mask.shape[0] >= branches and self._mask.shape[1] >= end:
            return
        old = self._mask
        self._mask = self._like.new_full((branches, end + 64 * branches), -math.inf)
        self._mask[:, : len(self.prompt)] = 0
        if old.numel():
            self._mask[: old.shape[0], : old.shape[1]] = old

    def cut(self) -> None:
        """Forget the branches."""
        self.keys_values.length = min(self.keys_values.length, len(self.prompt))
        self._owners, self._mask = [], self._like

    def keep(self, branch: int) -> KeyValues:
        """The prompt and one branch, in one line."""
        first = len(self.prompt)
        self.keys_values.keep(first, [first + i for i, owner in enumerate(self._owners) if owner == branch])
        return self.keys_values
