"""What `native.c` offers, where it was compiled when Parley was installed and this processor can run it.

Everything here has an equal in torch, which serves where it is not there: `available` says so.
"""

import ctypes
import importlib.util
import mmap
from ctypes import POINTER, Structure, c_float, c_int, c_int64, c_void_p
from functools import cache
from typing import Any

import torch
from torch import Tensor

_INTERFACE = 2
"""As in `native.c`."""
_INPUTS, _OUTPUTS = 16, 32
"""Products take inputs and outputs in multiples of these; missing outputs are filled up, inputs not."""
_TOGETHER = 4
"""Inputs whose products with one output lie side by side: 4 bytes, that one instruction adds up."""
HEAD_DIM = 64
"""The one dimension of heads that the blocks of GPT-2 are compiled for; all sizes of GPT-2 have it."""

KEPT = torch.float16
"""Of keys and values: half the bytes to read for each token, and to keep from turn to turn."""


class Linear(Structure):
    """A layer's weights as `native.c` reads them."""

    _fields_ = [("weights", c_void_p), ("scales", c_void_p), ("bias", c_void_p), ("inputs", c_int64),
                ("outputs", c_int64)]  # fmt: skip


class Norm(Structure):
    """A layer normalisation."""

    _fields_ = [("weight", c_void_p), ("bias", c_void_p), ("epsilon", c_float)]


class Block(Structure):
    """A block of GPT-2."""

    _fields_ = [("before", Norm), ("between", Norm), ("ask", Linear), ("answer", Linear), ("widen", Linear),
                ("narrow", Linear), ("scale", c_float)]  # fmt: skip


class Piece(Structure):
    """New tokens of one sequence, and where its keys and values lie."""

    _fields_ = [("held", c_void_p), ("mask", c_void_p), ("mask_stride", c_int64), ("capacity", c_int64),
                ("length", c_int64), ("rows", c_int64)]  # fmt: skip


@cache
def _library() -> Any:
    """None where it is not there. Torch has been imported before, so both share one team of threads."""
    found = importlib.util.find_spec("dialogue_service.generation._native")
    if found is None or found.origin is None:
        return None
    try:
        library = ctypes.CDLL(found.origin)
    except OSError:
        return None  # compiled on another machine
    if library.parley_interface() != _INTERFACE:
        return None
    size = c_int64
    library.parley_linear.argtypes = [POINTER(Linear), c_void_p, size, c_void_p, size]
    pieces: list[Any] = [POINTER(Piece), size, size]
    library.parley_gpt2.argtypes = [POINTER(Block), size, size, *pieces, c_void_p, size, size]
    library.parley_highest.argtypes = [c_void_p, size, size, size, c_void_p, c_void_p, size]
    library.parley_logsumexp.argtypes = [c_void_p, size, size, c_void_p, size]
    library.parley_linear.restype = library.parley_gpt2.restype = library.parley_highest.restype = c_int
    library.parley_logsumexp.restype = None
    return library


def available() -> bool:
    """Whether anything here can be used."""
    return _library() is not None


def advice() -> str | None:
    """What to do where this processor could run it, but it was not compiled."""
    able = torch.cpu.get_capabilities()
    if available() or not all(able.get(f"avx512_{part}") for part in ("f", "bw", "vl", "vnni")):
        return None
    return "Replies could come in less time: install a C compiler (gcc), then run make clean install."


class Weights:
    """A linear layer's weights in 8 bits, in the order in which `native.c` reads them."""

    @staticmethod
    def fit(outputs: int, inputs: int) -> bool:
        """Whether a matrix of this shape can be computed with."""
        return available() and inputs % _INPUTS == 0 and outputs > 0

    def __init__(self, weight: Tensor, scales: Tensor, bias: Tensor) -> None:
        """`weight` (outputs, inputs) in int8, `scales` and `bias` (outputs) in float32."""
        outputs, inputs = weight.shape
        padded = -(-outputs // _OUTPUTS) * _OUTPUTS
        self.outputs = outputs
        self._scales, self._bias = scales.float().contiguous(), bias.float().contiguous()
        self._weights = _pages(padded * inputs).view(padded // 16, inputs // _TOGETHER, 16, _TOGETHER)
        # With 128 added they are without sign, as the processor's instruction takes one of its factors.
        full = torch.nn.functional.pad(weight, (0, 0, 0, padded - outputs)).view(torch.uint8).bitwise_xor(128)
        self._weights.copy_(full.view(padded // 16, 16, inputs // _TOGETHER, _TOGETHER).transpose(1, 2))
        self.native = Linear(
            self._weights.data_ptr(), self._scales.data_ptr(), self._bias.data_ptr(), inputs, outputs
        )
        self._reference = ctypes.byref(self.native)

    def __call__(self, x: Tensor) -> Tensor:
        """x W' + b: float32 of shape (..., inputs) to float32 of shape (..., outputs)."""
        x = x.contiguous()
        made = x.new_empty((*x.shape[:-1], self.outputs))
        rows = x.numel() // x.shape[-1]
        _check(
            _library().parley_linear(
                self._reference, x.data_ptr(), rows, made.data_ptr(), torch.get_num_threads()
            )
        )
        return made


def gpt2(
    blocks: "ctypes.Array[Block]", heads: int, pieces: "ctypes.Array[Piece]", longest: int, state: Tensor
) -> None:
    """Pass `state` (rows, width) through all blocks of GPT-2, in place.

    The rows are those of all pieces, end to end; `longest` is the most positions that one of them has with
    its new ones.
    """
    _check(
        _library().parley_gpt2(
            blocks, len(blocks), heads, pieces, len(pieces), longest, state.data_ptr(), len(state),
            torch.get_num_threads(),
        )
    )  # fmt: skip


def takes(scores: Tensor) -> bool:
    """Whether `highest` and `logsumexp` are for these, (rows, columns)."""
    return scores.device.type == "cpu" and scores.dtype == torch.float32 and available()


def highest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """As `topk` of each row; what is no number is not among them, then minus infinity stands for what lacks."""
    scores = scores.contiguous()
    rows, columns = scores.shape
    values, found = scores.new_empty((rows, count)), torch.empty((rows, count), dtype=torch.long)
    _check(
        _library().parley_highest(
            scores.data_ptr(), rows, columns, count, values.data_ptr(), found.data_ptr(), _threads(rows)
        )
    )
    return values, found


def logsumexp(scores: Tensor) -> Tensor:
    """As torch's of each row, (rows, 1)."""
    scores = scores.contiguous()
    rows, columns = scores.shape
    made = scores.new_empty((rows, 1))
    _library().parley_logsumexp(scores.data_ptr(), rows, columns, made.data_ptr(), _threads(rows))
    return made


def _threads(rows: int) -> int:
    return min(torch.get_num_threads(), rows)


def _pages(size: int) -> Tensor:
    """Memory of its own in large pages, if there are some: fewer addresses have to be looked up."""
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)


def _check(status: int) -> None:
    if status != 0:
        raise MemoryError("no memory for a step of the model")
