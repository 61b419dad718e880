"""Eight bits: close to thirty-two, and a row never depends on its neighbours."""

import pytest
import torch
from torch import nn
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from dialogue_service.generation.int8 import Int8Embedding, Int8Linear, lighten, quantize
from shared import native


@pytest.fixture(params=["native", "torch"], autouse=True)
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both kinds of products; where one is not there, torch's twice."""
    if request.param == "torch":
        monkeypatch.setattr(native, "_library", lambda: None)
    return str(request.param)


@pytest.fixture
def layer() -> Int8Linear:
    torch.manual_seed(0)
    return Int8Linear(torch.randn(300, 208) * torch.rand(300, 1), torch.randn(300))


@pytest.fixture
def x() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(64, 208) * torch.logspace(-2, 2, 64)[:, None]


def test_it_is_close_to_float32(x: torch.Tensor) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(300, 208) * torch.rand(300, 1), torch.randn(300)
    exact = nn.functional.linear(x, weight, bias)
    error = (Int8Linear(weight, bias)(x) - exact).norm(dim=1) / exact.norm(dim=1)
    assert error.max() < 0.02


def test_a_row_does_not_depend_on_its_neighbours(layer: Int8Linear, x: torch.Tensor) -> None:
    whole = layer(x)
    for n in (2, 3, 5, 8, 16, 33):
        for begin in range(0, 64 - n, n):
            assert torch.equal(layer(x[begin : begin + n]), whole[begin : begin + n])
    # One alone is computed in other steps, hence rounded otherwise: in the last bits, not in the 8 of x.
    alone = torch.cat([layer(row[None]) for row in x])
    assert ((alone - whole).abs().amax(1) / whole.abs().amax(1)).max() < 1e-6


def test_a_row_of_zeros_is_the_bias(layer: Int8Linear) -> None:
    assert torch.equal(layer(torch.zeros(2, 208)), layer.bias.expand(2, -1))
    assert torch.equal(layer(torch.zeros(1, 208)), layer.bias.expand(1, -1))


def test_it_takes_any_leading_shape(layer: Int8Linear, x: torch.Tensor) -> None:
    assert torch.equal(layer(x.view(4, 16, 208)), layer(x).view(4, 16, 300))
    assert layer(x[:0]).shape == (0, 300)


class Model(nn.Module):
    """A layer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(800, 800)
        self.conv = Conv1D(900, 800)
        self.act = NewGELUActivation()
        self.linear = nn.Linear(900, 800)
        self.small = nn.Linear(800, 8)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def set_input_embeddings(self, embed: nn.Module) -> None:
        self.embed = embed  # type: ignore[assignment]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.small(self.linear(self.act(self.conv(self.embed(ids)))))  # type: ignore[no-any-return]


def test_what_is_large_is_quantized_and_what_is_small_is_not() -> None:
    model, ids = Model().eval(), torch.arange(16)
    exact = model(ids)
    quantize(model)
    assert isinstance(model.conv, Int8Linear)
    assert isinstance(model.linear, Int8Linear)
    assert isinstance(model.embed, Int8Embedding)
    assert isinstance(model.small, nn.Linear)
    assert (model(ids) - exact).norm() / exact.norm() < 0.03


def test_the_faster_equals_compute_the_same() -> None:
    model, ids = Model().eval(), torch.arange(16)
    exact = model(ids)
    lighten(model)
    assert isinstance(model.conv, nn.Linear)
    torch.testing.assert_close(model(ids), exact)
