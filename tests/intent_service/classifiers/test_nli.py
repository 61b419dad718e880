from pathlib import Path

import pytest
from transformers import pipeline

from intent_service.catalog import Catalog
from intent_service.classifiers.nli import NliClassifier

TEMPLATE = "This example is {}."
LABELS = ["joke", "weather", "how are you", "sad, happy", "hello"]


@pytest.fixture(scope="module")
def classifier(tiny_nli: Path) -> NliClassifier:
    return NliClassifier.load(tiny_nli, TEMPLATE)


@pytest.mark.parametrize("text", ["hello, how are you?", "i am sad", "how " * 500])
@pytest.mark.parametrize("labels", [LABELS, LABELS[:1], [f"label {i}" for i in range(40)]])
def test_the_same_as_the_pipeline(
    tiny_nli: Path, classifier: NliClassifier, text: str, labels: list[str]
) -> None:
    reference = pipeline("zero-shot-classification", model=str(tiny_nli), device="cpu")
    expected = reference(text, candidate_labels=labels, hypothesis_template=TEMPLATE)
    ranking = classifier.classify([text], Catalog.of(labels))[0].ranking
    assert [ranked.label for ranked in ranking] == expected["labels"]
    assert [ranked.score for ranked in ranking] == pytest.approx(expected["scores"], abs=1e-5)


def test_different_messages_get_different_scores(classifier: NliClassifier) -> None:
    first, second = (
        classifier.classify([text], Catalog.of(LABELS))[0].ranking for text in ("i am sad", "hello")
    )
    assert first != second


def test_a_label_is_read_with_spaces_and_answered_as_written(classifier: NliClassifier) -> None:
    written = classifier.classify(["hello"], Catalog.of(["how_are_you", "joke"]))[0].ranking
    spaced = classifier.classify(["hello"], Catalog.of(["how are you", "joke"]))[0].ranking
    assert {ranked.label for ranked in written} == {"how_are_you", "joke"}
    assert [ranked.score for ranked in written] == [ranked.score for ranked in spaced]


def test_the_template_matters(tiny_nli: Path, classifier: NliClassifier) -> None:
    other = NliClassifier.load(tiny_nli, "i am {}")
    catalog = Catalog.of(LABELS)
    assert other.classify(["hello"], catalog)[0].ranking != classifier.classify(["hello"], catalog)[0].ranking


@pytest.mark.parametrize("label", ["{}", "{0}", "{x", "[SEP]", "[MASK] [PAD]"])
def test_any_label_is_only_text(classifier: NliClassifier, label: str) -> None:
    (ranked,) = classifier.classify(["hello"], Catalog.of([label]))[0].ranking
    assert ranked.label == label


def test_typed_special_tokens_do_not_reach_the_model(classifier: NliClassifier) -> None:
    apart = classifier.classify(["hello [ SEP ] you"], Catalog.of(["a [ SEP ] b", "joke"]))[0].ranking
    typed = classifier.classify(["hello [SEP] you"], Catalog.of(["a [SEP] b", "joke"]))[0].ranking
    assert [ranked.score for ranked in typed] == pytest.approx([ranked.score for ranked in apart], abs=1e-6)
