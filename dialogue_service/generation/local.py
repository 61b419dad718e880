"""A Hugging Face causal language model on this machine."""

import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteriaList,
)

from dialogue_service import prompt
from dialogue_service.generation import OnText
from shared.checkpoint import load_model, load_tokenizer
from shared.hub import ModelUnavailable
from shared.problems import EmptyReply
from shared.worker import Worker

_ATTEMPTS = 3
_NO_REPEAT_NGRAM = 4
# Used where the model's own generation_config.json says nothing.
_SAMPLING = {"temperature": 0.7, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.2}
_SENTENCE_END = re.compile(r"[.!?…][\"')\]]*(?=\s|$)")


class LocalGenerator:
    """Samples replies with `generate`. Not for two threads at once: torch's random state is the process's."""

    def __init__(self, folder: Path, *, context_tokens: int, reply_tokens: int, queue: int = 32) -> None:
        """Load the model in `folder`. Raises ModelUnavailable, or whatever a broken folder makes it raise."""
        self._model = load_model(AutoModelForCausalLM, folder)
        self._tokenizer = load_tokenizer(folder)
        if self._tokenizer.eos_token_id is None:
            raise ModelUnavailable(
                "it has no EOS token", "Set eos_token in its tokenizer_config.json.", lasting=True
            )
        own = self._model.generation_config
        given = {key: getattr(own, key, None) for key in _SAMPLING}
        self._sampling = _SAMPLING | {key: value for key, value in given.items() if value is not None}
        self._penalty = self._sampling.pop("repetition_penalty")
        self._reply_tokens = reply_tokens
        positions = (
            getattr(self._model.config, "max_position_embeddings", None) or context_tokens + reply_tokens
        )
        self._window = min(context_tokens, positions - reply_tokens)
        if self._window < 1:
            raise ModelUnavailable(
                f"it has {positions} positions, too few for replies of {reply_tokens} tokens",
                "Set DIALOGUE_REPLY_TOKENS lower, or name another model.",
                lasting=True,
            )
        self._worker = Worker("inference", capacity=queue).__enter__()

    async def reply(
        self, turns: Sequence[str], *, seed: int | None = None, on_text: OnText | None = None
    ) -> str:
        """Sample the next turn; see Generator."""
        reply = await self._worker.run(lambda stop: self._seeded(turns, seed, stop))
        if on_text:
            on_text(reply)
        return reply

    def warm_up(self) -> None:
        """One real reply."""
        self._reply(["Hello!"], threading.Event())

    def _seeded(self, turns: Sequence[str], seed: int | None, stop: threading.Event) -> str:
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            return self._reply(turns, stop)

    def _reply(self, turns: Sequence[str], stop: threading.Event) -> str:
        ids = prompt.encode(self._tokenizer, turns, self._window)
        for _ in range(_ATTEMPTS):
            reply = self._sample(ids, stop)
            if reply or stop.is_set():
                return reply
        raise EmptyReply

    def _sample(self, ids: list[int], stop: threading.Event) -> str:
        inputs = torch.tensor([ids])
        with torch.inference_mode():
            output = self._model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                generation_config=GenerationConfig(  # type: ignore[no-untyped-call]
                    do_sample=True,
                    max_new_tokens=self._reply_tokens,
                    min_new_tokens=2,
                    eos_token_id=self._end_ids(),
                    pad_token_id=self._tokenizer.eos_token_id,
                    repetition_penalty=1.0,  # the processor below does that, and leaves the prompt out
                    **self._sampling,
                ),
                logits_processor=LogitsProcessorList(
                    [
                        RepetitionPenaltyLogitsProcessor(self._penalty, prompt_ignore_length=len(ids)),
                        _NoLoop(len(ids)),
                    ]
                ),
                stopping_criteria=StoppingCriteriaList([lambda *_, **__: stop.is_set()]),
            )
        new = output[0, len(ids) :].tolist()
        text = str(self._tokenizer.decode(new, skip_special_tokens=True)).strip()
        return text if new and new[-1] in self._end_ids() else whole_sentences(text)

    def _end_ids(self) -> list[int]:
        own = self._model.generation_config.eos_token_id
        ends = own if isinstance(own, list) else [] if own is None else [own]
        return sorted({self._tokenizer.eos_token_id, *ends})


class _NoLoop:
    """Forbids a run of tokens to come twice in a reply; transformers' own rule counts the prompt in too."""

    def __init__(self, prompt_length: int) -> None:
        self._prompt_length = prompt_length
        self._rule = NoRepeatNGramLogitsProcessor(_NO_REPEAT_NGRAM)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return self._rule(input_ids[:, self._prompt_length :], scores)


def whole_sentences(text: str) -> str:
    """A text that was cut off, without its unfinished last sentence, unless that is all there is."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else text
