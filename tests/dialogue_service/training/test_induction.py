import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig, PreTrainedModel

from dialogue_service.training.induction import plant
from dialogue_service.training.model import ModelError

LLAMA = {
    "vocab_size": 600,
    "hidden_size": 256,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
    "attention_bias": True,
}


def made(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model.train(False)


def copied(model: PreTrainedModel) -> float:
    """The share of right guesses in the second half of random tokens that are said twice."""
    torch.manual_seed(1)
    once = torch.stack([torch.randperm(600)[:30] for _ in range(8)])
    twice = torch.cat([once, once], 1)
    with torch.no_grad():
        guesses = model(input_ids=twice).logits.argmax(-1)
    return float((guesses[:, 30:-1] == twice[:, 31:]).float().mean())


def test_a_model_copies_what_it_was_never_taught() -> None:
    model = made(LlamaConfig(**LLAMA))
    assert copied(model) < 0.1
    plant(model)
    assert copied(model) > 0.8


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(n_embd=8, n_layer=2, n_head=1),
        LlamaConfig(**LLAMA | {"attention_bias": False}),
        LlamaConfig(**LLAMA | {"num_hidden_layers": 1}),
        LlamaConfig(**LLAMA | {"num_key_value_heads": 1}),
        LlamaConfig(**LLAMA | {"num_attention_heads": 1, "num_key_value_heads": 1}),
    ],
)
def test_where_there_is_no_room_nothing_is_planted(config: PreTrainedConfig) -> None:
    model = made(config)
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    with pytest.raises(ModelError):
        plant(model)
    assert all(torch.equal(weights, before[name]) for name, weights in model.state_dict().items())
