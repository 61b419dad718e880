"""A model loads from its folder, strictly."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from shared.checkpoint import load_model, load_tokenizer
from shared.hub import ModelUnavailable

Checkpoint = Callable[[str], Path]


def _rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    file = folder / "model.safetensors"
    weights = change(load_file(file))
    file.unlink()
    save_file(weights, file, metadata={"format": "pt"})
    return folder


def test_half_precision_becomes_single_in_eval_mode(checkpoint: Checkpoint) -> None:
    folder = checkpoint("half")
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16).save_pretrained(folder)
    assert load_file(folder / "model.safetensors")["transformer.wte.weight"].dtype == torch.float16
    model = load_model(AutoModelForCausalLM, folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training


def test_the_weights_are_those_of_the_file(checkpoint: Checkpoint) -> None:
    folder = checkpoint("exact")
    stored = load_file(folder / "model.safetensors")
    loaded = load_model(AutoModelForCausalLM, folder).state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in stored.items())


def test_a_missing_weight_is_not_made_up(checkpoint: Checkpoint) -> None:
    folder = _rewrite(
        checkpoint("gap"), lambda weights: {k: v for k, v in weights.items() if "h.1.mlp" not in k}
    )
    with pytest.raises(ModelUnavailable, match=r"it lacks \d+ weights that GPT2LMHeadModel needs") as caught:
        load_model(AutoModelForCausalLM, folder)
    assert caught.value.lasting


def test_a_model_of_another_kind_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(ModelUnavailable, match="score"):
        load_model(AutoModelForSequenceClassification, checkpoint("talker"))


def test_a_gap_that_is_declared_harmless_is_not_minded(checkpoint: Checkpoint) -> None:
    load_model(AutoModelForSequenceClassification, checkpoint("talker"), harmless="score")


def test_weights_of_another_size_are_refused(checkpoint: Checkpoint) -> None:
    folder = _rewrite(
        checkpoint("sizes"),
        lambda weights: {k: v[: len(v) // 2].clone() if "wpe" in k else v for k, v in weights.items()},
    )
    with pytest.raises((ModelUnavailable, RuntimeError), match=r"wpe|mismatch"):
        load_model(AutoModelForCausalLM, folder)


def test_a_broken_file_is_refused(checkpoint: Checkpoint) -> None:
    folder = checkpoint("broken")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelUnavailable, match=r"model\.safetensors is broken"):
        load_model(AutoModelForCausalLM, folder)


def test_pickled_weights_are_not_touched(checkpoint: Checkpoint) -> None:
    folder = checkpoint("pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        load_model(AutoModelForCausalLM, folder)


def test_code_that_comes_with_a_model_is_not_run(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder, trace = checkpoint("foreign"), tmp_path / "was-run"
    (folder / "own.py").write_text(f"open({str(trace)!r}, 'w').close()\nclass Own: ...\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_model(AutoModelForCausalLM, folder)
    assert not trace.exists()


def test_the_tokenizer_reads_what_it_writes(checkpoint: Checkpoint) -> None:
    tokenizer = load_tokenizer(checkpoint("words"), padding_side="left")
    assert tokenizer.decode(tokenizer("What is your name?")["input_ids"]) == "What is your name?"
    assert tokenizer.padding_side == "left"


def test_a_tokenizer_that_was_saved_again_is_found(checkpoint: Checkpoint, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(checkpoint("words"))
    tokenizer.save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.json").exists()
    assert load_tokenizer(tmp_path)("What?")["input_ids"] == tokenizer("What?")["input_ids"]


def test_an_empty_tokenizer_is_not_made_up(checkpoint: Checkpoint) -> None:
    folder = checkpoint("mute")
    for file in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (folder / file).unlink()
    with pytest.raises(ModelUnavailable, match="it holds no tokenizer") as caught:
        load_tokenizer(folder)
    assert caught.value.lasting
