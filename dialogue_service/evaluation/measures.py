"""What can be counted in replies. Knows nothing of models."""

import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"\w+(?:['’]\w+)*")

Run = tuple[str, ...]


def words(text: str) -> list[str]:
    """The words that everything here counts."""
    return _WORD.findall(text.lower())


def runs(text: str, length: int) -> list[Run]:
    """Every run of `length` words."""
    found = words(text)
    return [tuple(found[start : start + length]) for start in range(len(found) - length + 1)]


def distinct(texts: Sequence[str], length: int) -> float:
    """distinct-n: different runs of `length` words, as a share of all of them.

    Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models". It falls as
    there are more texts: compare equally many.
    """
    counted = Counter(run for text in texts for run in runs(text, length))
    return len(counted) / max(counted.total(), 1)


def said_again(conversations: Sequence[Sequence[str]]) -> list[bool]:
    """Of each reply, whether the same was said before in its conversation, word for word."""
    return [reply in own[:index] for own in conversations for index, reply in enumerate(own)]


def phrases_again(conversations: Sequence[Sequence[str]], length: int = 3) -> list[bool]:
    """Of each run of `length` words, whether an earlier reply of its conversation has it."""
    return [
        run in {earlier for before in own[:index] for earlier in runs(before, length)}
        for own in conversations
        for index, reply in enumerate(own)
        for run in runs(reply, length)
    ]


def loops(text: str, length: int = 4) -> bool:
    """Whether the same `length` words stand in it twice."""
    found = runs(text, length)
    return len(found) > len(set(found))


def empty(text: str) -> bool:
    """Whether there is no word in it."""
    return not words(text)


def share(hits: Sequence[bool]) -> float:
    """0 where there is nothing to count."""
    return sum(hits) / max(len(hits), 1)


def agreement(up: Sequence[float], down: Sequence[float]) -> float:
    """How often a reply with thumbs up ranks above one with thumbs down; 0.5 is chance.

    Over all such pairs, ties count half: the area under the ROC curve (Mann and Whitney 1947).
    """
    wins = sum((high > low) + 0.5 * (high == low) for high in up for low in down)
    return wins / (len(up) * len(down))
