"""Many sequences in one pass, each as if it were alone."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from dialogue_service.generation import precision
from dialogue_service.generation.packed import PackedModel
from dialogue_service.generation.piece import KeyValues, causal
from dialogue_service.generation.tree import Tree
from shared.checkpoint import load_model
from shared.hub import ModelUnavailable
from tests import checkpoints


@pytest.fixture
def model(folder: Path) -> PackedModel:
    return PackedModel(load_model(AutoModelForCausalLM, folder))


def plain(folder: Path, ids: list[int]) -> torch.Tensor:
    """The logits of transformers' own forward pass."""
    with torch.inference_mode():
        logits = load_model(AutoModelForCausalLM, folder)(torch.tensor([ids])).logits[0]
    return torch.as_tensor(logits)


def ids_of(seed: int, n: int) -> list[int]:
    return torch.randint(5, 250, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.inference_mode()
def test_chunks_of_several_prompts_in_one_pass_are_as_each_alone(folder: Path, model: PackedModel) -> None:
    prompts = [ids_of(seed, n) for seed, n in enumerate((7, 90, 300))]
    trees = [Tree(prompt, KeyValues(), model.like) for prompt in prompts]
    last: dict[int, torch.Tensor] = {}
    while reading := [tree for tree in trees if not tree.read]:
        for tree, logits in zip(reading, model([tree.chunk(40) for tree in reading]), strict=True):
            last[id(tree)] = logits[0]
    for tree, prompt in zip(trees, prompts, strict=True):
        torch.testing.assert_close(last[id(tree)], plain(folder, prompt)[-1], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_eight_bits_compute_nearly_the_same(folder: Path, dtype: str) -> None:
    ids = ids_of(0, 200)
    model = PackedModel(precision.load(folder, dtype))
    (logits,) = model([Tree(ids, KeyValues(), model.like).chunk(200)])
    exact = plain(folder, ids)[-1]
    assert (logits[0] - exact).norm() / exact.norm() < {"fp32": 1e-4, "int8": 0.1}[dtype]


@torch.inference_mode()
def test_candidates_see_the_prompt_and_themselves_only(folder: Path, model: PackedModel) -> None:
    prompt, replies = ids_of(0, 150), [ids_of(seed, 9) for seed in (1, 2, 3)]
    tree, other = (Tree(ids, KeyValues(), model.like) for ids in (prompt, ids_of(9, 60)))
    model([tree.chunk(150), other.chunk(60)])
    living = [[0, 1, 2]] * 4 + [[0, 2]] * 5  # one ends early
    for depth, branches in enumerate(living):
        step = tree.step(branches, [replies[b][depth] for b in branches], depth)
        mine, _ = model([step, other.step([0], [7], depth)])
    for row, branch in enumerate(living[-1]):
        expected = plain(folder, [*prompt, *replies[branch]])[-1]
        torch.testing.assert_close(mine[row], expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_the_chosen_branch_can_be_gone_on_from(folder: Path, model: PackedModel, chosen: int) -> None:
    prompt, replies, more = ids_of(0, 120), [ids_of(seed, 20) for seed in (1, 2, 3)], ids_of(4, 30)
    tree = Tree(prompt, KeyValues(), model.like)
    model([tree.chunk(120)])
    for depth in range(20):
        model([tree.step([0, 1, 2], [reply[depth] for reply in replies], depth)])
    whole = [*prompt, *replies[chosen], *more]
    kept = tree.keep(chosen)
    assert kept.length == 140
    (logits,) = model([Tree(whole, kept, model.like).chunk(30)])
    torch.testing.assert_close(logits[0], plain(folder, whole)[-1], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_branches_can_be_cut_and_grown_again(folder: Path, model: PackedModel) -> None:
    prompt, reply = ids_of(0, 20), ids_of(1, 3)
    tree = Tree(prompt, KeyValues(), model.like)
    model([tree.chunk(20)])
    model([tree.step([0, 1], [5, 6], 0)])
    tree.cut()
    for depth, id_ in enumerate(reply):
        (logits,) = model([tree.step([0, 1], [id_, 9], depth)])
    torch.testing.assert_close(logits[0], plain(folder, [*prompt, *reply])[-1], rtol=1e-4, atol=1e-4)


def test_a_causal_mask_lets_each_see_what_is_before_it() -> None:
    mask = causal(2, 3, torch.empty(0))
    assert mask is not None
    assert (mask == 0).tolist() == [
        [True, True, True, False, False],
        [True, True, True, True, False],
        [True, True, True, True, True],
    ]


def test_a_model_with_a_recurrent_state_is_refused(tmp_path: Path) -> None:
    model = load_model(AutoModelForCausalLM, checkpoints.mamba_like(tmp_path))
    with pytest.raises(ModelUnavailable, match="MambaForCausalLM does not compute") as refused:
        PackedModel(model)
    assert refused.value.lasting
