import importlib.util
import string
from pathlib import Path
from types import ModuleType

import pytest

RECIPE = Path(__file__).parents[3] / "models" / "recipe"


@pytest.fixture(scope="module")
def smalltalk() -> ModuleType:
    spec = importlib.util.spec_from_file_location("smalltalk", RECIPE / "smalltalk.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WORDINGS = {"Hi!": ["Hello there", "Greetings"], "No such scenario": ["Never said"]}


def test_dialogues_are_whole_and_every_slot_is_filled(smalltalk: ModuleType) -> None:
    talk = smalltalk.SmallTalk(WORDINGS, seed=1)
    for _ in range(2000):
        turns = talk.dialogue()
        assert len(turns) % 2 == 0
        assert all(turn.strip() for turn in turns)
        assert not any(mark in turn for turn in turns for mark in "{}")
        if turns[0].lower().startswith(("repeat", "say:", "please repeat")):
            continue
        # Any other reply is a sentence: capital first, a mark last.
        assert all(reply[0] not in string.ascii_lowercase and reply[-1] in ".!?" for reply in turns[1::2])


def test_the_seed_decides_the_dialogues(smalltalk: ModuleType) -> None:
    def drawn(seed: int) -> list[list[str]]:
        talk = smalltalk.SmallTalk(WORDINGS, seed)
        return [talk.dialogue() for _ in range(20)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_only_listed_scenarios_are_used(smalltalk: ModuleType) -> None:
    talk = smalltalk.SmallTalk(WORDINGS, seed=1)
    assert len(talk.pairs()) == 2
    assert all(reply in talk.replies["Hi!"] for _, reply in talk.pairs())
