"""Held-out conversations, and what a model proposes to say in them. Knows nothing of how replies are ranked."""

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
)

from dialogue_service import prompt
from dialogue_service.generation.candidate import OPENING, Candidate
from dialogue_service.generation.local import _SAMPLING, _NoLoop
from dialogue_service.settings import DialogueSettings
from shared.checkpoint import load_model, load_tokenizer

CORPORA = (
    "self-dialogue",
    "synthetic-persona-chat",
    "topical-chat",
    "ms-chitchat",
    "casino",
    "taskmaster4-coffee",
)
WINDOW: int = DialogueSettings.model_fields["context_tokens"].default
REPLY_TOKENS: int = DialogueSettings.model_fields["reply_tokens"].default
_ROWS = 64
_PLACEHOLDER = re.compile(r"[\[\]{}<>]|\buser ?[12]\b", re.IGNORECASE)


@dataclass(frozen=True)
class Context:
    """Turns up to a message, and the reply that a person gave."""

    corpus: str
    turns: tuple[str, ...]
    reply: str


@dataclass(frozen=True)
class Proposal:
    """A reply and, token by token, its log probabilities in nats."""

    text: str
    ids: tuple[int, ...]
    given_history: tuple[float, ...]
    alone: tuple[float, ...]
    finished: bool = True

    def candidate(self, opening: int = OPENING) -> Candidate:
        """The same for the ranking."""
        return Candidate(
            self.text,
            self.ids,
            sum(self.given_history),
            sum(self.given_history[:opening]),
            sum(self.alone[:opening]),
            self.finished,
        )


def dialogues(data: Path, corpus: str) -> list[list[str]]:
    """The validation dialogues of a corpus, but for those with placeholders; of ms-chitchat one style."""
    rows = [json.loads(line) for line in (data / corpus / "valid.jsonl").read_text("utf-8").splitlines()]
    found = [[turn.strip() for turn in row["turns"]] for row in rows if row.get("style", "friendly") == "friendly"]
    return [turns for turns in found if all(turns) and not any(_PLACEHOLDER.search(turn) for turn in turns)]


def contexts(data: Path, corpus: str, count: int, seed: int) -> list[Context]:
    """One from each of at most `count` dialogues, cut at random; the model takes either speaker's part."""
    draw = random.Random(f"{seed} {corpus}")  # noqa: S311 - a seeded draw, no secret
    found = dialogues(data, corpus)
    made = []
    for turns in draw.sample(found, min(count, len(found))):
        cut = draw.randrange(1, len(turns))
        made.append(Context(corpus, tuple(turns[1 - cut % 2 : cut]), turns[cut]))
    return made


class Speaker:
    """A model, sampled as the service samples, many conversations at once."""

    def __init__(self, folder: Path) -> None:
        self.model = load_model(AutoModelForCausalLM, folder)
        self.tokenizer = load_tokenizer(folder)
        self._end: int = self.tokenizer.eos_token_id
        own = self.model.generation_config
        given = {key: getattr(own, key, None) for key in _SAMPLING}
        self._sampling = _SAMPLING | {key: value for key, value in given.items() if value is not None}
        self._penalty = self._sampling.pop("repetition_penalty")

    def propose(self, histories: Sequence[Sequence[str]], each: int) -> list[list[Proposal]]:
        """Sample `each` replies to every history, from torch's random state."""
        prompts = [prompt.encode(self.tokenizer, turns, WINDOW) for turns in histories]
        made: dict[int, list[Proposal]] = {}
        for batch in _by_length(prompts, _ROWS // each):
            replies = self._sample([prompts[i] for i in batch], each)
            for row, index in enumerate(batch):
                made[index] = self._scored(prompts[index], replies[row * each : (row + 1) * each])
        return [made[index] for index in range(len(prompts))]

    def weigh(self, turns: Sequence[str], replies: Sequence[str]) -> list[Proposal]:
        """What the model thinks of given replies; what exceeds the service's longest reply is left out."""
        ids = [prompt.encode(self.tokenizer, [reply], 10_000)[:REPLY_TOKENS] for reply in replies]
        return self._scored(prompt.encode(self.tokenizer, turns, WINDOW), ids)

    def _sample(self, prompts: Sequence[Sequence[int]], each: int) -> list[list[int]]:
        width = max(map(len, prompts))
        ids = torch.tensor([[self._end] * (width - len(row)) + list(row) for row in prompts])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
        with torch.inference_mode():
            output = self.model.generate(
                ids,
                attention_mask=mask,
                generation_config=GenerationConfig(
                    do_sample=True,
                    use_cache=True,
                    max_new_tokens=REPLY_TOKENS,
                    min_new_tokens=2,
                    num_return_sequences=each,
                    eos_token_id=self._end,
                    pad_token_id=self._end,
                    repetition_penalty=1.0,
                    **self._sampling,
                ),
                logits_processor=LogitsProcessorList(
                    [
                        RepetitionPenaltyLogitsProcessor(self._penalty, prompt_ignore_length=width),
                        _NoLoop(width),
                    ]
                ),
            )
        new: list[list[int]] = output[:, width:].tolist()
        return [row[: row.index(self._end) + 1] if self._end in row else row for row in new]

    def _scored(self, context: list[int], replies: Sequence[list[int]]) -> list[Proposal]:
        pairs = zip(self._logprobs(context, replies), self._logprobs([self._end], replies), strict=True)
        return [
            Proposal(
                str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip(),
                tuple(ids),
                tuple(given),
                tuple(alone),
                ids[-1] == self._end,
            )
            for ids, (given, alone) in zip(replies, pairs, strict=True)
        ]

    def _logprobs(self, context: list[int], replies: Sequence[list[int]]) -> list[list[float]]:
        """log p of every token of each reply after `context`, which is read once for all."""
        width = max(map(len, replies))
        ids = torch.tensor([row + [self._end] * (width - len(row)) for row in replies])
        with torch.inference_mode():
            cache: Any = DynamicCache(config=self.model.config)
            first = self.model(torch.tensor([context]), past_key_values=cache, use_cache=True).logits[:, -1:]
            cache.batch_repeat_interleave(len(replies))
            rest = self.model(ids[:, :-1], past_key_values=cache, use_cache=True).logits
            logits = torch.cat([first.expand(len(replies), -1, -1), rest], dim=1)
            logprobs = logits.log_softmax(-1).gather(2, ids[:, :, None])[:, :, 0]
        return [row[: len(reply)] for row, reply in zip(logprobs.tolist(), replies, strict=True)]


def _by_length(prompts: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    yield from (order[start : start + size] for start in range(0, len(order), size))
