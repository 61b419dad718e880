"""What `native.c` and its kernels offer, where they were compiled and this processor can run them.

Where it is not there, `available` says so, and torch serves instead: it has an equal of everything here.
"""

import ctypes
import importlib.util
from collections.abc import Collection, Iterable, Sequence
from ctypes import POINTER, Structure, c_float, c_int, c_int64, c_void_p
from functools import cache
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor

_INTERFACE = 7
"""As in `native.c`."""
_INPUTS, _OUTPUTS = 16, 32
"""Products take inputs and outputs in multiples of these; missing outputs are filled up, inputs not."""
_TOGETHER = 4
"""Inputs whose products with one output lie side by side: 4 bytes, that one instruction adds up."""
_OUT_OF_RANGE = -2
_LEAST_SCALE = 1e-30  # a row of zeros must not divide by zero
_FEW = 256
"""Up to so many tokens the way of finding the highest is a fast one."""
HEAD_DIM = 64
"""The one dimension of heads that the blocks of GPT-2 are compiled for; all sizes of GPT-2 have it."""

KEPT, KEPT_DIM = torch.int8, HEAD_DIM + 4
"""Of a key or a value: 64 numbers in 8 bits and a float32 to multiply them with, a quarter of the bytes to
read for each token, and to keep from turn to turn. Rounding them moves the starter's distribution of the next
token by 1.8e-4 nats (Kullback-Leibler), as much as 8-bit weights do."""


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


class Gpt2(Structure):
    """A GPT-2 but for its output layer, its embeddings of words in 8 bits."""

    _fields_ = [("words", c_void_p), ("word_scales", c_void_p), ("places", c_void_p),
                ("vocabulary", c_int64), ("positions", c_int64), ("blocks", POINTER(Block)),
                ("layers", c_int64), ("heads", c_int64), ("last", Norm)]  # fmt: skip


class Layer(Structure):
    """A layer of BERT."""

    _fields_ = [("ask", Linear), ("join", Linear), ("widen", Linear), ("narrow", Linear), ("joined", Norm),
                ("narrowed", Norm)]  # fmt: skip


class Bert(Structure):
    """A BERT without its pooler, its embeddings in float32."""

    _fields_ = [("words", c_void_p), ("places", c_void_p), ("kinds", c_void_p), ("vocabulary", c_int64),
                ("positions", c_int64), ("varieties", c_int64), ("first", Norm), ("layers", POINTER(Layer)),
                ("count", c_int64), ("heads", c_int64), ("width", c_int64)]  # fmt: skip


class Rules(Structure):
    """How tokens are drawn, see Sampling."""

    _fields_ = [("temperature", c_float), ("top_p", c_float), ("penalty", c_float), ("top_k", c_int64)]


class Piece(Structure):
    """New tokens of one sequence, and where its keys and values lie."""

    _fields_ = [("held", c_void_p), ("mask", c_void_p), ("mask_stride", c_int64), ("capacity", c_int64),
                ("length", c_int64), ("rows", c_int64)]  # fmt: skip


@cache
def _library() -> Any:
    """None where it is not there. Torch has been imported before, so both share one team of threads."""
    found = importlib.util.find_spec("shared._native")
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
    library.parley_gpt2.argtypes = [
        POINTER(Gpt2), POINTER(Piece), size, size, c_void_p, c_void_p, size, c_void_p, size, c_void_p, size
    ]  # fmt: skip
    library.parley_draw.argtypes = [
        c_void_p, size, size, POINTER(Rules), c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, size
    ]  # fmt: skip
    library.parley_bert.argtypes = [
        POINTER(Bert), c_void_p, c_void_p, c_void_p, size, size, c_void_p, size
    ]  # fmt: skip
    library.parley_large_pages.argtypes = [c_void_p, size]
    library.parley_large_pages.restype = None
    for function in (library.parley_linear, library.parley_gpt2, library.parley_bert, library.parley_draw):
        function.restype = c_int
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


def rounded(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix in int8, and what each of its rows is to be multiplied with, (rows, 1)."""
    scales = matrix.abs().amax(1, keepdim=True).clamp_min_(_LEAST_SCALE) / 127
    return (matrix / scales).round_().to(torch.int8), scales


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
        self._weights = in_large_pages(
            torch.empty((padded // 16, inputs // _TOGETHER, 16, _TOGETHER), dtype=torch.uint8)
        )
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
    model: Gpt2, pieces: "ctypes.Array[Piece]", longest: int, ids: Tensor, positions: Tensor, wanted: Tensor
) -> Tensor:
    """From ids and positions (rows) to the last states (wanted, width) of the rows that are `wanted`.

    The rows are those of all pieces, end to end; `longest` is the most positions that one of them has with
    its new ones. Raises IndexError where the model does not have such an id or position.
    """
    states = torch.empty(len(wanted), model.heads * HEAD_DIM)
    _check(
        _library().parley_gpt2(
            model, pieces, len(pieces), longest, ids.data_ptr(), positions.data_ptr(), len(ids),
            wanted.data_ptr(), len(wanted), states.data_ptr(), torch.get_num_threads(),
        )
    )  # fmt: skip
    return states


def bert(model: Bert, ids: Tensor, kinds: Tensor | None, lengths: Sequence[int]) -> Tensor:
    """From ids and kinds (rows) to the last states (rows, width), of texts of these lengths, end to end.

    Raises IndexError where the model does not have such an id, kind or position.
    """
    states = torch.empty(len(ids), model.width)
    _check(
        _library().parley_bert(
            model, ids.data_ptr(), None if kinds is None else kinds.data_ptr(), _numbers(accumulate(lengths)),
            len(lengths), max(lengths), states.data_ptr(), torch.get_num_threads(),
        )
    )  # fmt: skip
    return states


def draw(
    logits: Tensor,
    rules: Rules,
    said: Sequence[Collection[int]],
    forbidden: Sequence[Collection[int]],
    uniform: Tensor,
) -> tuple[list[int], list[float]]:
    """See Sampling.draw. `said` are the tokens of each row of which repetition is penalised, `forbidden`
    those that may not come: each once, and in one of both. Raises IndexError where there is no such token."""
    rows, columns = logits.shape
    ends: list[int] = []
    for row in zip(said, forbidden, strict=True):
        ends += [len(tokens) + before for tokens, before in zip(row, ends[-2:] or (0, 0), strict=True)]
    tokens, logprobs = (c_int64 * rows)(), (c_float * rows)()
    _check(
        _library().parley_draw(
            logits.data_ptr(), rows, columns, rules, _numbers(chain.from_iterable(said)),
            _numbers(chain.from_iterable(forbidden)), _numbers(ends), uniform.data_ptr(), tokens, logprobs,
            min(torch.get_num_threads(), rows),
        )
    )  # fmt: skip
    return list(tokens), list(logprobs)


def takes(logits: Tensor, top_k: int) -> bool:
    """Whether `draw` is for these: of few tokens, not of all."""
    fits = logits.is_contiguous() and 0 < top_k <= min(_FEW, logits.shape[1])
    return fits and logits.device.type == "cpu" and logits.dtype == torch.float32 and available()


def in_large_pages(memory: Tensor) -> Tensor:
    """The same, and if there are large pages, there: fewer addresses have to be looked up to read it."""
    if memory.device.type == "cpu" and available():
        _library().parley_large_pages(memory.data_ptr(), memory.nbytes)
    return memory


def _numbers(given: Iterable[int]) -> "ctypes.Array[c_int64]":
    numbers = list(given)
    return (c_int64 * len(numbers))(*numbers)


def _check(status: int) -> None:
    if status == _OUT_OF_RANGE:
        raise IndexError("a token or a position that the model does not have")
    if status != 0:
        raise MemoryError("no memory for a step of the model")
