import pytest

from dialogue_service.training.data import DataError, Dialogue, Thumb
from dialogue_service.training.holdout import FEEDBACK_HELD_OUT, hold_out, hold_out_feedback


def spoken(count: int) -> list[Dialogue]:
    return [Dialogue((str(number), "x"), (False, True)) for number in range(count)]


def voted(count: int) -> list[Dialogue]:
    return [Dialogue((f"said {n}", "y"), (False, True), f"179533440{n:04}-1") for n in range(count)]


def test_held_out_dialogues_are_seeded_and_apart() -> None:
    dialogues = spoken(40)
    learned, held_out = hold_out(dialogues, 0.1, seed=3)
    assert len(held_out) == 4
    assert sorted(learned + held_out, key=dialogues.index) == dialogues
    assert (learned, held_out) == hold_out(dialogues, 0.1, seed=3)
    assert held_out != hold_out(dialogues, 0.1, seed=4)[1]


def test_at_least_one_dialogue_on_each_side() -> None:
    two = spoken(2)
    assert [len(side) for side in hold_out(two, 0.001, seed=0)] == [1, 1]
    assert [len(side) for side in hold_out(two, 0.999, seed=0)] == [1, 1]
    with pytest.raises(DataError, match="--valid-data"):
        hold_out(two[:1], 0.5, seed=0)


def test_feedback_falls_on_the_same_side_in_every_run() -> None:
    """Whatever else there is, whatever the seed and the share of other dialogues."""
    early = hold_out_feedback(voted(200))
    assert len(early[1]) == pytest.approx(200 * FEEDBACK_HELD_OUT, abs=20)
    late_learned, late_held_out = hold_out([*spoken(50), *voted(400)], 0.5, seed=9)
    for side, later in zip(early, (late_learned, late_held_out), strict=True):
        assert [dialogue for dialogue in side if dialogue not in later] == []
    assert len([dialogue for dialogue in late_held_out if dialogue.id is None]) == 25


def test_a_reply_and_the_better_one_are_on_the_same_side() -> None:
    thumbs = [
        thumb
        for n in range(50)
        for thumb in (Thumb(("hi", f"bad {n}"), False, f"{n}-1"), Thumb(("hi", f"good {n}"), True, f"{n}-1"))
    ]
    for side in hold_out_feedback(thumbs):
        ids = [thumb.id for thumb in side]
        assert all(ids.count(id_) == 2 for id_ in ids)
