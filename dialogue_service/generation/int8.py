"""Linear layers in 8 bits, for processors.

Decoding is bound by how fast weights are read: a quarter of the bytes is almost four times the speed. Weights
are quantized once, symmetrically, with a scale for each output; activations at each call, with a scale for
each row. A row's result therefore depends on that row alone, not on what else is in the batch, which torch's
own dynamic quantization (one scale for the whole batch) does not give; so the same tokens come out whether a
conversation is computed alone or beside others, at once or in chunks.

The products are our own (`native`) where they were compiled and this processor can run them, else torch's.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from shared import native

_SMALLEST = 500_000
"""Weights below this many elements stay as they are: they fit into the processor's cache, so that reading
fewer bytes gains nothing."""
_LEAST_SCALE = 1e-30  # a row of zeros must not divide by zero
_packet = getattr(torch.ops.quantized, "linear_with_input_q_dq_qweight_dq_output_fp32", None)
_product: Any = getattr(_packet, "default", None)
"""(float32 input, its scale, its zero point, weights) to float32."""


def supported() -> bool:
    """Whether there are 8-bit products for this processor."""
    engines = {"x86", "fbgemm", "qnnpack"} & set(torch.backends.quantized.supported_engines)
    return native.available() or (_product is not None and bool(engines))


class Int8Linear(nn.Module):
    """y = x W' + b with W in int8 and x rounded to int8 row by row."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """`weight` has shape (outputs, inputs)."""
        super().__init__()
        weight = weight.detach().float()
        self.bias = torch.zeros(len(weight)) if bias is None else bias.detach().float().clone()
        self.weights: native.Weights | _TorchWeights
        if native.Weights.fit(*weight.shape):
            rounded, scales = native.rounded(weight)
            self.weights = native.Weights(rounded, scales[:, 0], self.bias)
        else:
            self.weights = _TorchWeights(weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """float32 of shape (..., inputs) to float32 of shape (..., outputs)."""
        return self.weights(x)


class _TorchWeights:
    """The same with torch's products, which run everywhere."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        scales = weight.abs().amax(1).clamp_min(_LEAST_SCALE).double() / 127
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # torch deprecates its quantized tensors, and has no successor for CPUs
            quantized = torch.quantize_per_channel(
                weight, scales, torch.zeros(len(weight), dtype=torch.long), 0, torch.qint8
            )
            self._bias = bias
            self._packed = torch.ops.quantized.linear_prepack(quantized, bias)
        # Without VNNI the product of 8 by 8 bits overflows its 16-bit sums; 7 bits for activations do not.
        self._levels = 127 if _exact_sums() else 63

    def __call__(self, x: Tensor) -> Tensor:
        if x.numel() == x.shape[-1]:
            # The same numbers in fewer steps, for while one token is made at a time each step counts.
            least, most = x.aminmax()
            scale = max(-least.item(), most.item(), _LEAST_SCALE) / self._levels
            alone: Tensor = _product(x, scale, self._levels + 1, self._packed)
            return alone
        scales = x.abs().amax(-1, keepdim=True).div_(self._levels)
        # The product holds the bias, which is not to be scaled: this is bias + scales (product - bias). Of a
        # row of zeros the product is whatever int8 can hold, and goes with the scale, zero.
        product = _product(x * scales.reciprocal(), 1.0, self._levels + 1, self._packed)
        return torch.lerp(self._bias, product, scales)


def _exact_sums() -> bool:
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_vnni") or able.get("avx_vnni") or able.get("architecture") == "aarch64")


class Int8Embedding(nn.Module):
    """An embedding with rows in int8, each with a scale, as its weights are where the output layer shares
    them."""

    def __init__(self, weight: Tensor) -> None:
        """`weight` has shape (tokens, dimensions)."""
        super().__init__()
        rounded, self.scales = native.rounded(weight.detach().float())
        self.weight = nn.Parameter(rounded, requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids of any shape to float32 of that shape and one more dimension."""
        return self.weight[ids] * self.scales[ids]


def lighten(model: nn.Module) -> None:
    """Replace parts of a model that does not train by equals that a processor computes faster, in place."""
    for parent, name, layer in _layers(model, Conv1D):
        inputs, outputs = layer.weight.shape
        linear = nn.Linear(inputs, outputs, device="meta")
        linear.weight = nn.Parameter(layer.weight.detach().t().contiguous(), requires_grad=False)
        linear.bias = layer.bias
        setattr(parent, name, linear)
    for parent, name, _ in _layers(model, NewGELUActivation):
        setattr(parent, name, nn.GELU(approximate="tanh"))
    for parent, name, _ in _layers(model, nn.Dropout):
        setattr(parent, name, nn.Identity())


def quantize(model: Any) -> None:
    """Replace the large linear layers of a model, its output layer too, by 8-bit ones, in place.

    GPT-2's Conv1D holds its matrix the other way round. What is small computes in float32. The input
    embedding has 8 bits, also where the output layer shares its weights. The old weights are freed one by
    one.
    """
    for parent, name, layer in _layers(model, nn.Linear, Conv1D):
        if layer.weight.numel() >= _SMALLEST:
            weight = layer.weight.t() if isinstance(layer, Conv1D) else layer.weight
            setattr(parent, name, Int8Linear(weight, layer.bias))
    embedding = model.get_input_embeddings()
    model.set_input_embeddings(nn.Identity())
    model.float()
    # Not where a subclass does more than look up.
    plain = type(embedding) is nn.Embedding
    model.set_input_embeddings(Int8Embedding(embedding.weight) if plain else embedding.float())


def _layers(model: nn.Module, *kinds: type[nn.Module]) -> Iterator[tuple[nn.Module, str, Any]]:
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, kinds):
                yield parent, name, layer
