from pathlib import Path

import pytest
import torch

from intent_service.catalog import Catalog
from intent_service.classifiers import load
from intent_service.classifiers.calibration import Calibration
from intent_service.classifiers.encoder import SentenceEncoder
from intent_service.classifiers.trained import Head, TrainedClassifier
from shared.hub import ModelUnavailable
from tests.processor import on_able_processors

CALIBRATION = Calibration(scale=20.0, bias=-2.0, best=6.0, lead=3.0, known=0.5)


@pytest.fixture
def head(tiny_encoder: Path) -> Head:
    vectors = SentenceEncoder.load(tiny_encoder).encode(["weather", "joke", "sad"])
    return Head(("a", "b", "c"), vectors, None, CALIBRATION)


def test_what_is_saved_is_loaded(head: Head, tmp_path: Path, tiny_encoder: Path) -> None:
    learned = Head(head.labels, head.weights, torch.ones(16), CALIBRATION)
    learned.save(tmp_path, str(tiny_encoder))
    loaded = Head.load(tmp_path)
    assert (loaded.labels, loaded.calibration) == (learned.labels, CALIBRATION)
    assert torch.equal(loaded.weights, learned.weights)
    assert loaded.none is not None
    assert torch.equal(loaded.none, torch.ones(16))
    classifier = load(tmp_path, "{}")
    assert isinstance(classifier, TrainedClassifier)


def test_the_head_ranks_the_labels_it_was_trained_for(head: Head, tiny_encoder: Path) -> None:
    classifier = TrainedClassifier(SentenceEncoder.load(tiny_encoder), head)
    verdicts = classifier.classify(["joke", "weather"], Catalog.of(["a", "b", "c"]))
    assert [verdict.ranking[0].label for verdict in verdicts] == ["b", "a"]
    assert classifier.classify(["joke"], Catalog.of(["a", "b", "c"]))[0].ranking[0].label == "b"


def test_a_catalogue_may_have_fewer_labels(head: Head, tiny_encoder: Path) -> None:
    classifier = TrainedClassifier(SentenceEncoder.load(tiny_encoder), head)
    ranking = classifier.classify(["joke"], Catalog.of(["c", "a"]))[0].ranking
    assert sorted(ranked.label for ranked in ranking) == ["a", "c"]


def test_labels_it_has_not_learned_are_ranked_by_similarity(head: Head, tiny_encoder: Path) -> None:
    classifier = TrainedClassifier(SentenceEncoder.load(tiny_encoder), head)
    ranking = classifier.classify(["joke"], Catalog.of(["a", "joke"]))[0].ranking
    assert ranking[0].label == "joke"


def test_a_head_that_lacks_rows_is_refused(head: Head, tmp_path: Path, tiny_encoder: Path) -> None:
    Head(("a", "b"), head.weights, None, CALIBRATION).save(tmp_path, str(tiny_encoder))
    with pytest.raises(ModelUnavailable, match="3 rows for 2 labels"):
        Head.load(tmp_path)


@on_able_processors
def test_it_computes_with_fewer_bits_too(minilm: Path, tmp_path: Path) -> None:
    Head(("a", "b"), torch.eye(2, 384), None, CALIBRATION).save(tmp_path, str(minilm))
    assert load(tmp_path, "{}", fast=True).dtype == "int8"
    assert load(tmp_path, "{}").dtype == "float32"
