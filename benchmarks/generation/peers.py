"""The others: what else can make replies of the same checkpoint on this processor."""

import importlib.util
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from benchmarks.generation import model

NAIVE, LINEAR, CTRANSLATE2, LLAMA = "naive", "naive, Linear", "CTranslate2 int8", "llama.cpp Q8_0"
CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Peer(Protocol):
    """Makes `count` tokens after each prompt, greedily, and checks that it did."""

    def make(self, prompts: Sequence[list[int]], count: int) -> None:
        """All prompts, as a batch where the peer knows batches. Nothing is kept for the next call."""
        ...


class Naive:
    """`generate` in float32 over the whole prompt, as examples and tutorials do it."""

    def __init__(self, checkpoint: Path, *, linear: bool) -> None:
        """With `linear` the Conv1D modules, which GPT-2 has by history, are rewritten as Linear."""
        self._model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        if linear:
            _linear(self._model)

    def make(self, prompts: Sequence[list[int]], count: int) -> None:
        """See Peer."""
        for ids in prompts:
            inputs = torch.tensor([ids])
            with torch.inference_mode():
                made = self._model.generate(
                    inputs,
                    attention_mask=torch.ones_like(inputs),
                    do_sample=False,
                    max_new_tokens=count,
                    pad_token_id=self._model.config.eos_token_id,
                )
            _expect(made.shape[1] - len(ids), count)


class CTranslate2:
    """CTranslate2 with the int8 weights of its own converter."""

    def __init__(self, checkpoint: Path, words: model.Words) -> None:
        import ctranslate2

        folder = str(model.ctranslate2_int8(checkpoint))
        self._generator = ctranslate2.Generator(folder, "cpu", compute_type="int8", intra_threads=CPUS)
        self._tokens: Callable[[list[int]], list[str]] = words.tokenizer.convert_ids_to_tokens

    def make(self, prompts: Sequence[list[int]], count: int) -> None:
        """See Peer."""
        results = self._generator.generate_batch(
            [self._tokens(ids) for ids in prompts],
            max_length=count,
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        for result in results:
            _expect(len(result.sequences_ids[0]), count)


class LlamaCpp:
    """llama.cpp through its Python bindings, the matrices in Q8_0."""

    def __init__(self, checkpoint: Path) -> None:
        import llama_cpp

        self._llama = llama_cpp.Llama(
            str(model.gguf_q8(checkpoint)),
            n_ctx=model.POSITIONS,
            n_threads=CPUS,
            n_threads_batch=CPUS,
            verbose=False,
        )

    def make(self, prompts: Sequence[list[int]], count: int) -> None:
        """See Peer."""
        for ids in prompts:
            self._llama.reset()
            self._llama.eval(ids)
            self._decode(count)

    def go_on(self, ids: list[int], count: int) -> None:
        """As `make`, with what it still knows of the beginning of `ids` from the call before."""
        known = self._llama.input_ids[: self._llama.n_tokens].tolist()
        same = next((i for i, (a, b) in enumerate(zip(known, ids, strict=False)) if a != b), len(known))
        same = min(same, len(ids) - 1)
        self._llama._ctx.kv_cache_seq_rm(-1, same, -1)
        self._llama.n_tokens = same
        self._llama.eval(ids[same:])
        self._decode(count)

    def _decode(self, count: int) -> None:
        for made in range(count):
            token = self._llama.sample(temp=0.0)
            if token == self._llama.token_eos():
                _expect(made, count)
            if made + 1 < count:
                self._llama.eval([token])


_PACKAGES = {CTRANSLATE2: ("ctranslate2",), LLAMA: ("llama_cpp", "gguf")}


def missing() -> dict[str, str]:
    """Columns that cannot be had here, and why."""
    absent = {
        column: [package for package in packages if importlib.util.find_spec(package) is None]
        for column, packages in _PACKAGES.items()
    }
    return {
        column: f"not measured, {' and '.join(packages)} not installed"
        for column, packages in absent.items()
        if packages
    }


class Apart:
    """A peer in a process of its own, as it would be served: its threads slow nobody else down."""

    def __init__(self, column: str, checkpoint: Path) -> None:
        before = os.environ.get(_SPIN)
        os.environ[_SPIN] = "300000"  # libgomp's own default, not Parley's setting
        try:
            self._process = ProcessPoolExecutor(1, get_context("spawn"), _begin, (column, checkpoint))
            self._process.submit(_call, "make", [[0]], 1).result()
        finally:
            os.environ.pop(_SPIN)
            if before is not None:
                os.environ[_SPIN] = before

    def make(self, prompts: Sequence[list[int]], count: int) -> None:
        """See Peer."""
        self._process.submit(_call, "make", prompts, count).result()

    def go_on(self, ids: list[int], count: int) -> None:
        """See LlamaCpp."""
        self._process.submit(_call, "go_on", ids, count).result()


_SPIN = "GOMP_SPINCOUNT"
_here: dict[str, Peer] = {}


def _begin(column: str, checkpoint: Path) -> None:
    makers: dict[str, Callable[[], Peer]] = {
        NAIVE: lambda: Naive(checkpoint, linear=False),
        LINEAR: lambda: Naive(checkpoint, linear=True),
        CTRANSLATE2: lambda: CTranslate2(checkpoint, model.Words(checkpoint)),
        LLAMA: lambda: LlamaCpp(checkpoint),
    }
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    _here["peer"] = makers[column]()


def _call(method: str, *arguments: object) -> None:
    getattr(_here["peer"], method)(*arguments)


def others(checkpoint: Path) -> dict[str, Apart]:
    """Those that can be had here, by column."""
    columns = [NAIVE, LINEAR, CTRANSLATE2, LLAMA]
    return {column: Apart(column, checkpoint) for column in columns if column not in missing()}


def _linear(module: Any) -> None:
    for name, child in module.named_children():
        if isinstance(child, Conv1D):
            rewritten = torch.nn.Linear(*child.weight.shape)
            with torch.no_grad():
                rewritten.weight.copy_(child.weight.T)
                rewritten.bias.copy_(child.bias)
            setattr(module, name, rewritten)
        else:
            _linear(child)


def _expect(made: int, count: int) -> None:
    """Nobody is told to go on past the end of a turn: the weights see to that, and this to it."""
    if made != count:
        raise RuntimeError(f"{made} tokens were made instead of {count}: the comparison would be wrong")
