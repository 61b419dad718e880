"""Contrastive fine-tuning of a sentence encoder: texts of one intent move together, of different ones apart.

Each step encodes two texts of each of some intents. A text has to pick its partner among the batch's
(in-batch negatives; Henderson et al. 2017, "Efficient Natural Language Response Suggestion") and its intent
among all the intents' proxies, which are learned with it (Movshovitz-Attias et al. 2017, "No Fuss Distance
Metric Learning using Proxies"). In half of the steps the intents are neighbours of each other, which are
hard to tell apart. The word embeddings stay as they are.
"""

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from intent_service.classifiers.encoder import SentenceEncoder
from intent_service.classifiers.head import SCALE, centroid

_INTENTS = 32  # of a step
_NEIGHBOURS = 7
_HARD = 0.5  # share of the steps with neighbours
_WARM_UP = 0.1  # share of the steps in which the rate rises
_PROXY_RATE = 1e-3

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


def tune(
    encoder: SentenceEncoder,
    texts: Sequence[Sequence[str]],
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    progress: Progress,
) -> None:
    """Train `encoder` in place so that the texts of one intent, one sequence each, come close together."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    encoded = encoder.encode([text for group in texts for text in group])
    proxies = torch.stack(
        [centroid(group) for group in torch.split(encoded, [len(group) for group in texts])]
    )
    near = (proxies @ proxies.T).topk(min(1 + _NEIGHBOURS, len(texts)), dim=1).indices.tolist()
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        proxies = proxies.clone().requires_grad_(True)
        optimizer = torch.optim.AdamW(
            [
                {"params": encoder.start_training(), "lr": learning_rate, "weight_decay": 0.01},
                {"params": [proxies], "lr": _PROXY_RATE, "weight_decay": 0.0},
            ]
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
        for step in range(steps):
            intents = _intents(near, rng)
            pairs = [_pair(texts[intent], rng) for intent in intents]
            vectors = encoder.vectors([pair[0] for pair in pairs] + [pair[1] for pair in pairs])
            optimizer.zero_grad()
            _loss(vectors, proxies, torch.tensor(intents)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            progress(step + 1, steps)
        encoder.end_training()


def _loss(vectors: Tensor, proxies: Tensor, intents: Tensor) -> Tensor:
    """Of vectors (2 x intents, dimensions), the second half being the partners of the first."""
    first, second = torch.split(vectors, len(intents))
    similar = first @ second.T * SCALE
    partner = torch.arange(len(intents))
    pairs = functional.cross_entropy(similar, partner) + functional.cross_entropy(similar.T, partner)
    to_proxies = vectors @ functional.normalize(proxies, dim=1).T * SCALE
    return pairs / 2 + functional.cross_entropy(to_proxies, intents.repeat(2))


def _intents(near: Sequence[Sequence[int]], rng: random.Random) -> list[int]:
    count = min(_INTENTS, len(near))
    if rng.random() >= _HARD:
        return rng.sample(range(len(near)), count)
    chosen: dict[int, None] = {}
    while len(chosen) < count:
        chosen.update(dict.fromkeys(near[rng.randrange(len(near))]))
    return list(chosen)[:count]


def _pair(texts: Sequence[str], rng: random.Random) -> tuple[str, str]:
    first, second = rng.sample(texts, 2) if len(texts) > 1 else (texts[0], texts[0])
    return first, second


def _rate(step: int, steps: int) -> float:
    return min((step + 1) / max(1, _WARM_UP * steps), 1 - step / steps)
