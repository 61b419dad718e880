"""What is measured of one model: held-out votes, small talk as it should go, and what it says itself."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dialogue_service.evaluation import small_talk
from dialogue_service.generation.local import LocalGenerator
from dialogue_service.generation.preference import Preference
from dialogue_service.training import model as models
from dialogue_service.training.corpus import Corpus
from dialogue_service.training.data import Dialogue
from dialogue_service.training.preference import rate
from dialogue_service.training.rows import IGNORED, Row, collate, encode
from dialogue_service.training.thumbs import encode_thumbs
from shared.problems import EmptyReply

_SEED = 20270114
_BATCH = 8
_LONGEST = 256  # tokens that are read of a conversation
_TEMPERATURES = [0.6 * 1.12**step for step in range(15)]  # to 2.9

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Likelihoods:
    """Of some replies: the mean log probability of a token (nats) and how many tokens there are.

    After temperature scaling (Guo et al. 2017, arXiv:1706.04599): how sure of itself a model is does not
    count, for the service samples at a temperature of its own. What is learned from a model's own replies
    makes it surer, which alone would look like progress on those and like forgetting on all others.
    """

    means: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def perplexity(self) -> float:
        """Of a token."""
        total = sum(mean * count for mean, count in zip(self.means, self.tokens, strict=True))
        return math.exp(min(100.0, -total / max(1, sum(self.tokens))))


@dataclass(frozen=True)
class Scores:
    """What was measured; `replies` are those of each conversation of `small_talk`."""

    approved: Likelihoods
    small_talk: Likelihoods
    up: tuple[float, ...]
    down: tuple[float, ...]
    """What the version makes of replies with thumbs up, and down; see `rate`."""
    replies: tuple[tuple[str, ...], ...]

    @property
    def all_replies(self) -> list[str]:
        """Of all conversations."""
        return [reply for own in self.replies for reply in own]


def measure(folder: Path, corpus: Corpus, generation: dict[str, Any], progress: Progress) -> Scores:
    """Measure the model in `folder` on the held-out part of `corpus`, and on small talk.

    `generation` are the options of a LocalGenerator.

    Its replies are made as the service makes them. Raises ModelError and ModelUnavailable.
    """
    model, tokenizer = models.load(str(folder))
    length = min(_LONGEST, getattr(model.config, "max_position_embeddings", None) or _LONGEST)
    approved = _likelihoods(model, tokenizer, corpus.held_out, length)
    proper = [
        Dialogue(turns, tuple(place % 2 == 1 for place in range(len(turns))))
        for turns in small_talk.conversations()
    ]
    expected = _likelihoods(model, tokenizer, proper, length)
    rows = encode_thumbs(corpus.held_out_thumbs, tokenizer, length)
    ratings = rate(model, Preference.load(Path(folder), model), [row for row, _ in rows])
    del model
    room = {"queue": len(small_talk.conversations())}
    return Scores(
        approved=approved,
        small_talk=expected,
        up=tuple(rating for rating, (_, up) in zip(ratings, rows, strict=True) if up),
        down=tuple(rating for rating, (_, up) in zip(ratings, rows, strict=True) if not up),
        replies=asyncio.run(_talk(LocalGenerator(folder, **generation | room), progress)),
    )


def _likelihoods(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dialogues: Sequence[Dialogue], max_length: int
) -> Likelihoods:
    """At the one temperature of which the replies are most probable in all."""
    rows = [row for talk in dialogues if (row := encode(talk, tokenizer, max_length)) is not None]
    sums = torch.cat(
        [_log_probabilities(model, rows[at : at + _BATCH]) for at in range(0, len(rows), _BATCH)]
    )
    counts = tuple(sum(label != IGNORED for label in row.labels) for row in rows)
    best = sums[:, int(sums.sum(dim=0).argmax())] / torch.tensor(counts)
    return Likelihoods(tuple(best.tolist()), counts)


@torch.no_grad()
def _log_probabilities(model: PreTrainedModel, rows: Sequence[Row]) -> Tensor:
    """(rows, temperatures): the summed log probability of what each row's model should have said."""
    model.train(False)
    batch = {name: tensor.to(model.device) for name, tensor in collate(rows, pad_id=0).items()}
    labels = batch.pop("labels")[:, 1:]
    learned = labels != IGNORED
    logits = model(**batch).logits[:, :-1][learned].float()
    owner = torch.arange(len(rows), device=labels.device)[:, None].expand_as(labels)[learned]
    sums = torch.zeros(len(rows), len(_TEMPERATURES))
    for index, temperature in enumerate(_TEMPERATURES):
        chosen = -functional.cross_entropy(logits / temperature, labels[learned], reduction="none")
        sums[:, index].index_add_(0, owner.cpu(), chosen.cpu())
    return sums


async def _talk(generator: LocalGenerator, progress: Progress) -> tuple[tuple[str, ...], ...]:
    """All conversations at once; the person's lines are fixed, the model reads what it said itself."""
    total = sum(len(turns) // 2 for turns in small_talk.conversations())
    done = 0

    async def converse(number: int, lines: Sequence[str]) -> tuple[str, ...]:
        nonlocal done
        turns: list[str] = []
        for place, line in enumerate(lines):
            turns.append(line)
            try:
                reply = await generator.reply(turns, seed=_SEED + 100 * number + place)
            except EmptyReply:
                reply = ""
            turns.append(reply)
            done += 1
            progress(done, total)
        return tuple(turns[1::2])

    talks = [converse(number, turns[::2]) for number, turns in enumerate(small_talk.conversations())]
    return tuple(await asyncio.gather(*talks))
