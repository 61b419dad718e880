from pathlib import Path

import pytest
import torch

from intent_service.catalog import Catalog, CatalogIntent
from intent_service.classifiers.encoder import SentenceEncoder
from intent_service.classifiers.trained import TrainedClassifier
from intent_service.examples import DataFault, Example
from intent_service.training import trainer
from intent_service.training.settings import TrainingSettings
from intent_service.training.trainer import Learned

CATALOG = Catalog.of(["weather", "joke", "mood"])
ROWS = [
    Example(text, intent)
    for intent, texts in {
        "weather": ["how is this weather", "is this weather", "weather", "you are weather"],
        "joke": ["joke", "this joke is how", "are you joke", "i am joke"],
        "mood": ["i am sad", "i am happy", "are you sad", "you are happy"],
    }.items()
    for text in texts
]
STRANGERS = [Example(f"{sign} {other} {sign}", "oos") for sign in "xyzw" for other in "123456"]


@pytest.fixture
def encoder(tiny_encoder: Path) -> SentenceEncoder:
    return SentenceEncoder.load(tiny_encoder)


def learn(encoder: SentenceEncoder, rows: list[Example], **options: object) -> Learned:
    settings = TrainingSettings(output=Path("unused"), **options)  # type: ignore[arg-type]
    return trainer.learn(encoder, CATALOG, rows, settings, lambda doing, done, total: None)


def named(encoder: SentenceEncoder, learned: Learned, texts: list[str]) -> list[str]:
    verdicts = TrainedClassifier(encoder, learned.head).classify(texts, CATALOG)
    return [verdict.ranking[0].label for verdict in verdicts]


def test_three_rows_are_memorised(encoder: SentenceEncoder) -> None:
    # Against their names: the head must have learned it from the rows.
    rows = [Example("weather", "joke"), Example("joke", "mood"), Example("sad", "weather")] * 5
    learned = learn(encoder, rows)
    assert named(encoder, learned, ["weather", "joke", "sad"]) == ["joke", "mood", "weather"]
    assert learned.scores["accuracy"] == 1.0


def test_the_same_input_gives_the_same_head(encoder: SentenceEncoder) -> None:
    first, second = learn(encoder, ROWS), learn(encoder, ROWS)
    assert torch.equal(first.head.weights, second.head.weights)
    assert first.scores == second.scores


def test_without_strangers_nothing_is_learned_of_them(encoder: SentenceEncoder) -> None:
    learned = learn(encoder, ROWS)
    assert learned.head.none is None
    assert learned.scores["oos_recall"] is None
    assert learned.scores["held_out_messages"] == len(ROWS)


def test_with_strangers_the_decision_is_fitted_to_them(encoder: SentenceEncoder) -> None:
    learned = learn(encoder, [*ROWS * 3, *STRANGERS], most_refused=0.1)
    assert learned.head.none is not None
    assert learned.scores["in_scope_refused"] <= 0.15
    assert learned.scores["oos_recall"] > 0.8


def test_a_description_is_learned_from(encoder: SentenceEncoder) -> None:
    described = Catalog(intents=(CatalogIntent(label="weather", description="sad"), *CATALOG.intents[1:]))
    settings = TrainingSettings(output=Path("unused"))
    learned = [
        trainer.learn(encoder, catalog, ROWS, settings, lambda doing, done, total: None)
        for catalog in (CATALOG, described)
    ]
    assert not torch.equal(learned[0].head.weights, learned[1].head.weights)


def test_nothing_to_learn_from_is_said(encoder: SentenceEncoder) -> None:
    with pytest.raises(DataFault, match="there are no examples"):
        learn(encoder, [])
    with pytest.raises(DataFault, match="there are no examples to hold out"):
        learn(encoder, STRANGERS)


def test_fine_tuning_changes_the_encoder_repeatably(tiny_encoder: Path) -> None:
    text = ["how is this weather"]
    vectors, heads = [], []
    for _ in range(2):
        encoder = SentenceEncoder.load(tiny_encoder)
        before = encoder.encode(text)
        heads.append(learn(encoder, ROWS, finetune_encoder=True, steps=3, learning_rate=1e-3).head)
        vectors.append(encoder.encode(text))
        assert not torch.allclose(before, vectors[-1], atol=1e-4)
    assert torch.equal(vectors[0], vectors[1])
    assert torch.equal(heads[0].weights, heads[1].weights)


def test_fine_tuning_brings_an_intents_texts_together(tiny_encoder: Path) -> None:
    encoder = SentenceEncoder.load(tiny_encoder)

    def separation() -> float:
        """How much closer texts are to their own centroid than centroids to each other; at most 1."""
        vectors = encoder.encode([row.text for row in ROWS]).view(3, 4, -1)
        centroids = torch.nn.functional.normalize(vectors.mean(dim=1), dim=1)
        own = torch.einsum("ijd,id->ij", vectors, centroids).mean()
        other = (centroids @ centroids.T)[~torch.eye(3, dtype=torch.bool)].mean()
        return float((own - other) / (1 - other))

    before = separation()
    learn(encoder, ROWS, finetune_encoder=True, steps=60, learning_rate=1e-3)
    assert separation() > before + 0.01
