"""The lean pass against transformers' own."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, DistilBertConfig, DistilBertModel

from intent_service.classifiers.bert import Bert
from intent_service.classifiers.encoder import SentenceEncoder

_SMALL = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXTS = ["How are you?", "I had a terrible day, and then it rained.", "ok", "word " * 100]


@pytest.fixture(scope="module")
def model(minilm: Path) -> BertModel:
    return AutoModel.from_pretrained(minilm).eval()


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1], TEXTS[2:3]])
@pytest.mark.parametrize("kinds", [True, False])
def test_it_is_what_transformers_computes(
    minilm: Path, model: BertModel, texts: list[str], kinds: bool
) -> None:
    fed = AutoTokenizer.from_pretrained(minilm)(texts, padding=True, return_tensors="pt")
    if kinds:
        fed["token_type_ids"] = fed["input_ids"] % 2
    else:
        del fed["token_type_ids"]
    lean = Bert.of(model)
    assert lean
    with torch.inference_mode():
        expected, made = model(**fed).last_hidden_state, lean(**fed)
    told = fed["attention_mask"].bool()
    torch.testing.assert_close(made[told], expected[told], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "other",
    [
        BertModel(BertConfig(**_SMALL, is_decoder=True)),
        BertModel(BertConfig(**_SMALL, hidden_act="relu")),
        DistilBertModel(DistilBertConfig(vocab_size=9, dim=8, n_layers=1, n_heads=2, hidden_dim=8)),
    ],
    ids=["decoder", "relu", "distilbert"],
)
def test_another_architecture_computes_by_its_own_code(other: torch.nn.Module) -> None:
    assert Bert.of(other) is None


def test_it_sees_what_training_changed(minilm: Path) -> None:
    encoder = SentenceEncoder.load(minilm)
    before = encoder.encode(TEXTS)
    weights = encoder.start_training()
    with torch.no_grad():
        for weight in weights:
            weight.mul_(0.9)
    encoder.end_training()
    after = encoder.encode(TEXTS)
    encoder._lean = None
    torch.testing.assert_close(after, encoder.encode(TEXTS), atol=1e-5, rtol=0)
    assert (after - before).abs().max() > 1e-3
