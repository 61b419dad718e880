"""An engine around a small real model, and ways to look at its work step by step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from dialogue_service import prompt
from dialogue_service.generation import int8
from dialogue_service.generation.decoding import Blank
from dialogue_service.generation.engine import Engine
from dialogue_service.generation.job import Job, Speaker
from dialogue_service.generation.packed import PackedModel
from dialogue_service.generation.piece import Piece
from dialogue_service.generation.sampling import Sampling
from shared.checkpoint import load_model, load_tokenizer
from tests import checkpoints

WAIT_S = 60.0


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rotary positions, shared key heads, a chat template."""
    return checkpoints.llama_like(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DialoGPT's format and dimension of heads, weights so wide that what was said before clearly matters."""
    folder = tmp_path_factory.mktemp("models") / "gpt2"
    return checkpoints.gpt2_like(folder, vocab=None, spread=0.1, width=128)


@pytest.fixture(params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest) -> Path:
    """A model of each kind."""
    made: Path = request.getfixturevalue(request.param)
    return made


@pytest.fixture(params=["fp32", "int8"])
def dtype(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each precision; 8 bits in all layers, however small."""
    monkeypatch.setattr(int8, "_SMALLEST", 0)
    return str(request.param)


class Counted(PackedModel):
    """A model that counts its passes and their tokens, and can be told to fail in the next one."""

    passes = 0
    most = 0
    """Tokens of the largest pass."""
    fails = False

    def __call__(self, pieces: Sequence[Piece]) -> list[Tensor]:
        self.passes += 1
        self.most = max(self.most, sum(len(piece.ids) for piece in pieces))
        if self.fails:
            self.fails = False
            raise RuntimeError("a broken pass")
        return super().__call__(pieces)


@dataclass
class Bench:
    """An engine, its model, and what its jobs need."""

    model: Counted
    speaker: Speaker
    engine: Engine

    def job(
        self,
        *turns: str,
        reply_tokens: int = 12,
        candidates: int = 1,
        seed: int = 0,
        on_text: Callable[[str], None] | None = None,
    ) -> Job:
        """A job of this model, not submitted."""
        speaker = replace(self.speaker, reply_tokens=reply_tokens, candidates=candidates)
        return Job(speaker, turns, seed, on_text)

    def run(self, *turns: str, **options: int) -> str:
        """A reply, waited for."""
        job = self.job(*turns, **options)
        self.engine.submit(job)
        return job.reply.result(WAIT_S)


def bench(folder: Path, *, queue: int = 32, cache_bytes: int = 10**8) -> Bench:
    """An engine whose model never ends a reply of itself: how many steps a reply takes is known."""
    model, tokenizer = load_model(AutoModelForCausalLM, folder), load_tokenizer(folder)
    counted = Counted(model)
    with torch.inference_mode():
        blank = Blank.read(counted, prompt.blank(tokenizer))
    speaker = Speaker(
        tokenizer=tokenizer,
        ids_of=prompt.plain(tokenizer),
        window=900,
        reply_tokens=12,
        candidates=1,
        end_ids=frozenset(),
        blank=blank,
        like=counted.like,
    )
    counted.passes = 0
    return Bench(
        counted, speaker, Engine(counted, Sampling(frozenset()), queue=queue, cache_bytes=cache_bytes)
    )
