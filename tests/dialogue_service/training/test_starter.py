"""The starter that ships with Parley: whole, small, with a card, and able to make small talk."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from dialogue_service.training.model import check_saved

STARTER = Path(__file__).parents[3] / "models" / "starter"


@pytest.fixture(scope="module")
def starter() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model = AutoModelForCausalLM.from_pretrained(
        STARTER, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    return model, AutoTokenizer.from_pretrained(STARTER, local_files_only=True)


def test_it_is_whole_and_small() -> None:
    check_saved(STARTER)
    weights = STARTER / "model.safetensors"
    assert weights.stat().st_size < 32 * 1024 * 1024
    assert json.loads((STARTER / "config.json").read_text())["dtype"] == "float16"


def test_its_card_names_its_data_and_its_limits() -> None:
    card = json.loads((STARTER / "card.json").read_text())
    assert card["name"] == "starter"
    assert 5e6 <= card["parameters"] <= 15e6
    assert card["scores"]["after"]["loss"] < card["scores"]["before"]["loss"]
    assert {source["licence"].split(" (")[0] for source in card["sources"]} == {
        "as this repository",
        "MIT",
        "CC BY 4.0",
        "BSD 3-Clause",
        "CDLA-Sharing 1.0",
    }
    assert "stand-in" in card["limits"]
    readme = (STARTER / "README.md").read_text()
    assert all(source["attribution"] in readme for source in card["sources"])


FAREWELL = {"bye", "goodbye", "later", "care", "welcome", "pleasure"}


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        (["Hi!"], {"hello", "hi", "hey"}),
        (["Thank you!"], {"welcome", "pleasure", "time"}),
        (["Goodbye!"], FAREWELL),
        (["Who are you?"], {"parley", "parley's", "model", "program"}),
        (["I feel sad today"], {"sorry", "hard"}),
        (["I like pizza", "Pizza, good choice! Do you make it yourself?", "Thanks, bye"], FAREWELL),
    ],
)
def test_it_can_make_small_talk(
    starter: tuple[PreTrainedModel, PreTrainedTokenizerBase], turns: list[str], words: set[str]
) -> None:
    for reply in sampled(*starter, turns):
        assert words & {word.strip(".,!?").lower() for word in reply.split()}, reply


@pytest.mark.parametrize(
    "turns",
    [
        ["asdkjh"],
        ["ok"],
        ["My train was late"],
        ["?"],
        ["Tell me a joke"] * 9,
        ["no", "Okay, no problem."] * 12,
    ],
)
def test_it_is_never_silent_and_never_loops(
    starter: tuple[PreTrainedModel, PreTrainedTokenizerBase], turns: list[str]
) -> None:
    for reply in sampled(*starter, turns):
        words = reply.split()
        assert words
        assert (
            max(Counter(zip(*(words[start:] for start in range(4)), strict=False)).values(), default=1) == 1
        )


def sampled(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, turns: list[str]) -> list[str]:
    """Sample three seeded replies with the settings saved beside the model."""
    ids = [token for turn in turns for token in (*tokenizer(turn)["input_ids"], tokenizer.eos_token_id)]
    prompt = torch.tensor([ids])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        output = model.generate(prompt, attention_mask=torch.ones_like(prompt), num_return_sequences=3)
    return [tokenizer.decode(row[prompt.shape[1] :], skip_special_tokens=True) for row in output]
