"""A little of `make torture`: it finds nothing, and would find something."""

from pathlib import Path

import pytest

from benchmarks.torture import crash, echo
from benchmarks.torture.ledger import Ledger, Said


def test_what_was_acknowledged_survives_kill_9_whole_once_and_in_order(tmp_path: Path) -> None:
    section = crash.rounds(3, print, ("Redis", "the dialogue service", "the launcher"))
    assert section.findings == []
    assert int(section.facts["exchanges acknowledged"]) > 20
    missed = [check.target for check in section.checks if not check.met]
    assert missed == ["Rounds of kill -9: at least 50 rounds"]


def stored(message: str, number: int, reply: str = "") -> dict[str, object]:
    return {
        "id": f"{number}-1",
        "conversation": "c",
        "message": message,
        "reply": reply or echo.reply_to(message, 2 * (number - 1)),
        "intent": None,
        "model": "m",
        "degraded": ["intent"],
        "timings": {"waiting_ms": 0, "recall_ms": 0, "intent_ms": 0, "reply_ms": 0},
        "at": "2026-11-25T00:00:00Z",
        "feedback": None,
    }


def answered(exchange: dict[str, object], began: float) -> Said:
    answer = {name: value for name, value in exchange.items() if name not in ("message", "at", "feedback")}
    return Said(str(exchange["message"]), "c", keyed=True, began=began, ended=began + 1, answer=answer)


A, B = stored("a", 1), stored("b", 2)


@pytest.mark.parametrize(
    ("there", "fault"),
    [
        ([A, B], None),
        ([B], "'a' is there 0 times"),
        ([A, A, B], "'a' is there 2 times"),
        ([A, B, stored("c", 3)], "'c' was never said"),
        ([B, A], "ids are not in order"),
        ([stored("a", 3), B], "not stored as it was answered"),
        ([stored("a", 1, "half"), B], "'a' has the reply 'half'"),
        ([stored("b", 1), stored("a", 2)], "stands before what was over when it was said"),
        ([A, stored("b", 2, echo.reply_to("b", 0))], "'b' has the reply 'After 0 turns"),
        ([A | {"feedback": {"id": "1-1", "rating": "positive", "at": "2026-11-25T00:00:00Z"}}, B], None),
    ],
)
def test_the_ledger_finds_what_is_wrong(there: list[dict[str, object]], fault: str | None) -> None:
    faults = Ledger([answered(A, 0), answered(B, 2)]).faults({"c": there}, [])
    assert not faults if fault is None else any(fault in found for found in faults), faults


def test_the_ledger_misses_votes() -> None:
    voted = answered(A, 0)
    voted.vote, voted.vote_acknowledged = "vote on a", True
    ledger = Ledger([voted], {"free vote 0": True, "free vote 1": False})
    faults = ledger.faults({"c": [A]}, [{"comment": "free vote 1"}])
    assert faults == ["'a' has the vote None, not 'vote on a'", "free vote 'free vote 0' is there 0 times"]
