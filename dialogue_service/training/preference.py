"""Learns from thumbs how likely a reply is to be liked: `dialogue_service.generation.preference`."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dialogue_service.evaluation import measures
from dialogue_service.generation.preference import LastStates, Preference
from dialogue_service.training.corpus import LEAST_EACH
from dialogue_service.training.data import Thumb
from dialogue_service.training.rows import IGNORED, Row, collate
from dialogue_service.training.thumbs import BATCH, encode_thumbs, mean_log_probabilities

_DECAY = 0.1
"""L2 penalty on the weights of standardized features: there are hundreds of them, and as few votes."""
_STEPS = 200
_LEAST_DEVIATION = 1e-6


def fit(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, thumbs: Sequence[Thumb], max_length: int
) -> Preference | None:
    """Logistic regression on what the model makes of the replies; None with too few thumbs of either kind."""
    rated = encode_thumbs(thumbs, tokenizer, max_length)
    up = torch.tensor([float(up) for _, up in rated], dtype=torch.float64)
    if min(up.sum(), (1 - up).sum()) < LEAST_EACH:
        return None
    states = _states(model, [row for row, _ in rated])
    features = torch.stack([torch.cat((own.mean(0), own[-1])) for own in states]).double()
    middle, spread = features.mean(0), features.std(0).clamp_min(_LEAST_DEVIATION)
    weights, bias = _regress((features - middle) / spread, up)
    weights = weights / spread
    return Preference(weights.reshape(2, -1).T.float().contiguous(), float(bias - middle @ weights))


def rate(model: PreTrainedModel, preference: Preference | None, rows: Sequence[Row]) -> list[float]:
    """What a version makes of each row's reply: the log-odds that it is liked.

    Without a preference the mean log probability of its tokens.
    """
    if preference is None:
        return mean_log_probabilities(model, rows)
    place = preference.weights.device
    return [preference.log_odds(preference.terms(own.to(place)).tolist()) for own in _states(model, rows)]


def agreement(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    preference: Preference | None,
    thumbs: Sequence[Thumb],
    max_length: int,
) -> float | None:
    """How often a reply with thumbs up is ranked above one with thumbs down.

    Over all such pairs; 0.5 is chance (the area under the ROC curve). None without thumbs of both kinds.
    """
    rated = encode_thumbs(thumbs, tokenizer, max_length)
    ratings = rate(model, preference, [row for row, _ in rated])
    above = [rating for rating, (_, up) in zip(ratings, rated, strict=True) if up]
    below = [rating for rating, (_, up) in zip(ratings, rated, strict=True) if not up]
    if not above or not below:
        return None
    return round(measures.agreement(above, below), 4)


@torch.no_grad()
def _states(model: PreTrainedModel, rows: Sequence[Row]) -> list[Tensor]:
    """The last states (tokens, hidden) of each row's learned turn, without the end of it."""
    model.train(False)
    found: list[Tensor] = []
    states = LastStates(model)
    try:
        for begin in range(0, len(rows), BATCH):
            batch = collate(rows[begin : begin + BATCH], pad_id=0)
            learned = batch.pop("labels") != IGNORED
            model(**{name: tensor.to(model.device) for name, tensor in batch.items()})
            assert states.seen is not None  # noqa: S101  # narrows the type
            found += [own[told][:-1].cpu() for own, told in zip(states.seen.float(), learned, strict=True)]
    finally:
        states.forget()
    return found


def _regress(features: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    weights = torch.zeros(features.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([weights, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        missed = binary_cross_entropy_with_logits(features @ weights + bias, up)
        total = missed + _DECAY / 2 * (weights @ weights)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    search.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach(), bias.detach()
