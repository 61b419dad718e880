"""The model and tokenizer a run starts from: an existing one, or a new one with its own vocabulary."""

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

from shared import hub
from shared.checkpoint import load_model, load_tokenizer
from shared.hub import ModelUnavailable

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


def load(source: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a folder or hub id in float32. Raises `ModelError` when weights or the EOS token are missing."""
    try:
        folder = hub.fetch(source, lambda _: None, threading.Event())
        tokenizer = load_tokenizer(folder)
        model = load_model(AutoModelForCausalLM, folder)
    except (ModelUnavailable, OSError, ValueError) as error:
        raise ModelError(f"{source}: cannot be loaded as a causal language model: {error}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{source}: its tokenizer has no EOS token to end a turn with")
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
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model, tokenizer


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
