import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config

from dialogue_service.settings import DialogueSettings
from dialogue_service.training.model import (
    ModelError,
    check_saved,
    create,
    in_service,
    load,
    read_generation_config,
    read_sizes,
)
from shared.registry import Pointer, Registry
from shared.settings import load as load_settings

SIZES = {"vocab_size": 280, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "saved"
    for part in create(GPT2Config(**SIZES), ["hello there"]):
        part.save_pretrained(folder)
    return folder


def test_a_new_model_has_the_sizes_and_one_token_for_each_byte(saved: Path) -> None:
    model, tokenizer = load(str(saved))
    assert (model.config.n_layer, model.config.n_embd, model.config.n_positions) == (1, 8, 16)
    assert model.config.vocab_size == len(tokenizer)
    text = "caf\u00e9 \u2603 hello"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.eos_token_id == model.config.eos_token_id


def test_missing_weights_are_refused(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    del weights["transformer.ln_f.weight"]
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"ln_f\.weight"):
        load(str(saved))
    with pytest.raises(ModelError, match=r"ln_f\.weight"):
        check_saved(saved)


def test_weights_that_are_not_finite_are_refused(saved: Path) -> None:
    check_saved(saved)
    weights = load_file(saved / "model.safetensors")
    weights["transformer.ln_f.weight"] = torch.full_like(weights["transformer.ln_f.weight"], float("inf"))
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="not finite"):
        check_saved(saved)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(str(tmp_path))


def test_a_model_name_that_is_neither_folder_nor_hub_id_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        load("no/such/folder")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "not JSON"),
        ("[]", "must be a JSON object"),
        ({"n_head": 3}, "multiple of n_head"),
        ({"n_layer": 0}, "positive whole numbers"),
        ({"n_layer": 1.5}, "positive whole numbers"),
        ({"layers": 3}, "unknown settings: layers"),
        ({"vocab_size": 100}, "at least 257"),
        ({"model_type": "nothing"}, "no causal language model of model_type nothing"),
        ({"model_type": "t5"}, "no causal language model of model_type t5"),
        ({"model_type": "llama"}, "unknown settings: n_embd, n_head, n_layer, n_positions"),
        ({"embd_pdrop": "much"}, "embd_pdrop"),
    ],
)
def test_bad_sizes_are_named(tmp_path: Path, content: str | dict[str, Any], problem: str) -> None:
    path = tmp_path / "sizes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(SIZES | content))
    with pytest.raises(ModelError) as caught:
        read_sizes(path)
    assert problem in str(caught.value)


def test_any_architecture_can_be_made(tmp_path: Path) -> None:
    sizes = {
        "model_type": "qwen2",
        "vocab_size": 280,
        "max_position_embeddings": 16,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    path = tmp_path / "sizes.json"
    path.write_text(json.dumps(sizes))
    model, tokenizer = create(read_sizes(path), ["hello there"])
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert model.config.eos_token_id == tokenizer.eos_token_id


def test_a_word_has_the_same_tokens_wherever_it_stands() -> None:
    _, tokenizer = create(GPT2Config(**SIZES), ["hello there"])
    first, later = tokenizer("Zalko")["input_ids"], tokenizer("I'm Zalko")["input_ids"]
    assert later[-len(first) :] == first


def test_generation_settings_are_read_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "generation.json"
    path.write_text('{"do_sample": true, "temperature": 0.5}')
    config = read_generation_config(path)
    assert config is not None
    assert config.temperature == 0.5
    path.write_text('{"temprature": 0.5}')
    with pytest.raises(ModelError, match="temprature"):
        read_generation_config(path)


def in_service_with(monkeypatch: pytest.MonkeyPatch, **variables: object) -> tuple[str, str | None]:
    for name, value in variables.items():
        monkeypatch.setenv(f"DIALOGUE_{name}", str(value))
    return in_service(load_settings(DialogueSettings))


def test_training_begins_with_the_model_in_service(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = tmp_path / "versions"
    own = {"REGISTRY": versions, "STANDIN": saved, "MODEL": "no/such-model"}
    assert in_service_with(monkeypatch, **own) == (str(saved), None), "it was never fetched"
    assert in_service_with(monkeypatch, MODEL=saved, STANDIN="") == (str(saved), None)
    with pytest.raises(ModelError, match="has not been fetched"):
        in_service_with(monkeypatch, MODEL="no/such-model")
    registry = Registry(versions)
    with registry.saving("first", kind="model", parent=None, scores={}) as folder:
        shutil.copytree(saved, folder, dirs_exist_ok=True)
    registry.point(Pointer(active="first"))
    assert in_service_with(monkeypatch) == (str(versions / "first"), None)
    (versions / "first" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="not as it was saved"):
        in_service_with(monkeypatch)


def test_a_model_on_a_server_cannot_be_trained(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="--model"):
        in_service_with(monkeypatch, GENERATOR_URL="http://127.0.0.1:9", MODEL="x", REGISTRY=saved / "none")
