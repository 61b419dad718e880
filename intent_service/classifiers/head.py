"""A linear head on sentence vectors: multinomial logistic regression that starts from what the names say.

Ordinary regularisation pulls every weight to zero, so with three examples an intent the head forgets what
its name means. Here it pulls to the intent's anchor, the centroid of the texts it is described with: with
no examples the head is similarity, with many it is logistic regression.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

SCALE = 20.0
"""By what the similarities are multiplied before the softmax that is trained."""
PULL = 1e-4
"""How strongly weights are pulled to their anchors unless cross-validation has chosen."""

_ITERATIONS = 60


def centroid(vectors: Tensor) -> Tensor:
    """The unit vector (dimensions) in the middle of unit vectors (texts, dimensions)."""
    return functional.normalize(vectors.mean(dim=0), dim=0)


def fit(anchors: Tensor, vectors: Tensor, labels: Tensor, pull: float = PULL) -> Tensor:
    """The weights (intents, dimensions) whose products with unit vectors are the similarities to intents.

    `anchors` (intents, dimensions) are what weights are pulled to, `vectors` (texts, dimensions) the unit
    vectors to learn from, `labels` (texts) their intents' indices. Minimises the mean cross-entropy of
    `SCALE` times the similarities plus `pull * SCALE` times the squared distance to the anchors, by L-BFGS
    from the anchors. The same input gives the same weights.
    """
    weights = anchors.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([weights], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        error = functional.cross_entropy(vectors @ weights.T * SCALE, labels)
        total = error + pull * SCALE * (weights - anchors).square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.inference_mode(False), torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach()


def of_texts(groups: Sequence[Tensor], pull: float = PULL) -> Tensor:
    """The weights (intents, dimensions) for intents that are described by texts (texts, dimensions) each."""
    anchors = torch.stack([centroid(group) for group in groups])
    if all(len(group) == 1 for group in groups):
        return anchors  # there is nothing to learn from that the anchors do not say
    labels = torch.repeat_interleave(
        torch.arange(len(groups)), torch.tensor([len(group) for group in groups])
    )
    return fit(anchors, torch.cat(list(groups)), labels, pull)
