"""One of several replies that a model proposes."""

from dataclasses import dataclass

OPENING = 6
"""How many first tokens of a reply are compared with what the model would say without any history."""


@dataclass(frozen=True)
class Candidate:
    """A reply with what the model thinks of it.

    Log probabilities are sums over tokens in nats, of the model's own distribution: before temperature,
    cuts (top-k, top-p) and penalties.
    """

    text: str
    """The decoded `ids`, without special tokens and surrounding white space."""
    ids: tuple[int, ...]
    """The tokens as sampled, the end token included where the reply has one."""
    logprob: float
    """log p(ids | history)"""
    opening_logprob: float
    """log p(ids[:OPENING] | history)"""
    unconditional: float
    """log p(ids[:OPENING] | nothing but the token that begins a turn)"""
    finished: bool
    """Whether the model ended it; otherwise it was cut off."""
