"""One prompt and its candidate replies, from the first chunk that is read to the last token that is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dialogue_service.generation.candidate import OPENING
from dialogue_service.generation.packed import PackedModel
from dialogue_service.generation.piece import KeyValues, Piece
from dialogue_service.generation.tree import Tree


@dataclass
class Branch:
    """A candidate in the making; the fields are Candidate's."""

    ids: list[int]
    logprob: float = 0.0
    opening_logprob: float = 0.0
    unconditional: float = 0.0
    finished: bool = False
    terms: list[list[float]] = field(default_factory=list)
    """Of its tokens that were fed, where there is a preference."""


@dataclass(frozen=True)
class Blank:
    """A conversation without history, to ask how probable a reply's opening is anyway."""

    ids: list[int]
    keys_values: KeyValues
    logits: Tensor
    """(1, vocabulary), of the first token."""

    @classmethod
    def read(cls, model: PackedModel, ids: list[int]) -> "Blank":
        """Read its ids once; every decoding then starts from a copy."""
        tree = Tree(ids, KeyValues(), model.like)
        (logits,) = model([tree.chunk(len(ids))])
        return cls(ids, tree.keys_values, logits)


class Decoding:
    """Says what is to be fed to the model next, takes its logits, and is done at some point."""

    def __init__(
        self,
        prompt: Sequence[int],
        keys_values: KeyValues,
        *,
        branches: int,
        reply_tokens: int,
        end_ids: frozenset[int],
        seed: int | None,
        blank: Blank,
        like: Tensor,
    ) -> None:
        """`keys_values` holds a beginning of `prompt`, at most all but its last token."""
        self.tree = Tree(prompt, keys_values, like)
        self._end_ids = end_ids
        self._like = like
        self._blank = blank
        self._reply_tokens = reply_tokens
        self._random = torch.Generator()
        self._random.manual_seed(seed) if seed is not None else self._random.seed()
        self._first: Tensor | None = None
        self._fed: Piece | None = None  # the newest tokens of the living candidates
        self._begin(branches)

    def _begin(self, branches: int) -> None:
        self.branches = [Branch([]) for _ in range(branches)]
        self.living = list(range(branches))
        self._shadow = (
            Tree(self._blank.ids, self._blank.keys_values.copy(len(self._blank.ids)), self._like)
            if branches > 1
            else None
        )

    def again(self) -> None:
        """Draw all candidates anew from what was read."""
        self.tree.cut()
        self._begin(len(self.branches))

    @property
    def done(self) -> bool:
        """Whether every candidate has ended."""
        return not self.living

    @property
    def reading(self) -> bool:
        """Whether it needs `chunk` rather than `step`."""
        return not self.tree.read

    @property
    def _depth(self) -> int:
        return len(self.branches[self.living[0]].ids)

    def step(self) -> list[Piece]:
        """What to feed: the last token of each living candidate, in its opening also without history."""
        self._fed = None
        if self._depth == 0:
            return []
        ids = [self.branches[i].ids[-1] for i in self.living]
        trees = [self.tree, self._shadow] if self._shadow and self._depth < OPENING else [self.tree]
        pieces = [tree.step(self.living, ids, self._depth - 1) for tree in trees]
        self._fed = pieces[0]
        return pieces

    def take(self, logits: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """What was computed for `chunk` or `step`, as logits with and without history of the living
        candidates.

        Each is of shape (living, vocabulary).
        """
        if self._depth == 0:
            if logits:
                self._first = logits[0]
            assert self._first is not None  # noqa: S101  # narrows the type
            alike = (len(self.living), -1)
            return self._first.expand(alike), self._blank.logits.expand(alike) if self._shadow else None
        return logits[0], logits[1] if len(logits) > 1 else None

    def uniform(self) -> Tensor:
        """A number for the draw of each living candidate. All branches use some up, so that the draws of one
        do not depend on when another ended."""
        return torch.rand(len(self.branches), generator=self._random)[self.living]

    def replies(self) -> list[list[int]]:
        """The tokens of the living candidates so far."""
        return [self.branches[i].ids for i in self.living]

    def extend(self, tokens: Sequence[int], logprobs: Sequence[float], without: Tensor | None) -> None:
        """Add a token to each living candidate; `without` are the logits without history, if there are
        some."""
        plain = without.log_softmax(-1) if without is not None else None
        if self._fed and self._fed.terms is not None:
            for i, terms in zip(self.living, self._fed.terms.tolist(), strict=True):
                self.branches[i].terms.append(terms)
        for row, (i, token, logprob) in enumerate(zip(list(self.living), tokens, logprobs, strict=True)):
            branch = self.branches[i]
            branch.ids.append(token)
            branch.logprob += logprob
            if len(branch.ids) <= OPENING:
                branch.opening_logprob += logprob
            if plain is not None:
                branch.unconditional += float(plain[row, token])
            branch.finished = token in self._end_ids
            if branch.finished or len(branch.ids) >= self._reply_tokens:
                self.living.remove(i)

    def known(self, branch: int | None) -> tuple[list[int], KeyValues]:
        """The prompt with one reply, as far as the model has read both, and what it computed for them.

        None: a reply that was drawn before `again` is not there any more.
        """
        if branch is None:
            self.tree.cut()
            return self.tree.prompt[: self.tree.keys_values.length], self.tree.keys_values
        keys_values = self.tree.keep(branch)
        ids = [*self.tree.prompt, *self.branches[branch].ids][: keys_values.length]
        return ids, keys_values
