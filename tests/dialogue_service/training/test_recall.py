"""The dialogues that teach and test recall."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

REPOSITORY = Path(__file__).parents[3]
RECIPE = REPOSITORY / "models" / "recipe"


@pytest.fixture(scope="module")
def recall() -> Iterator[ModuleType]:
    sys.path.insert(0, str(RECIPE))
    import recall

    yield recall
    sys.path.remove(str(RECIPE))


def small_talk() -> list[tuple[str, str]]:
    return [("It rains", "Take an umbrella!")]


def test_dialogues_are_whole_and_every_slot_is_filled(recall: ModuleType) -> None:
    draw = recall.Recall(small_talk, seed=1)
    for _ in range(2000):
        turns = draw.dialogue()
        assert turns
        assert len(turns) % 2 == 0
        assert all(turn.strip() for turn in turns)
        assert not any(mark in turn for turn in turns for mark in "{}")


def test_the_seed_decides_the_dialogues(recall: ModuleType) -> None:
    def drawn(seed: int) -> list[list[str]]:
        draw = recall.Recall(small_talk, seed)
        return [draw.dialogue() for _ in range(20)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_no_value_is_both_learned_and_tested(recall: ModuleType) -> None:
    def values(unseen: bool) -> set[str]:
        draw = recall.Recall(small_talk, seed=3, unseen=unseen)
        return {draw.case(told=True, between=1).fact.value.lower() for _ in range(3000)}

    learned, tested = values(unseen=False), values(unseen=True)
    assert len(learned) > 1000
    assert len(tested) > 500
    assert not learned & tested


def test_a_name_is_held_out_or_learned(recall: ModuleType) -> None:
    draw = recall.Recall(small_talk, seed=1)
    held, learned = draw.names(held_out=True), draw.names(held_out=False)
    assert "Pablo" in held
    assert "Anna" in learned
    assert not held & learned


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("between", [1, 5])
def test_a_case_tells_its_fact_first_or_never(recall: ModuleType, told: bool, between: int) -> None:
    draw = recall.Recall(small_talk, seed=2, unseen=True)
    for _ in range(300):
        case = draw.case(told, between)
        assert len(case.messages) == told + between + 1
        said = re.compile(rf"\b{re.escape(case.fact.value)}\b", re.IGNORECASE)
        assert bool(said.search(case.messages[0])) == told
        assert not any(said.search(message) for message in case.messages[1:])


def test_other_wordings_are_other_ones(recall: ModuleType) -> None:
    taught = yaml.safe_load((RECIPE / "recall.yaml").read_text("utf-8"))
    other = yaml.safe_load((REPOSITORY / "benchmarks" / "recall.yaml").read_text("utf-8"))
    assert other.keys() == taught["facts"].keys()
    for kind, lines in other.items():
        known = {*taught["ask"], *taught["facts"][kind]["ask"], *taught["facts"][kind]["tell"]}
        assert not known & {*lines["tell"], *lines["ask"]}
    draw = recall.Recall(small_talk, seed=4, unseen=True, wordings=other)
    for _ in range(300):
        question = draw.case(told=True, between=1).messages[-1]
        assert "{" not in question


def test_words_to_copy_come_back_as_they_were(recall: ModuleType) -> None:
    draw = recall.Recall(small_talk, seed=5)
    for _ in range(200):
        asked, said = draw.copy(["some", "words"])
        assert asked.endswith(said)
