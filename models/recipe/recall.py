"""Dialogues in which a person tells something and asks for it later, or asks for what was never told.

The values (names, places, favorite things) are real ones from `recall.yaml` and made-up words. Both are cut
in two by a hash of the word, so that a test can ask for values which no training dialogue ever held.
"""

import hashlib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from smalltalk import noisy

Exchange = tuple[str, str]

HERE = Path(__file__).parent
HELD_OUT = 0.2
"""The share of all values that only tests use."""
TELLS_A_FACT = re.compile(
    r"\b(?:favou?rites?|name[ds]?|called|call|live|living|moved?|home|grew|from)\b", re.IGNORECASE
)
"""A line of small talk that might itself tell what is asked for later."""


def is_held_out(value: str) -> bool:
    """Whether `value` is one that no training dialogue may hold; capitals do not matter."""
    return hashlib.sha256(value.lower().encode()).digest()[0] < 256 * HELD_OUT


@dataclass(frozen=True)
class Fact:
    """Something told: `kind` and `thing` say what it is ("pet", "dog"; `thing` may be empty)."""

    kind: str
    thing: str
    value: str


@dataclass(frozen=True)
class Case:
    """What a person says in a test; the last message asks for `fact`, which was `told` or was not."""

    messages: tuple[str, ...]
    fact: Fact
    told: bool


@dataclass
class Recall:
    """Draws dialogues.

    `small_talk` gives exchanges to put between. `unseen` draws held-out values only; `wordings` are ways to
    `tell` and to `ask`, by kind, in the place of those in `recall.yaml`.
    """

    small_talk: Callable[[], list[Exchange]]
    seed: int
    unseen: bool = False
    wordings: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    _sheet: dict[str, Any] = field(init=False)
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._sheet = yaml.safe_load((HERE / "recall.yaml").read_text(encoding="utf-8"))
        self._random = random.Random(self.seed)  # noqa: S311 - seeded data, no secret

    def dialogue(self) -> list[str]:
        """Draw a training dialogue: up to three facts are told, talked past, asked for; and others too."""
        facts = self._facts(self._random.choices((0, 1, 2, 3), (2, 5, 3, 1))[0])
        exchanges: list[Exchange] = []
        together = 2 if len(facts) > 1 and self._random.random() < 0.2 else 0
        if together:
            exchanges.append(self._both(*facts[:2]))
        for fact in facts[together:]:
            exchanges += self._told(fact)
            exchanges += self._between(0.35, facts)
        asked = self._random.sample(facts, self._random.randint(min(1, len(facts)), len(facts)))
        strangers = [self._other(facts) for _ in range(self._random.choices((0, 1, 2), (5, 4, 1))[0])]
        questions = [
            (fact, fact in facts)
            for fact in [*asked, *(strangers if facts else strangers or [self._other(())])]
        ]
        self._random.shuffle(questions)
        for fact, told in questions:
            exchanges += self._asked(fact, told)
            exchanges += self._between(0.15, [*facts, *strangers])
        return [turn for exchange in exchanges for turn in exchange]

    def copy(self, words: Sequence[str]) -> list[str]:
        """Ask for made-up words and some of `words` to be repeated: recall with nothing in the way."""
        draw = self._random
        chosen = [
            draw.choice(words) if draw.random() < 0.6 else self._new() for _ in range(draw.randint(2, 20))
        ]
        said = " ".join(chosen)
        return [self._pick(self._sheet["repeat"]).format(words=said), said]

    def _new(self) -> str:
        word = self._made_up()
        return word.capitalize() if self._random.random() < 0.5 else word

    def names(self, held_out: bool) -> frozenset[str]:
        """The first words of the names of persons, pets and places that are held out, or of the others."""
        proper = [value for kind in ("name", "petname", "place") for value in self._sheet["values"][kind]]
        return frozenset(value.split()[0] for value in proper if is_held_out(value) == held_out)

    def case(self, told: bool, between: int) -> Case:
        """Draw a test: a fact told or not told, another one told half of the times, small talk, a question.

        `between` exchanges lie between the telling, or the beginning, and the question.
        """
        fact, other = self._facts(2)
        exchanges = self._telling(other, corrected=False) if self._random.random() < 0.5 else []
        self._random.shuffle(exchanges)
        while len(exchanges) < between:
            exchanges += self._between(1, [fact, other])[: between - len(exchanges)]
        if told:
            exchanges.insert(0, *self._telling(fact, corrected=False))
        question, _ = self._question(fact, told)
        return Case((*(message for message, _ in exchanges), question), fact, told)

    def _told(self, fact: Fact) -> list[Exchange]:
        """Tell a fact, sometimes asked for it first, sometimes corrected."""
        chance = self._random.random()
        if chance < 0.2:
            return self._asked(fact, told=False, answered=True)
        if chance < 0.4 and fact.kind == "name":
            mine = self._sheet["facts"]["name"]["mine"]
            asked = self._say(self._pick(mine["ask"]), fact, typed=True), self._pick(mine["answer"])
            return [asked, self._answer(fact)]
        return self._telling(fact, corrected=self._random.random() < 0.1)

    def _both(self, one: Fact, other: Fact) -> Exchange:
        """Tell two facts in one message."""
        texts = [self._say(self._pick(self._kind(fact)["tell"]), fact, typed=True) for fact in (one, other)]
        first, second = (text.rstrip(".!") for text in texts)
        if not second.startswith(("I", other.value)):
            second = second[0].lower() + second[1:]
        return f"{first} and {second}", self._say(self._pick(self._kind(one)["heard"]), one)

    def _answer(self, fact: Fact) -> Exchange:
        """Tell a fact when asked for it."""
        kind = self._kind(fact)
        told = self._say(self._pick(kind["bare"]), fact, typed=True)
        return told, self._say(self._pick(kind["heard"]), fact)

    def _telling(self, fact: Fact, corrected: bool) -> list[Exchange]:
        kind = self._kind(fact)
        wrong = self._fact(fact.kind, fact.thing) if corrected else fact
        text = self._pick(kind["tell"])
        if self._random.random() < 0.3:
            text = self._pick(self._sheet["leads"]) + text
        if self._random.random() < 0.15:
            text += "." + self._pick(self._sheet["tails"])
        exchanges = [(self._say(text, wrong, typed=True), self._say(self._pick(kind["heard"]), wrong))]
        if corrected:
            again = self._pick(self._sheet["corrections"]), self._pick(self._sheet["corrected"])
            exchanges.append((self._say(again[0], fact, typed=True), self._say(again[1], fact)))
        return exchanges

    def _asked(self, fact: Fact, told: bool, answered: bool | None = None) -> list[Exchange]:
        """Ask for a fact; who is asked back answers now and then."""
        question, reply = self._question(fact, told)
        exchanges = [(question, reply)]
        if answered or (answered is None and not told and self._random.random() < 0.3):
            exchanges.append(self._answer(fact))
            if answered is None:
                exchanges += self._asked(fact, told=True)
        return exchanges

    def _question(self, fact: Fact, told: bool) -> Exchange:
        kind = self._kind(fact)
        own = bool(self.wordings) or self._random.random() < 0.4
        text = self._pick(kind["ask"] if own else self._sheet["ask"])
        if self._random.random() < 0.2:
            text = self._pick(self._sheet["ask_leads"]) + text
        return self._say(text, fact, typed=True), self._say(
            self._pick(kind["recall" if told else "unknown"]), fact
        )

    def _between(self, chance: float, facts: Sequence[Fact]) -> list[Exchange]:
        """Small talk that tells nothing which could be taken for one of the facts."""
        if self._random.random() >= chance:
            return []
        known = [value.lower() for fact in facts for value in self._sheet["values"].get(fact.thing, ())]
        while True:
            exchanges = self.small_talk()
            text = " ".join(turn for exchange in exchanges for turn in exchange).lower()
            if not TELLS_A_FACT.search(text) and not any(value in text for value in known):
                return exchanges

    def _facts(self, count: int) -> list[Fact]:
        facts: list[Fact] = []
        while len(facts) < count:
            facts.append(self._other(facts))
        return facts

    def _other(self, facts: Sequence[Fact]) -> Fact:
        """A fact about something that none of `facts` is about."""
        about = {(fact.kind, fact.thing) for fact in facts}
        while True:
            kind = self._random.choices(list(self._sheet["facts"]), (6, 3, 4, 2, 6))[0]
            # One who has told of the dog and asks for the cat: the nearest thing to confuse.
            thing = self._random.choice(self._sheet["facts"][kind].get("things", [""]))
            if (kind, thing) not in about:
                return self._fact(kind, thing)

    def _fact(self, kind: str, thing: str) -> Fact:
        lists = self._sheet["values"]
        known = [
            value
            for name in self._sheet["facts"][kind]["values"]
            for value in lists.get(name, lists.get(thing, ()))
        ]
        known = [value for value in known if is_held_out(value) == self.unseen]
        if known and self._random.random() >= self._sheet["facts"][kind]["made_up"]:
            value = self._random.choice(known)
            return Fact(kind, thing, value.lower() if self._random.random() < 0.15 else value)
        words = [self._made_up() for _ in range(2 if self._random.random() < 0.1 else 1)]
        capital = self._random.random() < (0.4 if kind == "favorite" else 0.85)
        return Fact(kind, thing, " ".join(word.capitalize() if capital else word for word in words))

    def _made_up(self) -> str:
        """A word that can be spoken and means nothing."""
        sounds = self._sheet["sounds"]
        while True:
            word = ""
            for _ in range(self._random.choices((1, 2, 3), (1, 5, 3))[0]):
                word += self._pick(sounds["onsets"]) if word == "" or self._random.random() < 0.9 else ""
                word += self._pick(sounds["nuclei"])
                word += self._pick(sounds["codas"]) if self._random.random() < 0.35 else ""
            if 3 <= len(word) <= 10 and is_held_out(word) == self.unseen:
                return word

    def _kind(self, fact: Fact) -> Mapping[str, Any]:
        return {**self._sheet["facts"][fact.kind], **self.wordings.get(fact.kind, {})}

    def _say(self, text: str, fact: Fact, typed: bool = False) -> str:
        """Fill a line in; one that is `typed` as people type."""
        it = self._pick(self._kind(fact)["it"])
        text = text.replace("{it}", it)
        text = text[0].upper() + text[1:]
        if typed:
            text = noisy(text, self._random)
        if "favourite" in text:
            text = text.replace("{thing}", fact.thing.replace("color", "colour"))
        return text.format(value=fact.value, thing=fact.thing)

    def _pick(self, texts: Sequence[str]) -> str:
        return self._random.choice(texts)
