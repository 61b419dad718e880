"""The model and tokenizer a run starts from: an existing one, or a new GPT-2 with its own vocabulary.

And LoRA around an existing one.
"""

import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.pytorch_utils import Conv1D

from dialogue_service.settings import DialogueSettings
from shared import hub
from shared.checkpoint import load_model, load_tokenizer
from shared.hub import ModelUnavailable
from shared.registry import CONFIGURED, Registry

END_OF_TEXT = "<|endoftext|>"
SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")


class ModelError(ValueError):
    """The model to start from, or the one just saved, cannot be used."""


def in_service(settings: DialogueSettings) -> tuple[str, str | None]:
    """The model that the dialogue service talks with, as folder or hub id, and its revision.

    That is the version that was activated, else DIALOGUE_MODEL if it is on this disk, else the stand-in.
    Raises `ModelError` when it is not here.
    """
    registry = Registry(settings.registry)
    try:
        active = registry.pointer().active
        if active != CONFIGURED:
            return str(registry.folder(active)), None
    except ModelUnavailable as error:
        raise ModelError(f"the active version: {error} Or name a model: --model") from error
    if settings.generator_url:
        raise ModelError("the model in service runs on a model server: name one to train with --model")
    if settings.model and hub.on_disk(settings.model, settings.revision):
        return settings.model, settings.revision
    if not settings.standin:
        raise ModelError(f"{settings.model} has not been fetched yet: name a model to train with --model")
    return settings.standin, None


def folder_of(source: str, revision: str | None = None) -> Path:
    """Where a folder or hub id lies on this disk. Raises `ModelError` when it cannot be had."""
    try:
        return hub.fetch(source, lambda _: None, threading.Event(), revision)
    except (ModelUnavailable, OSError) as error:
        raise ModelError(f"{source}: cannot be loaded as a causal language model: {error}") from error


def load(source: str, revision: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a folder or hub id in float32. Raises `ModelError` when it cannot be had or trained."""
    folder = folder_of(source, revision)
    try:
        tokenizer = load_tokenizer(folder)
        model = load_model(AutoModelForCausalLM, folder)
    except (ModelUnavailable, OSError, ValueError) as error:
        raise ModelError(f"{source}: cannot be loaded as a causal language model: {error}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{source}: its tokenizer has no EOS token to end a turn with")
    if tokenizer.chat_template is not None:
        raise ModelError(f"{source}: it talks by a chat template, and only DialoGPT's format can be trained")
    return model, tokenizer


def read_sizes(path: Path) -> dict[str, Any]:
    """Read the file of `--from-scratch`: the `SIZES`, and optionally other settings of a `GPT2Config`."""
    sizes = _read_object(path, known=GPT2Config().to_dict())
    if not all(type(sizes.get(name)) is int and sizes[name] > 0 for name in SIZES):
        raise ModelError(f"{path}: needs the positive whole numbers {', '.join(SIZES)}")
    if sizes["n_embd"] % sizes["n_head"]:
        raise ModelError(
            f"{path}: n_embd ({sizes['n_embd']}) must be a multiple of n_head ({sizes['n_head']})"
        )
    if sizes["vocab_size"] < 257:
        raise ModelError(
            f"{path}: vocab_size must be at least 257, one token per byte and the end-of-text token"
        )
    return sizes


def read_generation_config(path: Path | None) -> GenerationConfig | None:
    """Read how the model should be sampled; None for no file. Raises `ModelError` for unknown settings."""
    if path is None:
        return None
    return GenerationConfig.from_dict(_read_object(path, known=GenerationConfig.from_dict({}).to_dict()))


def create(sizes: dict[str, Any], texts: Iterable[str]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Make a GPT-2 of these sizes with random weights, and a byte-level BPE vocabulary learned from `texts`.

    The vocabulary is smaller than asked for when the texts do not hold that many pairs.
    """
    tokenizer = _train_tokenizer(texts, sizes["vocab_size"], sizes["n_positions"])
    end = tokenizer.eos_token_id
    config = GPT2Config(**{**sizes, "vocab_size": len(tokenizer), "bos_token_id": end, "eos_token_id": end})
    return GPT2LMHeadModel(config), tokenizer


def with_lora(model: PreTrainedModel, rank: int) -> Any:
    """A PeftModel around the model, with matrices of `rank` to learn beside all its linear layers."""
    from peft import LoraConfig, get_peft_model  # takes seconds, and few ask for it

    conv1d = any(isinstance(module, Conv1D) for module in model.modules())  # GPT-2's, the other way round
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        fan_in_fan_out=conv1d,
    )
    return get_peft_model(model, config)


def check_saved(folder: Path) -> None:
    """Raise `ModelError` unless `folder` loads as it will be served: whole and finite."""
    try:
        model = load_model(AutoModelForCausalLM, folder)
    except ModelUnavailable as error:
        raise ModelError(f"{folder}: {error}") from error
    if infinite := [name for name, weights in model.named_parameters() if not torch.isfinite(weights).all()]:
        raise ModelError(f"{folder}: not finite: {', '.join(infinite)}; try --save-dtype fp32")


def _read_object(path: Path, known: Iterable[str]) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path}: must be a JSON object")
    if unknown := sorted(values.keys() - set(known)):
        raise ModelError(f"{path}: unknown settings: {', '.join(unknown)}")
    return values


def _train_tokenizer(texts: Iterable[str], vocab_size: int, longest: int) -> PreTrainedTokenizerBase:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, model_max_length=longest
    )
