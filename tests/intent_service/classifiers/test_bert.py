"""The lean passes against transformers' own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, DistilBertConfig, DistilBertModel

from intent_service.classifiers.bert import Bert, EightBitBert
from intent_service.classifiers.encoder import SentenceEncoder
from shared import native
from tests.processor import on_able_processors

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


_ROUNDED = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 160, "vocab_size": 40}


def both_of(config: BertConfig) -> tuple[BertModel, EightBitBert]:
    """A random model whose weights are what 8 bits make of them, and its pass with these."""
    torch.manual_seed(0)
    model: Any = BertModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(std=0.3)
            if weight.dim() == 2 and "embeddings" not in name:
                # Queries, keys and values are one matrix, but each row is rounded alone.
                whole, scales = native.rounded(weight)
                weight.copy_(whole * scales)
        used_up = BertModel(config).eval()
        used_up.load_state_dict(model.state_dict())
    eight_bits = EightBitBert.of(used_up)
    assert eight_bits
    return model, eight_bits


def fed_with(lengths: list[int], kinds: bool) -> dict[str, torch.Tensor]:
    """Random texts of these lengths."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    fed = {"input_ids": torch.randint(0, 40, mask.shape) * mask, "attention_mask": mask.long()}
    return fed | ({"token_type_ids": torch.randint(0, 2, mask.shape)} if kinds else {})


@on_able_processors
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("kinds", [True, False])
@pytest.mark.parametrize("lengths", [[1], [5], [16], [33], [7, 1, 40, 16, 3]])
def test_eight_bits_round_the_weights_alone(heads: int, kinds: bool, lengths: list[int]) -> None:
    model, eight_bits = both_of(BertConfig(**_ROUNDED, num_attention_heads=heads))
    fed = fed_with(lengths, kinds)
    told = fed["attention_mask"].bool()
    with torch.inference_mode():
        expected = model(**fed).last_hidden_state
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            torch.testing.assert_close(eight_bits(**fed)[told], expected[told], atol=3e-3, rtol=0)


@on_able_processors
@pytest.mark.usefixtures("threads")
def test_a_text_is_the_same_bits_alone_beside_others_and_with_any_number_of_threads() -> None:
    _, eight_bits = both_of(BertConfig(**_ROUNDED, num_attention_heads=2))
    lengths = [7, 1, 40, 16, 3, 12, 25]
    fed = fed_with(lengths, kinds=True)
    torch.set_num_threads(1)
    together = eight_bits(**fed)
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        for index, length in enumerate(lengths):
            alone = eight_bits(**{name: part[index : index + 1, :length] for name, part in fed.items()})
            assert torch.equal(alone[0], together[index, :length])


@on_able_processors
@pytest.mark.parametrize(
    ("ids", "kinds"), [([[40]], [[0]]), ([[-1]], [[0]]), ([[1]], [[2]]), ([[1] * 9], None)]
)
def test_eight_bits_refuse_what_the_model_does_not_have(ids: list[list[int]], kinds: Any) -> None:
    config = BertConfig(**_ROUNDED, num_attention_heads=2, max_position_embeddings=8)
    _, eight_bits = both_of(config)
    tokens = torch.tensor(ids)
    with pytest.raises(IndexError, match="does not have"):
        eight_bits(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            token_type_ids=torch.tensor(kinds) if kinds else None,
        )


@pytest.mark.parametrize(
    "odd",
    [{"num_attention_heads": 8}, {"num_attention_heads": 2, "intermediate_size": 72}],
    ids=["heads", "wide"],
)
def test_odd_sizes_have_no_eight_bits(odd: dict[str, int]) -> None:
    model = BertModel(BertConfig(**_ROUNDED | odd))
    assert EightBitBert.of(model) is None
    assert len(model.encoder.layer) == 2
