"""Held-out conversations, and what a model proposes to say in them. Knows nothing of ranking."""

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from dialogue_service import prompt
from dialogue_service.generation.candidate import OPENING, Candidate
from dialogue_service.generation.sampling import Sampling
from dialogue_service.settings import DialogueSettings
from shared.checkpoint import load_model, load_tokenizer
from shared.settings import REPOSITORY

CORPORA = (
    "self-dialogue",
    "synthetic-persona-chat",
    "topical-chat",
    "ms-chitchat",
)
"""Small talk, which the starter was made for; the others are negotiations, orders and trivia."""
WINDOW: int = DialogueSettings.model_fields["context_tokens"].default
REPLY_TOKENS: int = DialogueSettings.model_fields["reply_tokens"].default
RECIPE = REPOSITORY / "models" / "recipe"
_TOGETHER = 8
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
    found = [
        [turn.strip() for turn in row["turns"]] for row in rows if row.get("style", "friendly") == "friendly"
    ]
    return [turns for turns in found if all(turns) and not any(_PLACEHOLDER.search(turn) for turn in turns)]


def learned_texts(data: Path) -> Iterator[str]:
    """What the starter was taught from: the training dialogues, and the lines written for it."""
    for corpus in CORPORA:
        for line in (data / corpus / "train.jsonl").read_text("utf-8").splitlines():
            yield from json.loads(line)["turns"]
    for file in sorted(RECIPE.glob("*.yaml")):
        yield from file.read_text("utf-8").splitlines()


def contexts(data: Path, corpus: str, count: int, seed: int) -> list[Context]:
    """One from each of at most `count` dialogues, cut at random; the model takes either speaker's part."""
    draw = random.Random(f"{seed} {corpus}")  # noqa: S311 - a seeded draw, no secret
    found = dialogues(data, corpus)
    made = []
    for turns in draw.sample(found, min(count, len(found))):
        cut = draw.randrange(1, len(turns))
        made.append(Context(corpus, tuple(turns[1 - cut % 2 : cut]), turns[cut]))
    return made


class Voice:
    """A model, sampled as the service samples, many conversations at once."""

    def __init__(self, folder: Path) -> None:
        self.model = load_model(AutoModelForCausalLM, folder)
        self.tokenizer = load_tokenizer(folder)
        self._end: int = self.tokenizer.eos_token_id
        self._sampling = Sampling.of(self.model.generation_config, frozenset({self._end}))

    def propose(self, histories: Sequence[Sequence[str]], each: int) -> list[list[Proposal]]:
        """Sample `each` replies to every history, from torch's random state."""
        prompts = [prompt.encode(self.tokenizer, turns, WINDOW) for turns in histories]
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        made: dict[int, list[Proposal]] = {}
        for start in range(0, len(order), _TOGETHER):
            batch = order[start : start + _TOGETHER]
            replies = self._sample([prompts[index] for index in batch], each)
            for row, index in enumerate(batch):
                made[index] = self._weighed(prompts[index], replies[row * each : (row + 1) * each])
        return [made[index] for index in range(len(prompts))]

    def weigh(self, turns: Sequence[str], replies: Sequence[str]) -> list[Proposal]:
        """What the model thinks of given replies; what exceeds the service's longest reply is left out."""
        ids = [prompt.encode(self.tokenizer, [reply], 10_000)[:REPLY_TOKENS] for reply in replies]
        return self._weighed(prompt.encode(self.tokenizer, turns, WINDOW), ids)

    @torch.inference_mode()
    def _sample(self, prompts: Sequence[Sequence[int]], each: int) -> list[list[int]]:
        """Replies (prompts x each); the prompts are padded on the left."""
        width = max(map(len, prompts))
        ids = torch.tensor([[self._end] * (width - len(row)) + list(row) for row in prompts])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
        cache = DynamicCache(config=self.model.config)
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        logits = self._read(ids, cache, mask, positions, 1)[:, 0].repeat_interleave(each, 0)
        cache.batch_repeat_interleave(each)
        mask, last = mask.repeat_interleave(each, 0), positions[:, -1:].repeat_interleave(each, 0)
        replies: list[list[int]] = [[] for _ in range(len(logits))]
        for step in range(1, REPLY_TOKENS + 1):
            tokens, _ = self._sampling.draw(logits, replies, torch.rand(len(replies)))
            for reply, token in zip(replies, tokens, strict=True):
                reply.append(token)
            if all(self._end in reply for reply in replies):
                break
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            logits = self._read(torch.tensor(tokens)[:, None], cache, mask, last + step, 1)[:, 0]
        return [row[: row.index(self._end) + 1] if self._end in row else row for row in replies]

    def _read(
        self, ids: Tensor, cache: Any, mask: Tensor | None, positions: Tensor | None, keep: int
    ) -> Tensor:
        read: Tensor = self.model(
            ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        ).logits
        return read

    def _weighed(self, context: list[int], replies: Sequence[list[int]]) -> list[Proposal]:
        given, alone = self._logprobs(context, replies), self._logprobs([self._end], replies)
        return [
            Proposal(
                str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip(),
                tuple(ids),
                tuple(given[row]),
                tuple(alone[row]),
                ids[-1] == self._end,
            )
            for row, ids in enumerate(replies)
        ]

    @torch.inference_mode()
    def _logprobs(self, context: list[int], replies: Sequence[list[int]]) -> list[list[float]]:
        """log p of every token of each reply after `context`, which is read once for all."""
        width = max(map(len, replies))
        ids = torch.tensor([row + [self._end] * (width - len(row)) for row in replies])
        cache = DynamicCache(config=self.model.config)
        first = self._read(torch.tensor([context]), cache, None, None, 1).expand(len(replies), -1, -1)
        cache.batch_repeat_interleave(len(replies))
        rest = self._read(ids[:, :-1], cache, None, None, 0)
        logprobs = torch.cat([first, rest], 1).log_softmax(-1).gather(2, ids[:, :, None])[:, :, 0]
        return [row[: len(reply)] for row, reply in zip(logprobs.tolist(), replies, strict=True)]
