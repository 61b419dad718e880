"""Contrastive fine-tuning of a sentence encoder: texts of one intent move together, of different ones apart.

Each step encodes two texts each of some intents. A text is drawn to the others of its intent in the batch
and away from the rest (Khosla et al. 2020, "Supervised Contrastive Learning"), and has to find its intent
among the proxies of all, which are learned with it (Movshovitz-Attias et al. 2017, "No Fuss Distance Metric
Learning using Proxies"). The word embeddings stay as they are. In the end every weight goes back half of the
way it has come, which keeps what the encoder knew of other texts (Wortsman et al. 2022, "Robust fine-tuning
of zero-shot models").
"""

import random
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from intent_service.classifiers.encoder import SentenceEncoder
from intent_service.classifiers.head import SCALE, centroid

TEXTS_A_STEP = 64

_WARM_UP = 0.1  # share of the steps in which the rate rises
_PROXY_RATE = 1e-3
_KEPT_CHANGE = 0.5  # share of it; ten shots of BANKING77, held out: 0.857 at 0, 0.872 at 0.5, 0.868 at 1

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
    before = encoder.state()
    encoded = encoder.encode([text for group in texts for text in group])
    proxies = torch.stack(
        [centroid(group) for group in torch.split(encoded, [len(group) for group in texts])]
    )
    batches = _batches(texts, random.Random(seed))  # noqa: S311 - no secret
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
            batch = next(batches)
            intents = torch.tensor([intent for _, intent in batch])
            vectors = encoder.vectors([text for text, _ in batch])
            optimizer.zero_grad()
            _loss(vectors, proxies, intents).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            progress(step + 1, steps)
        encoder.end_training()
    after = encoder.state()
    encoder.restore({name: torch.lerp(old, after[name], _KEPT_CHANGE) for name, old in before.items()})


def _loss(vectors: Tensor, proxies: Tensor, intents: Tensor) -> Tensor:
    """Of unit vectors (texts, dimensions) whose intents' indices are `intents` (texts)."""
    to_proxies = vectors @ functional.normalize(proxies, dim=1).T * SCALE
    itself = torch.eye(len(vectors), dtype=torch.bool)
    similar = (vectors @ vectors.T * SCALE).masked_fill(itself, -1e4)
    partners = (intents[:, None] == intents[None]) & ~itself
    counts = partners.sum(dim=1)
    to_partners = (functional.log_softmax(similar, dim=1) * partners).sum(dim=1) / counts.clamp(min=1)
    contrast = -to_partners.sum() / (counts > 0).sum().clamp(min=1)
    return functional.cross_entropy(to_proxies, intents) + contrast


def _batches(texts: Sequence[Sequence[str]], rng: random.Random) -> Iterator[list[tuple[str, int]]]:
    """Texts with the index of their intent, without end; every text comes once before any comes again."""
    batch: list[tuple[str, int]] = []
    while True:
        pairs: list[list[tuple[str, int]]] = []
        for intent, group in enumerate(texts):
            mixed = rng.sample(list(group), len(group))
            pairs += [[(text, intent) for text in mixed[at : at + 2]] for at in range(0, len(mixed), 2)]
        rng.shuffle(pairs)
        for pair in pairs:
            batch += pair
            if len(batch) >= TEXTS_A_STEP:
                yield batch
                batch = []
        if batch and sum(map(len, texts)) < TEXTS_A_STEP:
            yield batch
            batch = []


def _rate(step: int, steps: int) -> float:
    return min((step + 1) / max(1, _WARM_UP * steps), 1 - step / steps)
