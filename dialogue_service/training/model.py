"""The model and tokenizer a run starts from: an existing one, or a new one with its own vocabulary.

And LoRA around an existing one.
"""

import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
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
SIZES = (
    "vocab_size",
    "max_position_embeddings",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
)
"""What must be given of a new model, by transformers' common names; GPT-2 has its own (n_embd, ...)."""


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


def read_sizes(path: Path) -> PreTrainedConfig:
    """Read the file of `--from-scratch`: settings of a transformers configuration, its `SIZES` among them.

    `model_type` says which architecture they are of; without it they are GPT-2's.
    """
    values = _read_object(path)
    kind = values.pop("model_type", "gpt2")
    if kind not in CONFIG_MAPPING or CONFIG_MAPPING[kind] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(f"{path}: transformers has no causal language model of model_type {kind}")
    _refuse_unknown(path, values, known=CONFIG_MAPPING[kind]().to_dict())
    own = CONFIG_MAPPING[kind].attribute_map
    sizes = {own.get(name, name): values.get(own.get(name, name)) for name in SIZES}
    if not all(type(size) is int and size > 0 for size in sizes.values()):
        raise ModelError(f"{path}: needs the positive whole numbers {', '.join(sizes)}")
    try:
        config: PreTrainedConfig = AutoConfig.for_model(kind, **values)
    except StrictDataclassError as error:
        raise ModelError(f"{path}: {' '.join(str(error).split())}") from error
    if config.hidden_size % config.num_attention_heads:
        width, heads = (own.get(name, name) for name in ("hidden_size", "num_attention_heads"))
        raise ModelError(f"{path}: {width} ({values[width]}) must be a multiple of {heads} ({values[heads]})")
    if config.vocab_size < 257:
        raise ModelError(
            f"{path}: vocab_size must be at least 257, one token per byte and the end-of-text token"
        )
    return config


def read_generation_config(path: Path | None) -> GenerationConfig | None:
    """Read how the model should be sampled; None for no file. Raises `ModelError` for unknown settings."""
    if path is None:
        return None
    values = _read_object(path)
    _refuse_unknown(path, values, known=GenerationConfig.from_dict({}).to_dict())
    return GenerationConfig.from_dict(values)


def create(config: PreTrainedConfig, texts: Iterable[str]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Make a model of this configuration with random weights, and a byte-level BPE vocabulary from `texts`.

    The vocabulary is smaller than asked for when the texts do not hold that many pairs.
    """
    tokenizer = _train_tokenizer(texts, config.vocab_size, config.max_position_embeddings)
    config.vocab_size = len(tokenizer)
    config.bos_token_id = config.eos_token_id = tokenizer.eos_token_id
    config.pad_token_id = None
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return model, tokenizer


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


def _read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path}: must be a JSON object")
    return values


def _refuse_unknown(path: Path, values: dict[str, Any], known: Iterable[str]) -> None:
    if unknown := sorted(values.keys() - set(known)):
        raise ModelError(f"{path}: unknown settings: {', '.join(unknown)}")


def _train_tokenizer(texts: Iterable[str], vocab_size: int, longest: int) -> PreTrainedTokenizerBase:
    bpe = Tokenizer(models.BPE())
    # A word has the same tokens wherever it stands, first in a turn too: it can be found again and copied.
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
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
