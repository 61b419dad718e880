"""Linear layers in 8 bits, for processors.

Decoding is bound by how fast weights are read: a quarter of the bytes is almost four times the speed. Weights
are quantized once, symmetrically, with a scale for each output; activations at each call, with a scale for
each row. A row's result therefore depends on that row alone, not on what else is in the batch, which torch's
own dynamic quantization (one scale for the whole batch) does not give; so the same tokens come out whether a
conversation is computed alone or beside others, at once or in chunks.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

_SMALLEST = 500_000
"""Weights below this many elements stay as they are: they fit into the processor's cache, so that reading
fewer bytes gains nothing."""
_LEAST_SCALE = 1e-30  # a row of zeros must not divide by zero


def supported() -> bool:
    """Whether this torch and this processor have 8-bit products."""
    return hasattr(torch.ops.quantized, "linear_with_input_q_dq_qweight_dq_output_fp32") and bool(
        {"x86", "fbgemm", "qnnpack"} & set(torch.backends.quantized.supported_engines)
    )


class Int8Linear(nn.Module):
    """y = x W' + b with W in int8 and x rounded to int8 row by row."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """`weight` has shape (outputs, inputs)."""
        super().__init__()
        weight = weight.detach().float()
        scales = weight.abs().amax(1).clamp_min(_LEAST_SCALE).double() / 127
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # torch deprecates its quantized tensors, and has no successor for CPUs
            quantized = torch.quantize_per_channel(
                weight, scales, torch.zeros(len(weight), dtype=torch.long), 0, torch.qint8
            )
            self._packed = torch.ops.quantized.linear_prepack(quantized, None)
        self.bias = torch.zeros(len(weight)) if bias is None else bias.detach().float().clone()
        # Without VNNI the product of 8 by 8 bits overflows its 16-bit sums; 7 bits for activations do not.
        self._levels = 127 if _exact_sums() else 63

    def forward(self, x: Tensor) -> Tensor:
        """float32 of shape (..., inputs) to float32 of shape (..., outputs)."""
        scale = torch.linalg.vector_norm(x, float("inf"), -1, keepdim=True).clamp_min_(_LEAST_SCALE)
        y = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x / scale, 1 / self._levels, self._levels + 1, self._packed
        )
        return torch.addcmul(self.bias, y, scale)


def _exact_sums() -> bool:
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_vnni") or able.get("avx_vnni") or able.get("architecture") == "aarch64")


def unfold(model: nn.Module) -> None:
    """Replace GPT-2's Conv1D layers by Linear ones, in place: the same values, several times faster on a
    CPU."""
    for parent, name, layer in _layers(model, Conv1D):
        inputs, outputs = layer.weight.shape
        linear = nn.Linear(inputs, outputs, device="meta")
        linear.weight = nn.Parameter(layer.weight.detach().t().contiguous(), requires_grad=False)
        linear.bias = layer.bias
        setattr(parent, name, linear)


def quantize(model: nn.Module) -> None:
    """Replace the large Linear layers of a model, its output layer too, by 8-bit ones, in place.

    The input embedding stays as it is, also where the output layer shared its weights. The old weights are
    freed one by one.
    """
    for parent, name, layer in _layers(model, nn.Linear):
        if layer.weight.numel() >= _SMALLEST:
            setattr(parent, name, Int8Linear(layer.weight, layer.bias))


def _layers(model: nn.Module, kind: type[nn.Module]) -> Iterator[tuple[nn.Module, str, Any]]:
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, kind):
                yield parent, name, layer
