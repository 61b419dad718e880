"""What was computed for earlier prompts, to be gone on from by later ones that begin alike.

Found by token ids alone, so that it is right by construction: there is no conversation to look up, and
nothing to invalidate when one is forgotten. The memory is bounded; what was used longest ago goes first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dialogue_service.generation.piece import KeyValues

_RUN = 16
"""So many tokens in the same order are the same text, not chance. Were they, only time would be lost."""


@dataclass(frozen=True)
class _Kept:
    ids: Sequence[int]
    prompt_length: int  # the reply lies behind it
    keys_values: KeyValues

    def continued_by(self, common: int) -> bool:
        """Whether a prompt with the first `common` ids of this makes this one superfluous.

        What follows differs at most in the reply, whose ids may change when its text is encoded again, or in
        the prompt's last token, which is always read anew.
        """
        return common >= self.prompt_length - 1

    def left_behind_by(self, ids: Sequence[int]) -> bool:
        """Whether `ids` begin in the midst of this: the window of its conversation has moved."""
        first, held, begin = list(ids[:_RUN]), list(self.ids), 0
        while len(first) == _RUN and first[0] in held[begin + 1 :]:
            begin = held.index(first[0], begin + 1)
            if held[begin : begin + _RUN] == first:
                return True
        return False


class Prefixes:
    """Least recently used first. For one thread."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._kept: list[_Kept] = []  # a few dozen at most: a search through all costs microseconds
        self.bytes = 0
        """Memory held."""

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, ids: Sequence[int]) -> KeyValues:
        """Keys and values for the longest known beginning of `ids`, the last id left out; the taker owns
        them.

        Every prompt's last token must be fed, because its logits are needed.
        """
        found = max(self._kept, key=lambda kept: common_length(kept.ids, ids), default=None)
        common = min(common_length(found.ids, ids), len(ids) - 1) if found else 0
        if found is None or common == 0:
            return KeyValues()
        self._remove(found)
        if found.continued_by(common):
            found.keys_values.length = common
            return found.keys_values
        self._add(found)
        return found.keys_values.copy(common)

    def put(self, ids: Sequence[int], prompt_length: int, keys_values: KeyValues) -> None:
        """Keep what was computed for `ids`, of which the first `prompt_length` were the prompt."""
        for kept in list(self._kept):
            if kept.continued_by(common_length(kept.ids, ids)) or kept.left_behind_by(ids):
                self._remove(kept)
        if 0 < keys_values.bytes <= self._capacity:
            self._add(_Kept(ids, prompt_length, keys_values))
        while self.bytes > self._capacity:
            self._remove(self._kept[0])

    def _add(self, kept: _Kept) -> None:
        self._kept.append(kept)
        self.bytes += kept.keys_values.bytes

    def _remove(self, kept: _Kept) -> None:
        self._kept.remove(kept)
        self.bytes -= kept.keys_values.bytes


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many first elements two sequences share."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
