"""How likely it is that a person likes a reply, learned from thumbs.

A reward model in the sense of Stiennon et al. 2020, "Learning to summarize from human feedback"
(arXiv:2009.01325), for choosing among candidates, and as small as one can be: a straight line through the
last hidden states of the model that makes them. So it needs no second model, costs two products with a vector
for each token, and learns from dozens of votes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from shared.hub import ModelUnavailable

FILE = "preference.safetensors"
"""In a model's folder, beside its weights."""


class LastStates:
    """Notes what a model's output layer is given: its last hidden states, normalised."""

    def __init__(self, model: Any) -> None:
        self.seen: Tensor | None = None
        self._hook = model.get_output_embeddings().register_forward_pre_hook(self._note)

    def _note(self, _: Any, given: tuple[Tensor, ...]) -> None:
        self.seen = given[0]

    def forget(self) -> None:
        """Note nothing more."""
        self._hook.remove()


@dataclass(frozen=True)
class Preference:
    """The line. What a reply is worth by it are log-odds: above 0 it is rather liked than not."""

    weights: Tensor
    """(hidden, 2), float32: for the mean of the states of a reply's tokens, and for the state of its last."""
    bias: float

    @classmethod
    def load(cls, folder: Path, model: Any) -> "Preference | None":
        """That of the model in `folder`; None where it has none. Raises ModelUnavailable for a broken one."""
        if not (folder / FILE).exists():
            return None
        kept = load_file(folder / FILE)
        weights, bias = kept.get("weights"), kept.get("bias")
        shape = (model.config.get_text_config().hidden_size, 2)
        if weights is None or bias is None or weights.shape != shape or bias.numel() != 1:
            raise ModelUnavailable(f"its {FILE} belongs to another model", "Train it again.", lasting=True)
        if not (weights.isfinite().all() and bias.isfinite().all()):
            raise ModelUnavailable(f"its {FILE} holds what is no number", "Train it again.", lasting=True)
        return cls(weights.float().to(model.device), float(bias))

    def save(self, folder: Path) -> None:
        """Write it beside the model's weights."""
        kept = {"weights": self.weights.cpu().contiguous(), "bias": torch.tensor([self.bias])}
        save_file(kept, folder / FILE)

    def terms(self, states: Tensor) -> Tensor:
        """Two numbers for each token, (tokens, 2), of which `log_odds` makes one for a reply."""
        return states.reshape(-1, len(self.weights)).float() @ self.weights

    def log_odds(self, terms: Sequence[Sequence[float]]) -> float:
        """That a reply is liked, by the terms of its tokens, the end of the turn left out."""
        if not terms:
            return 0.0
        return math.fsum(mean for mean, _ in terms) / len(terms) + terms[-1][1] + self.bias
