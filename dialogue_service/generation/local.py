"""A Hugging Face causal language model on this machine."""

import asyncio
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from dialogue_service import prompt
from dialogue_service.generation import OnText, int8
from dialogue_service.generation.decoding import Blank
from dialogue_service.generation.engine import Engine
from dialogue_service.generation.job import Job, Speaker, on_loop
from dialogue_service.generation.packed import PackedModel
from dialogue_service.generation.sampling import Sampling
from shared.checkpoint import load_model, load_tokenizer
from shared.hub import ModelUnavailable

_WARM_UP_S = 300.0
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class LocalGenerator:
    """Samples replies with an engine of its own; see Generator."""

    def __init__(
        self,
        folder: Path,
        *,
        context_tokens: int,
        reply_tokens: int,
        candidates: int = 1,
        dtype: str = "auto",
        queue: int = 32,
        cache_mb: int = 512,
    ) -> None:
        """Load the model in `folder`. Raises ModelUnavailable, or whatever a broken folder makes it raise.

        dtype: auto, fp32, int8, bf16 or fp16; `queue`: replies that may wait; `cache_mb`: megabytes (10**6)
        for what was computed for earlier prompts.
        """
        model = load_model(AutoModelForCausalLM, folder)
        tokenizer = load_tokenizer(folder)
        if tokenizer.eos_token_id is None:
            raise ModelUnavailable(
                "it has no EOS token", "Set eos_token in its tokenizer_config.json.", lasting=True
            )
        window = _window(model.config, context_tokens, reply_tokens)
        end_ids = _end_ids(model, tokenizer)
        sampling = Sampling.of(model.generation_config, end_ids)
        packed = PackedModel(_placed(model, dtype))
        with torch.inference_mode():
            blank = Blank.read(packed, prompt.blank(tokenizer))
        self._speaker = Speaker(
            tokenizer=tokenizer,
            window=window,
            reply_tokens=reply_tokens,
            candidates=candidates,
            end_ids=end_ids,
            blank=blank,
            like=packed.like,
        )
        self._engine = Engine(packed, sampling, queue=queue, cache_bytes=cache_mb * 10**6)
        weakref.finalize(self, self._engine.stop).atexit = False

    async def reply(
        self, turns: Sequence[str], *, seed: int | None = None, on_text: OnText | None = None
    ) -> str:
        """Sample the next turn; see Generator."""
        shown = on_loop(asyncio.get_running_loop(), on_text) if on_text else None
        job = Job(self._speaker, turns, seed, shown)
        self._engine.submit(job)
        return await asyncio.wrap_future(job.reply)

    def warm_up(self) -> None:
        """One real reply."""
        job = Job(self._speaker, ["Hello!"], None, None)
        self._engine.submit(job)
        job.reply.result(_WARM_UP_S)


def _placed(model: Any, dtype: str) -> Any:
    """The model where and in the precision in which it shall compute."""
    if torch.cuda.is_available() and dtype != "int8":
        half = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        return model.to("cuda", _DTYPES[half if dtype == "auto" else dtype])
    if dtype == "int8" and not int8.supported():
        raise ModelUnavailable(
            "this processor or this build of torch has no 8-bit products",
            "Set DIALOGUE_DTYPE=fp32.",
            lasting=True,
        )
    if dtype == "int8" or (dtype == "auto" and int8.supported()):
        int8.quantize(model)
    else:
        model.to(_DTYPES["fp32" if dtype == "auto" else dtype])
    int8.lighten(model)
    for parameter in model.parameters():
        # The loaded ones are views of the mapped file, any of which would keep all of it in memory.
        parameter.data = parameter.data.clone()
    return model


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    own = model.generation_config.eos_token_id
    ends = own if isinstance(own, list) else [] if own is None else [own]
    return frozenset({tokenizer.eos_token_id, *ends})


def _window(config: Any, context_tokens: int, reply_tokens: int) -> int:
    """Tokens that a prompt may have."""
    positions = getattr(config, "max_position_embeddings", None) or context_tokens + reply_tokens
    sliding = getattr(config, "sliding_window", None) if _slides(config) else None
    window = min(context_tokens, min(positions, sliding or positions) - reply_tokens)
    if window < 1:
        raise ModelUnavailable(
            f"it has {positions} positions, too few for replies of {reply_tokens} tokens",
            "Set DIALOGUE_REPLY_TOKENS lower, or name another model.",
            lasting=True,
        )
    return window


def _slides(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None)
    return any("sliding" in kind for kind in kinds) if kinds else getattr(config, "use_sliding_window", True)
