"""A Hugging Face causal language model on this machine."""

import asyncio
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dialogue_service import prompt
from dialogue_service.generation import OnText, precision
from dialogue_service.generation.decoding import Blank
from dialogue_service.generation.engine import Engine
from dialogue_service.generation.job import Job, Speaker, on_loop
from dialogue_service.generation.packed import PackedModel
from dialogue_service.generation.preference import Preference
from dialogue_service.generation.sampling import Sampling
from shared.checkpoint import load_tokenizer
from shared.hub import ModelUnavailable

_WARM_UP_S, _WARM_UP_TOKENS = 300.0, 8


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
        model = precision.load(folder, dtype)
        self.dtype = precision.name_of(model)
        tokenizer = load_tokenizer(folder)
        if tokenizer.eos_token_id is None:
            raise ModelUnavailable(
                "it has no EOS token", "Set eos_token in its tokenizer_config.json.", lasting=True
            )
        window = _window(model.config, context_tokens, reply_tokens)
        end_ids = _end_ids(model, tokenizer)
        sampling = Sampling.of(model.generation_config, end_ids)
        preference = Preference.load(folder, model)
        packed = PackedModel(model, preference)
        with torch.inference_mode():
            blank = Blank.read(packed, prompt.blank(tokenizer))
        self._speaker = Speaker(
            tokenizer=tokenizer,
            ids_of=prompt.plain(tokenizer),
            window=window,
            reply_tokens=reply_tokens,
            candidates=candidates,
            end_ids=end_ids,
            blank=blank,
            like=packed.like,
            preference=preference,
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
        """One real reply, only shorter."""
        job = Job(replace(self._speaker, reply_tokens=_WARM_UP_TOKENS), ["Hello!"], None, None)
        self._engine.submit(job)
        job.reply.result(_WARM_UP_S)


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
