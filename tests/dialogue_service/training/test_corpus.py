from collections.abc import Callable
from typing import Any

import pytest

from dialogue_service.training.corpus import LEAST, LEAST_EACH, check_enough, gather
from dialogue_service.training.data import DataError, Dialogue, Thumb
from dialogue_service.training.settings import TrainingSettings
from tests.dialogue_service.training.conftest import WriteRows

TinyRun = Callable[..., TrainingSettings]


def votes(up: int, down: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{n}-1",
            "turns": [f"message {n}", f"reply {n}"],
            "rating": "positive" if n < up else "negative",
        }
        for n in range(up + down)
    ]


def test_no_run_learns_from_a_held_out_exchange(tiny_run: TinyRun, write_rows: WriteRows) -> None:
    few = write_rows("few.jsonl", votes(60, 60))
    more = write_rows("more.jsonl", [*votes(60, 60), *votes(150, 150)[120:]])
    talk = write_rows("talk.jsonl", [{"turns": [f"a {n}", f"b {n}"]} for n in range(20)])
    measured: set[str] = set()
    learned: set[str] = set()
    for data, seed, valid in (((few,), 1, ()), ((talk, more), 2, ()), ((more,), 3, (talk,))):
        corpus = gather(tiny_run(data=data, seed=seed, valid_data=valid))
        measured |= {one.id for one in (*corpus.held_out, *corpus.held_out_thumbs) if one.id}
        learned |= {one.id for one in (*corpus.learned, *corpus.thumbs) if one.id}
    assert len(learned) > 150
    assert len(measured) > 30
    assert learned & measured == set()


def test_without_other_dialogues_the_held_out_votes_measure(tiny_run: TinyRun, write_rows: WriteRows) -> None:
    corpus = gather(tiny_run(data=(write_rows("votes.jsonl", votes(60, 60)),), valid_data=()))
    assert corpus.held_out
    assert {dialogue.id for dialogue in corpus.held_out} <= {thumb.id for thumb in corpus.held_out_thumbs}


@pytest.mark.parametrize(
    ("method", "up", "down", "missing"),
    [
        ("kto", LEAST_EACH, LEAST - LEAST_EACH, ""),
        ("kto", 3, 30, "2 more up"),
        ("kto", 30, 0, "5 more down"),
        ("kto", 6, 6, "8 more in all"),
        ("kto", 1, 1, "18 more in all, 4 more up, 4 more down"),
        ("sft", LEAST, 0, ""),
        ("sft", LEAST - 1, 500, "1 more up or with a better reply"),
    ],
)
def test_too_few_votes_are_refused_with_how_many_are_missing(
    method: Any, up: int, down: int, missing: str
) -> None:
    thumbs = [Thumb(("a", str(n)), n < up, f"{n}-1") for n in range(up + down)]
    approved = [Dialogue(thumb.turns, (False, True), thumb.id) for thumb in thumbs if thumb.up]
    if not missing:
        check_enough(method, approved, thumbs)
        return
    with pytest.raises(DataError) as caught:
        check_enough(method, approved, thumbs)
    assert f"Missing: {missing} (" in str(caught.value)
    assert f"{up} up and {down} down" in str(caught.value)


def test_dialogues_of_ones_own_may_be_few(tiny_run: TinyRun, write_rows: WriteRows) -> None:
    data = write_rows("mixed.jsonl", [{"turns": ["a", "b"]}, {"turns": ["c", "d"]}, *votes(1, 0)])
    assert len(gather(tiny_run(data=(data,))).learned) == 3


def test_nothing_held_out_is_refused(tiny_run: TinyRun, write_rows: WriteRows) -> None:
    learned = [row for row in votes(200, 0) if row["id"] not in held_out_ids(200)][:LEAST]
    with pytest.raises(DataError, match="none is held out"):
        gather(tiny_run(data=(write_rows("votes.jsonl", learned),), valid_data=()))


def held_out_ids(count: int) -> set[str]:
    from dialogue_service.training.holdout import hold_out_feedback

    return {
        thumb.id for thumb in hold_out_feedback([Thumb(("a", "b"), True, f"{n}-1") for n in range(count)])[1]
    }
