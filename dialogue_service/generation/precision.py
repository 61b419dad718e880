"""Loads a causal language model to where, and in the precision in which, it computes fastest here."""

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from dialogue_service.generation import int8
from shared import allocator, native
from shared.checkpoint import load_model
from shared.hub import ModelUnavailable

logger = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load(folder: Path, dtype: str) -> Any:
    """The model in `folder` as fp32, int8, bf16 or fp16; auto is half precision on a GPU and int8 without
    one.

    int8 is for processors, also where there is a GPU. Raises ModelUnavailable, or whatever a broken folder
    makes transformers raise.
    """
    if torch.cuda.is_available() and dtype != "int8":
        half = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        dtype = half if dtype == "auto" else dtype
        return load_model(AutoModelForCausalLM, folder, dtype=_DTYPES[dtype]).cuda()
    if dtype == "int8" and not int8.supported():
        raise ModelUnavailable(
            "this processor or this build of torch has no 8-bit products",
            "Set DIALOGUE_DTYPE=fp32.",
            lasting=True,
        )
    if dtype == "int8" or (dtype == "auto" and int8.supported()):
        model = load_model(AutoModelForCausalLM, folder, dtype="auto")
        int8.quantize(model)
        if advice := native.advice():
            logger.warning(advice)
    else:
        model = load_model(AutoModelForCausalLM, folder, dtype=_DTYPES["fp32" if dtype == "auto" else dtype])
    int8.lighten(model)
    for parameter in model.parameters():
        # The loaded ones are views of the mapped file, any of which would keep all of it in memory.
        parameter.data = parameter.data.clone()
    allocator.give_back()
    return model


def name_of(model: Any) -> str:
    """What the layers of a loaded model compute with."""
    if any(isinstance(module, int8.Int8Linear) for module in model.modules()):
        return "int8"
    return str(model.dtype).removeprefix("torch.")
