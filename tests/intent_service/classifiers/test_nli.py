from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import pipeline

from intent_service.catalog import Catalog
from intent_service.classifiers.nli import BY_HAND, NliClassifier
from intent_service.classifiers.precision import keeps_ranking
from intent_service.settings import IntentSettings
from shared.hub import ModelUnavailable
from tests import checkpoints

TEMPLATE = "This example is {}."
LABELS = ["joke", "weather", "how are you", "sad, happy", "hello"]
TEXTS = ["hello, how are you?", "i am sad", "how " * 500]


@pytest.fixture(scope="module")
def classifier(tiny_nli: Path) -> NliClassifier:
    return NliClassifier.load(tiny_nli, TEMPLATE)


@pytest.fixture(scope="module", params=["bert", "bart", "bart, entailment first"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    make = checkpoints.nli if request.param == "bert" else checkpoints.bart_nli
    labels = ["contradiction", "neutral", "entailment"]
    if "first" in request.param:
        labels.reverse()
    return make(tmp_path_factory.mktemp("nli") / "model", labels)


@pytest.mark.parametrize("labels", [LABELS, LABELS[:1], [f"label {i}" for i in range(100)]])
def test_the_same_as_the_pipeline(folder: Path, labels: list[str]) -> None:
    reference = pipeline("zero-shot-classification", model=str(folder), device="cpu")
    expected = reference(TEXTS, candidate_labels=labels, hypothesis_template=TEMPLATE)
    verdicts = NliClassifier.load(folder, TEMPLATE).classify(TEXTS, Catalog.of(labels))
    for verdict, found in zip(verdicts, expected, strict=True):
        scores = dict(zip(found["labels"], found["scores"], strict=True))
        assert {r.label: r.score for r in verdict.ranking} == pytest.approx(scores, abs=1e-5)
        assert verdict.ranking[0].label == found["labels"][0]


def test_a_message_has_the_same_scores_alone_and_in_any_batch(folder: Path) -> None:
    catalog = Catalog.of(LABELS)
    classifier = NliClassifier.load(folder, TEMPLATE)
    together = classifier.scores([*TEXTS, *(f"{i} of many" for i in range(100))], catalog)
    for index, text in enumerate(TEXTS):
        torch.testing.assert_close(together[index], classifier.scores([text], catalog)[0], atol=1e-5, rtol=0)


def test_eight_bits_keep_the_ranking_or_are_not_used(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "intent_service")
    exact = NliClassifier.load(folder, TEMPLATE)
    small = NliClassifier.load(folder, TEMPLATE, fast=True)
    used = any("quantized" in type(module).__module__ for module in small.model.modules())
    assert used == ("is used" in caplog.text)
    assert used or "is not used" in caplog.text
    before, after = (c.scores(TEXTS, Catalog.of(LABELS)) for c in (exact, small))
    torch.testing.assert_close(before, after, atol=0.1 if used else 1e-6, rtol=0)


def spoil(scores: torch.Tensor) -> torch.Tensor:
    return scores.flip(1)


def nudge(scores: torch.Tensor) -> torch.Tensor:
    return scores + torch.tensor([0.01, -0.01])


def tie(scores: torch.Tensor) -> torch.Tensor:
    return torch.tensor([[0.9, 0.1], [0.49, 0.51]])


@pytest.mark.parametrize(("change", "kept"), [(spoil, False), (nudge, True), (tie, True)])
def test_a_ranking_is_kept_but_for_ties(change: Callable[[torch.Tensor], torch.Tensor], kept: bool) -> None:
    before = torch.tensor([[0.9, 0.1], [0.51, 0.49]])
    assert keeps_ranking(before, change(before)) is kept


def test_a_tokenizer_without_its_fast_form_is_refused(tiny_nli: Path, classifier: NliClassifier) -> None:
    with pytest.raises(ModelUnavailable, match=r"tokenizer\.json"):
        NliClassifier(classifier.model, object(), TEMPLATE)  # type: ignore[arg-type]


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


def test_the_settings_have_the_numbers_chosen_by_hand() -> None:
    fields = IntentSettings.model_fields
    assert (fields["nli_known"].default, fields["nli_lead"].default) == (BY_HAND.known, BY_HAND.lead)


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
