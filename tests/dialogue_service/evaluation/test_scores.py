"""What is measured of a real model."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dialogue_service.evaluation import scores, small_talk
from dialogue_service.evaluation.scores import Scores
from dialogue_service.training.corpus import Corpus
from dialogue_service.training.data import Dialogue, Thumb
from shared.settings import REPOSITORY

STARTER = REPOSITORY / "models" / "starter"
GENERATION = {"context_tokens": 64, "reply_tokens": 8, "candidates": 2, "dtype": "fp32"}
CORPUS = Corpus(
    files=[],
    learned=[],
    held_out=[Dialogue(("hi", "hello there"), (False, True), "1-1")],
    thumbs=[],
    held_out_thumbs=[Thumb(("hi", "hello there"), True, "1-1"), Thumb(("bye", "no"), False, "2-1")],
)


def measure(folder: Path) -> Scores:
    seen: list[tuple[int, int]] = []
    measured = scores.measure(folder, CORPUS, GENERATION, lambda *step: seen.append(step))
    total = sum(len(turns) // 2 for turns in small_talk.conversations())
    assert seen[-1] == (total, total)
    return measured


@pytest.fixture(scope="module")
def starter() -> Scores:
    return measure(STARTER)


def test_there_is_a_reply_to_every_line(starter: Scores) -> None:
    assert [len(own) for own in starter.replies] == [len(turns) // 2 for turns in small_talk.conversations()]
    assert all(reply.strip() for reply in starter.all_replies)
    assert (len(starter.up), len(starter.down), len(starter.approved.means)) == (1, 1, 1)
    assert 1 < starter.small_talk.perplexity < 200


def _changed(folder: Path, how: Callable[[str, torch.Tensor], torch.Tensor]) -> Path:
    """A copy of the starter with other weights."""
    shutil.copytree(STARTER, folder)
    file = folder / "model.safetensors"
    weights = {name: how(name, weight) for name, weight in load_file(file).items()}
    file.unlink()
    save_file(weights, file, metadata={"format": "pt"})
    return folder


def test_a_spoilt_model_is_found_out(starter: Scores, tmp_path: Path) -> None:
    torch.manual_seed(0)
    spoilt = _changed(tmp_path / "spoilt", lambda _, w: w + 0.05 * torch.randn(w.shape).to(w.dtype))
    assert measure(spoilt).small_talk.perplexity > 1.1 * starter.small_talk.perplexity


def test_how_sure_of_itself_a_model_is_does_not_count(starter: Scores, tmp_path: Path) -> None:
    surer = _changed(tmp_path / "surer", lambda name, w: 1.4 * w if ".ln_f." in name else w)
    assert measure(surer).small_talk.perplexity == pytest.approx(starter.small_talk.perplexity, rel=0.01)
