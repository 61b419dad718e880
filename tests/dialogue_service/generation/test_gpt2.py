"""GPT-2 in native code: what torch computes, and the same bits however the work is divided."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from dialogue_service.generation import int8, precision
from dialogue_service.generation.gpt2 import Gpt2, NativeGpt2
from dialogue_service.generation.packed import PackedModel
from dialogue_service.generation.piece import KeyValues, Piece
from dialogue_service.generation.tree import Tree
from shared import native
from shared.checkpoint import load_model
from tests import checkpoints
from tests.dialogue_service.generation.test_packed import ids_of
from tests.processor import able, on_able_processors


@pytest.fixture
def model(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(int8, "_SMALLEST", 0)
    return precision.load(gpt2, "int8")


def read(model: PackedModel, ids: list[int], chunk: int, *beside: Tree) -> Tensor:
    """The logits of every chunk's last token, `beside` read in the same passes as far as they go."""
    tree, made = Tree(ids, KeyValues(), model.like), []
    while not tree.read:
        others = [other.chunk(3) for other in beside if not other.read]
        made.append(model([*others, tree.chunk(chunk)])[-1])
    return torch.cat(made)


@on_able_processors
@torch.inference_mode()
def test_it_computes_what_torch_does(model: Any) -> None:
    ids = ids_of(0, 150)
    packed = PackedModel(model)
    assert isinstance(packed._pass, NativeGpt2)
    made = read(packed, ids, 1)
    lean = Gpt2.of(model)
    assert lean
    packed._pass = lean
    expected = read(packed, ids, 1)
    assert ((made - expected).norm(dim=1) / expected.norm(dim=1)).max() < 0.05  # keys and values have 8 bits


@on_able_processors
@torch.inference_mode()
@pytest.mark.parametrize(("ids", "positions"), [([10**6], [0]), ([-1], [0]), ([0], [10**6])])
def test_what_the_model_does_not_have_is_refused(model: Any, ids: list[int], positions: list[int]) -> None:
    packed = PackedModel(model)
    with pytest.raises(IndexError):
        packed([Piece(KeyValues(), ids, positions, None, 1)])


@on_able_processors
@torch.inference_mode()
@pytest.mark.usefixtures("threads")
def test_logits_are_the_same_bits_however_a_prompt_is_read(model: Any) -> None:
    ids, packed = ids_of(0, 150), PackedModel(model)
    one_by_one = read(packed, ids, 1)
    for count in (1, 2):
        torch.set_num_threads(count)
        for chunk in (2, 3, 4, 7, 16, 50, 150):
            beside = [Tree(ids_of(seed, 40), KeyValues(), packed.like) for seed in (1, 2)]
            ends = [min(begin + chunk, 150) - 1 for begin in range(0, 150, chunk)]
            assert torch.equal(read(packed, ids, chunk, *beside), one_by_one[ends])


@on_able_processors
@torch.inference_mode()
@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_a_candidate_leaves_the_same_bits_as_if_it_had_been_alone(model: Any, chosen: int) -> None:
    packed = PackedModel(model)
    prompt, replies = ids_of(0, 50), [ids_of(seed, 20) for seed in (1, 2, 3)]
    tree, alone = (Tree(prompt, KeyValues(), packed.like) for _ in range(2))
    packed([tree.chunk(50), alone.chunk(50)])
    for depth in range(20):
        living = [branch for branch in range(3) if branch == chosen or depth < 5 + branch]
        made, expected = packed(
            [
                tree.step(living, [replies[branch][depth] for branch in living], depth),
                alone.step([0], [replies[chosen][depth]], depth),
            ]
        )
        assert torch.equal(made[living.index(chosen)], expected[0])
    kept, expected_kept = tree.keep(chosen), alone.keep(0)
    assert kept.length == expected_kept.length == 70
    held, expected_held = (
        one.room(2, 2, 0, native.KEPT_DIM, packed.like)[..., :70, :] for one in (kept, expected_kept)
    )
    assert held.dtype == native.KEPT
    assert torch.equal(held, expected_held)


@on_able_processors
@pytest.mark.parametrize(
    "more", [{"activation_function": "relu"}, {"width": 32}, {"add_cross_attention": True}]
)
def test_other_kinds_of_gpt2_are_left_to_torch(
    more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "_SMALLEST", 0)
    folder = checkpoints.gpt2_like(tmp_path, vocab=None, **({"width": 128} | more))
    assert NativeGpt2.of(precision.load(folder, "int8")) is None


@torch.inference_mode()
def test_torch_does_all_where_it_is_not_there(
    gpt2: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native, "_library", lambda: None)
    monkeypatch.setattr(int8, "_SMALLEST", 0)
    assert int8.supported()
    packed = PackedModel(precision.load(gpt2, "int8"))
    assert isinstance(packed._pass, Gpt2)
    exact = load_model(AutoModelForCausalLM, gpt2)(torch.tensor([ids_of(0, 60)])).logits[0, -1]
    assert (read(packed, ids_of(0, 60), 20)[-1] - exact).norm() / exact.norm() < 0.1
    assert ("install a C compiler" in caplog.text) == able
