"""From logits to tokens: penalties, temperature, top-k, top-p, and one uniform number for each draw."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shared import native

_NO_REPEAT_NGRAM = 4
_LEAST_TOKENS = 2
_BLOCK = 64
_LEAST_TEMPERATURE = 1e-3  # in effect greedy, which 0 means


@dataclass(frozen=True)
class Sampling:
    """How a model's replies are drawn. The defaults serve where its generation_config.json says nothing."""

    end_ids: frozenset[int]
    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 50
    """0: all tokens."""
    repetition_penalty: float = 1.2
    """Keskar et al. (2019); on the reply's own tokens, not on the prompt's."""

    @classmethod
    def of(cls, generation_config: Any, end_ids: frozenset[int]) -> "Sampling":
        """What a model's generation_config asks for."""
        names = ("temperature", "top_p", "top_k", "repetition_penalty")
        given = {name: getattr(generation_config, name, None) for name in names}
        return cls(end_ids, **{name: value for name, value in given.items() if value is not None})

    def draw(
        self, logits: Tensor, replies: Sequence[Sequence[int]], uniform: Tensor
    ) -> tuple[list[int], list[float]]:
        """The next token of each reply and its log probability in the model's own distribution.

        logits: (rows, vocabulary), each with memory of its own; `replies` are the tokens of each so far;
        uniform: (rows,) in [0, 1). A row's result depends on that row alone.
        """
        forbidden = [set(self._forbidden(reply)) for reply in replies]
        said = [set(reply) - none for reply, none in zip(replies, forbidden, strict=True)]
        if native.takes(logits, self.top_k):
            rules = native.Rules(self._divisor, self.top_p, self.repetition_penalty, self.top_k)
            return native.draw(logits, rules, said, forbidden, uniform)
        with self._ruled(logits, said, forbidden):
            scores, ids = highest(logits, self.top_k or logits.shape[1])
        probabilities = (scores / self._divisor).softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        mass = (probabilities * (before < self.top_p)).cumsum(-1)
        drawn = (mass < uniform[:, None] * mass[:, -1:]).sum(-1, keepdim=True)
        tokens = ids.gather(1, drawn)
        logprobs = logits.gather(1, tokens) - logits.logsumexp(-1, keepdim=True)
        return tokens[:, 0].tolist(), logprobs[:, 0].tolist()

    @property
    def _divisor(self) -> float:
        return max(self.temperature, _LEAST_TEMPERATURE)

    @contextmanager
    def _ruled(
        self, logits: Tensor, said: Sequence[set[int]], forbidden: Sequence[set[int]]
    ) -> Iterator[None]:
        """Within, repetition is penalised and what may not come is at minus infinity. In place, for a copy of
        all logits would take longer than all else here."""
        penalised, banned = (
            [(row, token) for row, tokens in enumerate(of) for token in tokens] for of in (said, forbidden)
        )
        if not (penalised or banned):
            yield
            return
        rows, columns = torch.tensor([*penalised, *banned], device=logits.device).unbind(1)
        before = logits[rows, columns]
        penalty = float(self.repetition_penalty)
        after = torch.where(before < 0, before * penalty, before / penalty)
        after[len(penalised) :] = -torch.inf
        logits[rows, columns] = after
        try:
            yield
        finally:
            logits[rows, columns] = before

    def _forbidden(self, reply: Sequence[int]) -> list[int]:
        """An end too early, and tokens that would make a run of four come twice in the reply."""
        ends = list(self.end_ids) if len(reply) < _LEAST_TOKENS else []
        run = _NO_REPEAT_NGRAM - 1
        tail = tuple(reply[-run:])
        repeats = [reply[i + run] for i in range(len(reply) - run) if tuple(reply[i : i + run]) == tail]
        return ends + repeats


def highest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` highest of each row of `scores` (rows, columns), highest first, and their columns.

    As `topk`, in less than half the time: the highest are in the blocks that have the highest maxima.
    """
    rows, columns = scores.shape
    if columns < 4 * _BLOCK * count:
        values, found = scores.topk(min(count, columns))
        return values, found
    whole = columns - columns % _BLOCK
    blocks = scores[:, :whole].view(rows, -1, _BLOCK).amax(-1).topk(count, sorted=False).indices
    within = (blocks[..., None] * _BLOCK + torch.arange(_BLOCK, device=scores.device)).view(rows, -1)
    rest = torch.arange(whole, columns, device=scores.device).expand(rows, -1)
    candidates = torch.cat([within, rest], 1)
    values, found = scores.gather(1, candidates).topk(count)
    return values, candidates.gather(1, found)
