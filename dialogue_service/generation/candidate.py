"""One of the replies a model proposes, with what a ranking needs to know of it."""

from dataclasses import dataclass

OPENING = 6
"""How many tokens count as a reply's opening. Li et al. (2016, MMI-antiLM) penalise only the first few
tokens by the language model: those decide how bland a reply is, the later ones whether it is fluent."""


@dataclass(frozen=True)
class Candidate:
    """A reply and how probable the model finds it. All log probabilities are natural, summed over tokens,
    and of the model's own distribution, before temperature and penalties."""

    text: str
    ids: tuple[int, ...]
    """As sampled; the end of turn is among them when `finished`."""
    logprob: float
    """Of all `ids`, given the conversation."""
    opening_logprob: float
    """Of the first OPENING ids, given the conversation."""
    unconditional: float
    """Of the same first ids, given no conversation. 0 when only one candidate was made."""
    finished: bool
    """The model ended it; otherwise the limit of tokens did."""
    liking: float = 0.0
    """Log-odds that it is liked, as far as thumbs tell; see `preference`."""

    @property
    def mean_logprob(self) -> float:
        """Per token."""
        return self.logprob / max(len(self.ids), 1)
