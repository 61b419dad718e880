"""Learning from thumbs what is liked."""

from pathlib import Path

from dialogue_service.generation.preference import FILE, Preference
from dialogue_service.training import preference
from dialogue_service.training.data import Thumb
from dialogue_service.training.model import load
from dialogue_service.training.trainer import run
from tests.dialogue_service.training.conftest import Tune

WORDS = ("hello", "thanks", "bye", "friend", "soon", "welcome", "there", "see")


def taste(count: int, first: int = 0) -> list[Thumb]:
    """For replies that end in "you", whatever comes before."""
    return [
        Thumb(
            (
                WORDS[n % 8],
                f"{WORDS[n // 8 % 8]} {WORDS[n % 7]} {'you' if n % 3 else WORDS[n % 5]}",
            ),
            bool(n % 3),
            f"{n}-1",
        )
        for n in range(first, first + count)
    ]


def test_a_taste_is_learned_from_dozens_of_votes(base: Path) -> None:
    model, tokenizer = load(str(base))
    line = preference.fit(model, tokenizer, taste(60), 64)
    unseen = taste(60, first=100)
    learned = preference.agreement(model, tokenizer, line, unseen, 64)
    before = preference.agreement(model, tokenizer, None, unseen, 64)
    assert before is not None
    assert learned is not None
    assert before < 0.8
    assert learned > 0.95


def test_it_is_learned_the_same_again(base: Path) -> None:
    model, tokenizer = load(str(base))
    one, same = (preference.fit(model, tokenizer, taste(60), 64) for _ in range(2))
    assert one
    assert same
    assert (one.weights == same.weights).all()
    assert one.bias == same.bias


def test_from_thumbs_of_one_kind_nothing_is_learned(base: Path) -> None:
    model, tokenizer = load(str(base))
    up = [thumb for thumb in taste(60) if thumb.up]
    down = [thumb for thumb in taste(60) if not thumb.up]
    assert preference.fit(model, tokenizer, [*up, *down[:4]], 64) is None
    assert preference.fit(model, tokenizer, [*up, *down[:5]], 64) is not None
    assert preference.fit(model, tokenizer, [], 64) is None


def test_without_one_the_more_probable_reply_ranks_higher(base: Path) -> None:
    model, tokenizer = load(str(base))
    known, odd = ("hello", "hi there friend"), ("hello", "qzx qzx")
    right = [Thumb(known, True, "1-1"), Thumb(odd, False, "2-1")]
    wrong = [Thumb(known, False, "1-1"), Thumb(odd, True, "2-1")]

    def agreement(thumbs: list[Thumb]) -> float | None:
        return preference.agreement(model, tokenizer, None, thumbs, 32)

    assert agreement(right) == 1.0
    assert agreement(wrong) == 0.0
    assert agreement([*right, *wrong]) == 0.5
    assert agreement(right[:1]) is None


def test_a_version_brings_it_along_and_the_next_one_is_compared_with_it(tune: Tune) -> None:
    run(tune("first"))
    folder = tune("first").output
    assert folder
    model, _ = load(str(folder))
    assert Preference.load(folder, model)
    card = run(tune("second", model=str(folder)))
    assert card["scores"]["before"]["agreement"] > 0.95
    (folder / FILE).unlink()
    assert run(tune("third", model=str(folder)))["scores"]["before"]["agreement"] > 0.5
