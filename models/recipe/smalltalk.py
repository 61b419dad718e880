"""Make dialogues from the authored small talk in `topics.yaml` and `scenarios.yaml`, seeded."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

Exchange = tuple[str, str]

HERE = Path(__file__).parent


class SmallTalk:
    """Draws whole dialogues, lists of turns that begin with the user, from the authored lines.

    `wordings` gives, for every scenario named in `scenarios.yaml`, the ways in which users put it.
    """

    def __init__(self, wordings: Mapping[str, Sequence[str]], seed: int) -> None:
        topics = yaml.safe_load((HERE / "topics.yaml").read_text(encoding="utf-8"))
        self.replies: dict[str, list[str]] = yaml.safe_load(
            (HERE / "scenarios.yaml").read_text(encoding="utf-8")
        )
        self.wordings = {
            name: list(texts) for name, texts in wordings.items() if name in self.replies and texts
        }
        self.words: dict[str, list[str]] = topics["words"]
        self.leads: list[str] = topics["leads"]
        self.scripts: list[list[dict[str, Any]]] = topics["scripts"]
        self.identity: list[dict[str, Any]] = topics["identity"]
        self.smalltalk: list[dict[str, Any]] = topics["smalltalk"]
        self.random = random.Random(seed)  # noqa: S311 - seeded data, no secret

    def pairs(self) -> list[list[str]]:
        """Return every known wording once, with one of its scenario's replies."""
        return [
            [noisy(wording, self.random), self.random.choice(self.replies[scenario])]
            for scenario, texts in self.wordings.items()
            for wording in texts
        ]

    def dialogue(self) -> list[str]:
        """Draw a dialogue of one to about ten exchanges."""
        alone = self.random.random() < 0.15
        exchanges = self._single() if alone else [*self._opening(), *self._middle(), *self._closing()]
        return [turn for user, bot in exchanges for turn in (noisy(user, self.random), bot)]

    def aside(self) -> list[Exchange]:
        """Draw one or two exchanges about anything."""
        kind = self.random.random()
        return (
            self._opening()[:1] or self._single()
            if kind < 0.2
            else self._script()[:2]
            if kind < 0.7
            else self._single()
        )

    def _middle(self) -> list[Exchange]:
        exchanges: list[Exchange] = []
        for _ in range(self.random.choices((1, 2, 3), (5, 3, 1))[0]):
            kind = self.random.random()
            exchanges += self._script() if kind < 0.6 else self._single()
        return exchanges

    def _opening(self) -> list[Exchange]:
        kind = self.random.random()
        if kind < 0.45:
            return []
        hello, how, answer = self.smalltalk[0], self.smalltalk[1], self.smalltalk[2]
        steps = [[hello], [how], [hello, how], [hello, answer], [how, answer]][self.random.randrange(5)]
        return [self._exchange(step) for step in steps]

    def _closing(self) -> list[Exchange]:
        thanks, bye = self.smalltalk[5], self.smalltalk[6]
        kind = self.random.random()
        steps = [] if kind < 0.6 else [thanks] if kind < 0.75 else [bye] if kind < 0.9 else [thanks, bye]
        return [self._exchange(step) for step in steps]

    def _single(self) -> list[Exchange]:
        kind = self.random.random()
        if kind < 0.45 and self.wordings:
            scenario = self.random.choice(list(self.wordings))
            return [(self.random.choice(self.wordings[scenario]), self.random.choice(self.replies[scenario]))]
        return [self._exchange(self.random.choice(self.identity if kind < 0.65 else self.smalltalk))]

    def _script(self) -> list[Exchange]:
        script = self.random.choice(self.scripts)
        length = self.random.choices(range(1, len(script) + 1), range(2, len(script) + 2))[0]
        chosen = {name: self.random.choice(words) for name, words in self.words.items()}
        exchanges = [self._exchange(step, chosen) for step in script[:length]]
        if self.random.random() < 0.2:
            user, bot = exchanges[0]
            exchanges[0] = (self.random.choice(self.leads) + user, bot)
        return exchanges

    def _exchange(
        self, step: Mapping[str, Sequence[str]], chosen: Mapping[str, str] | None = None
    ) -> Exchange:
        user, bot = self.random.choice(step["user"]), self.random.choice(step["bot"])
        if chosen is None:
            return user, bot
        slots = {**chosen, **{name.capitalize(): word[0].upper() + word[1:] for name, word in chosen.items()}}
        return user.format(**slots), bot.format(**slots)


def noisy(text: str, draw: random.Random) -> str:
    """Write a user's line as people type: sometimes without capitals, apostrophes or the final mark."""
    kind = draw.random()
    if kind < 0.25:
        text = text.lower()
    if kind < 0.1:
        text = text.replace("'", "")
    if draw.random() < 0.2:
        text = text.rstrip(".!?") or text
    elif text[-1] not in ".!?" and draw.random() < 0.35:
        text += draw.choice((".", ".", "!"))
    return text
