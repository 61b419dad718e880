"""Which of several candidate replies is said.

What a model finds most probable is bland: it fits any message. Maximum mutual information takes off a
reply's worth what it would be worth without a message (MMI-antiLM with a reward for length: Li et al. 2016,
"A Diversity-Promoting Objective Function for Neural Conversation Models"), in its opening only: later tokens
follow from the earlier ones, and taking them off rewards clumsy words. DialoGPT (Zhang et al. 2020) ranks
samples by a second model that guesses the message from the reply (MMI-bidi); Parley has no such model.

So it likes what is unlikely in itself, and a name that was never told is just that. Hence only candidates
that the model is nearly as sure of as of any other come into question: a constraint of plausibility as in
Li et al. 2023, "Contrastive Decoding" (arXiv:2210.15097), here for whole replies. And those that thumbs speak
for: a taste may be for what the model seldom says.
benchmarks/replies.md shows what the numbers here were chosen by.
"""

import math
import re
from collections.abc import Iterable, Sequence

from dialogue_service.generation.candidate import Candidate

BLANDNESS = 0.75
"""Weight of the opening's log probability without history (lambda in Li et al.)."""
LENGTH = 0.5
"""What a token is forgiven of what tokens cost on average in these candidates. Relative, so that it suits a
model that is sure of its words and one that never is."""
DOUBT = 0.1
"""Nats per token by which a candidate may be less sure than the surest, ..."""
RELATIVE_DOUBT = 0.3
"""... or this share of what a token costs on average, where that is more: some models are never sure."""
LIKING = 8.0
"""Weight of the log probability that the reply is liked, as far as thumbs tell (`preference`)."""
REPETITION = 1.0
"""Nats taken off for each phrase that the model has said before in the conversation."""
_STEEP = 30.0  # below it a sigmoid is e to the power of its argument
_PHRASE = 3
_LOOP = 4
_GREETING = 2  # words; so short a message is often rightly answered with itself, as "Good night!" is
_WORD = re.compile(r"\w+(?:['’]\w+)*")
_SENTENCE_ENDED = re.compile(r"[.!?…][\"')\]]*$")

Words = tuple[str, ...]


def best(candidates: Sequence[Candidate], turns: Sequence[str]) -> Candidate | None:
    """The candidate to answer `turns` with (oldest first, the last one is the message).

    A faulty one is taken only where all are: it was cut off within its first sentence, goes in circles,
    repeats one of the model's turns, echoes the message, or has no word. None where all are empty.
    """
    said = [_words(turn) for turn in turns[-2::-2]]
    message = _words(turns[-1]) if turns else ()
    fit = [candidate for candidate in candidates if candidate.text.strip()]
    if not fit:
        return None
    worths = dict(zip(fit, worth(fit, said), strict=True))
    fit = [candidate for candidate in fit if not _faulty(candidate, said, message)] or fit
    return max(_plausible(fit), key=worths.__getitem__)


def _plausible(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that the model is nearly as sure of as of the surest, and those that are likely to be liked."""
    doubt = max(DOUBT, RELATIVE_DOUBT * _price(candidates))
    least = max(candidate.mean_logprob for candidate in candidates) - doubt
    return [one for one in candidates if one.mean_logprob >= least or one.liking > 0]


def worth(candidates: Sequence[Candidate], said: Sequence[Words] = ()) -> list[float]:
    """What each candidate is worth in nats; `said` are the words of the model's earlier turns."""
    price = _price(candidates)
    return [
        candidate.logprob
        - BLANDNESS * candidate.unconditional
        + LENGTH * price * len(candidate.ids)
        - REPETITION * _repeated(_words(candidate.text), said)
        + LIKING * _log_sigmoid(candidate.liking)
        for candidate in candidates
    ]


def _log_sigmoid(log_odds: float) -> float:
    return -math.log1p(math.exp(-log_odds)) if log_odds > -_STEEP else log_odds


def _price(candidates: Sequence[Candidate]) -> float:
    """What a token costs on average, in nats."""
    tokens = sum(len(candidate.ids) for candidate in candidates)
    return -sum(candidate.logprob for candidate in candidates) / max(tokens, 1)


def _faulty(candidate: Candidate, said: Sequence[Words], message: Words) -> bool:
    words = _words(candidate.text)
    loops = _phrases(words, _LOOP)
    return (
        not words
        or not (candidate.finished or _SENTENCE_ENDED.search(candidate.text))
        or words in said
        or (words == message and len(words) > _GREETING)
        or len(loops) > len(set(loops))
    )


def _repeated(words: Words, said: Iterable[Words]) -> int:
    """How many of its phrases were said before."""
    known = {phrase for turn in said for phrase in _phrases(turn, _PHRASE)}
    return sum(phrase in known for phrase in _phrases(words, _PHRASE))


def _phrases(words: Words, length: int) -> list[Words]:
    return [words[start : start + length] for start in range(len(words) - length + 1)]


def _words(text: str) -> Words:
    return tuple(_WORD.findall(text.casefold()))
