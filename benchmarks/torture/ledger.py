"""What clients said and what they were told, and what of it the memory must hold."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.torture import echo
from dialogue_service.chat import RECALLED_EXCHANGES
from dialogue_service.contracts import Exchange


@dataclass
class Said:
    """One message, sent once or, with a key, until there was an answer. Texts are unique."""

    message: str
    conversation: str
    keyed: bool
    began: float
    ended: float = math.inf
    answer: dict[str, Any] | None = None
    vote: str | None = None
    """The comment of the one vote on it; it is unique too."""
    vote_acknowledged: bool = False


@dataclass
class Ledger:
    """Everything of one run."""

    said: list[Said] = field(default_factory=list)
    free_votes: dict[str, bool] = field(default_factory=dict)
    """Comment, and whether it was acknowledged."""

    def conversations(self) -> set[str]:
        """The names of all there are."""
        return {said.conversation for said in self.said}

    def faults(self, stored: dict[str, list[dict[str, Any]]], votes: Iterable[dict[str, Any]]) -> list[str]:
        """Every difference between this and the exports of each conversation and of the votes."""
        found = [
            fault
            for name in self.conversations()
            for fault in _conversation(
                [said for said in self.said if said.conversation == name], stored[name]
            )
        ]
        comments = Counter(vote["comment"] for vote in votes)
        for comment, acknowledged in self.free_votes.items():
            if comments[comment] > 1 or (acknowledged and not comments[comment]):
                found.append(f"free vote {comment!r} is there {comments[comment]} times")
        return found

    def counts(self) -> dict[str, int]:
        """How much of what was tried."""
        votes = [*(said.vote_acknowledged for said in self.said if said.vote), *self.free_votes.values()]
        return {
            "exchanges acknowledged": sum(said.answer is not None for said in self.said),
            "messages without an answer": sum(said.answer is None for said in self.said),
            "votes acknowledged": sum(votes),
            "votes without an answer": len(votes) - sum(votes),
        }


def _conversation(said: list[Said], stored: list[dict[str, Any]]) -> Iterable[str]:
    known = {each.message: each for each in said}
    times = Counter(exchange["message"] for exchange in stored)
    place = {exchange["message"]: number for number, exchange in enumerate(stored)}
    for message in times.keys() - known.keys():
        yield f"{message!r} was never said"
    for each in said:
        if times[each.message] > 1 or (each.answer and not times[each.message]):
            yield f"{each.message!r} is there {times[each.message]} times"
    ids = [tuple(map(int, exchange["id"].split("-"))) for exchange in stored]
    if ids != sorted(set(ids)):
        yield "ids are not in order"
    for number, exchange in enumerate(stored):
        if exchange["message"] in known:
            yield from _exchange(known[exchange["message"]], exchange, number)
    yield from _order([each for each in said if each.message in place], place)


def _order(there: list[Said], place: dict[str, int]) -> Iterable[str]:
    """Nothing stands before what was over when it was said."""
    over, latest = sorted(there, key=lambda each: each.ended), -1
    for each in sorted(there, key=lambda each: each.began):
        while over[0].ended <= each.began:
            latest = max(latest, place[over.pop(0).message])
        if place[each.message] < latest:
            yield f"{each.message!r} stands before what was over when it was said"


def _exchange(said: Said, stored: dict[str, Any], number: int) -> Iterable[str]:
    """`number`: how many exchanges stand before it. Each must have been known when the reply was made."""
    whole = Exchange.model_validate(stored)
    recalled = min(number, RECALLED_EXCHANGES + number % RECALLED_EXCHANGES)
    if whole.reply != (expected := echo.reply_to(said.message, 2 * recalled)):
        yield f"{said.message!r} has the reply {whole.reply!r}, not {expected!r}"
    if said.answer and {name: stored[name] for name in said.answer} != said.answer:
        yield f"{said.message!r} is not stored as it was answered: {json.dumps(stored)}"
    comment = whole.feedback.comment if whole.feedback else None
    if comment != said.vote if said.vote_acknowledged else comment not in (None, said.vote):
        yield f"{said.message!r} has the vote {comment!r}, not {said.vote!r}"
