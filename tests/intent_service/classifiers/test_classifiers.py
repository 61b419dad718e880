import json
import shutil
from pathlib import Path

import pytest

from intent_service import classifiers
from intent_service.classifiers.embedding import EmbeddingClassifier
from intent_service.classifiers.nli import NliClassifier


def test_an_encoder_is_used_by_similarity(tiny_encoder: Path) -> None:
    assert isinstance(classifiers.load(tiny_encoder, "{}"), EmbeddingClassifier)


def test_a_model_with_an_entailment_label_is_used_by_inference(tiny_nli: Path) -> None:
    assert isinstance(classifiers.load(tiny_nli, "{}"), NliClassifier)


@pytest.mark.parametrize(
    ("config", "entails"),
    [
        ({"architectures": ["XForSequenceClassification"], "label2id": {"ENTAILMENT": 0}}, True),
        ({"architectures": ["XForSequenceClassification"], "label2id": {"entail": 0, "not_entail": 1}}, True),
        ({"architectures": ["XForSequenceClassification"], "label2id": {"LABEL_0": 0}}, False),
        (
            {"architectures": ["XModel"], "label2id": {"entailment": 0}},
            False,
        ),  # an encoder made from an NLI model
        ({"architectures": None, "label2id": None}, False),
        ({}, False),
    ],
)
def test_the_kind_follows_from_the_config(tmp_path: Path, config: dict[str, object], entails: bool) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert classifiers.entails(tmp_path) is entails


def test_a_folder_that_is_no_model_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_encoder, folder)
    (folder / "config.json").unlink()
    with pytest.raises((OSError, ValueError)):
        classifiers.load(folder, "{}")
