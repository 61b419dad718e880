"""What thumbs taught about replies, and that it says which candidate is taken."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from dialogue_service.generation import precision
from dialogue_service.generation.decoding import Decoding
from dialogue_service.generation.local import LocalGenerator
from dialogue_service.generation.packed import PackedModel
from dialogue_service.generation.piece import KeyValues
from dialogue_service.generation.preference import FILE, Preference
from dialogue_service.generation.tree import Tree
from shared.checkpoint import load_model
from shared.hub import ModelUnavailable

IDS = list(range(5, 65))


def some(model: Any) -> Preference:
    hidden = model.get_input_embeddings().weight.shape[1]
    line = torch.randn(hidden, 2, generator=torch.Generator().manual_seed(1))
    return Preference(6 * line / hidden**0.5, 0.25)  # log-odds of some units, whatever the width


def test_a_reply_is_worth_the_mean_of_its_tokens_and_its_last_one() -> None:
    line = Preference(torch.zeros(4, 2), bias=0.5)
    assert line.log_odds([[1.0, 7.0], [2.0, 7.0], [6.0, -1.0]]) == pytest.approx(3 - 1 + 0.5)
    assert line.log_odds([]) == 0


@torch.inference_mode()
def test_its_terms_are_of_the_last_states(folder: Path, dtype: str) -> None:
    model = load_model(AutoModelForCausalLM, folder)
    line = some(model)
    states = model.base_model(torch.tensor([IDS])).last_hidden_state[0]
    packed = PackedModel(precision.load(folder, dtype), line)
    tree, other = (Tree(ids, KeyValues(), packed.like) for ids in (IDS[:59], IDS[3:40]))
    packed([tree.chunk(59), other.chunk(37)])
    pieces = [other.step([0], [70], 0), tree.step([0, 1], [IDS[59], 80], 0)]
    packed(pieces)
    first, second = pieces[0].terms, pieces[1].terms
    assert first is not None
    assert second is not None
    assert (len(first), len(second)) == (1, 2)
    expected = states[59] @ line.weights
    assert (second[0] - expected).norm() / expected.norm() < {"fp32": 1e-4, "int8": 0.15}[dtype]


def test_it_is_kept_beside_the_weights(folder: Path, tmp_path: Path) -> None:
    model = load_model(AutoModelForCausalLM, folder)
    assert Preference.load(tmp_path, model) is None
    line = some(model)
    line.save(tmp_path)
    again = Preference.load(tmp_path, model)
    assert again
    assert again.bias == line.bias
    assert torch.equal(again.weights, line.weights)


@pytest.mark.anyio
async def test_it_says_which_candidate_is_taken(folder: Path, dtype: str, tmp_path: Path) -> None:
    liking = Path(shutil.copytree(folder, tmp_path / "liking"))
    some(load_model(AutoModelForCausalLM, folder)).save(liking)

    async def replies(model: Path) -> list[str]:
        generator = LocalGenerator(model, context_tokens=64, reply_tokens=8, candidates=4, dtype=dtype)
        return [await generator.reply(["hello"], seed=seed) for seed in range(10)]

    plain, liked = await replies(folder), await replies(liking)
    assert plain != liked
    assert await replies(liking) == liked


@pytest.mark.anyio
@pytest.mark.parametrize(("bias", "attempts"), [(1e3, 1), (-1e3, 3)])
async def test_where_no_candidate_is_likely_to_be_liked_more_are_drawn(
    folder: Path, tmp_path: Path, bias: float, attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    liking = Path(shutil.copytree(folder, tmp_path / "liking"))
    replace(some(load_model(AutoModelForCausalLM, folder)), bias=bias).save(liking)
    drawn = []
    again = Decoding.again
    monkeypatch.setattr(Decoding, "again", lambda self: (drawn.append(1), again(self)))
    generator = LocalGenerator(liking, context_tokens=64, reply_tokens=8, candidates=2, dtype="fp32")
    turns = ["hello"]
    for turn in range(1, 4):  # what is kept of a reply of an earlier attempt must serve the next turn
        turns += [await generator.reply(turns, seed=turn), "and you?"]
        assert len(drawn) == turn * (attempts - 1)
    fresh = LocalGenerator(liking, context_tokens=64, reply_tokens=8, candidates=2, dtype="fp32")
    assert await fresh.reply(turns, seed=9) == await generator.reply(turns, seed=9)


@pytest.mark.parametrize("fault", ["another model's", "no number", "half of it"])
def test_a_broken_one_is_refused(folder: Path, tmp_path: Path, fault: str) -> None:
    model = load_model(AutoModelForCausalLM, folder)
    kept = {"weights": some(model).weights, "bias": torch.zeros(1)}
    if fault == "another model's":
        kept["weights"] = torch.zeros(7, 2)
    elif fault == "no number":
        kept["weights"][0, 0] = torch.nan
    elif fault == "half of it":
        del kept["bias"]
    save_file(kept, tmp_path / FILE)
    with pytest.raises(ModelUnavailable):
        Preference.load(tmp_path, model)
