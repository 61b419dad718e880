"""Native code: exact, the same bits however the work is divided, and clean in its use of memory."""

import math
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from dialogue_service.generation import int8, native, precision
from dialogue_service.generation.gpt2 import Gpt2, NativeGpt2
from dialogue_service.generation.packed import PackedModel
from dialogue_service.generation.piece import KeyValues
from dialogue_service.generation.sampling import Sampling
from dialogue_service.generation.tree import Tree
from shared.checkpoint import load_model
from shared.settings import REPOSITORY
from tests import checkpoints
from tests.dialogue_service.generation.test_packed import ids_of
from tests.outside import need

CPUINFO = Path("/proc/cpuinfo")
NEEDED = {"avx512f", "avx512bw", "avx512vl", "avx512_vnni"}
able = CPUINFO.exists() and set(CPUINFO.read_text().split()) >= NEEDED
on_able_processors = pytest.mark.skipif(
    not (able and shutil.which("gcc")), reason="this processor lacks AVX-512 VNNI, or there is no gcc"
)


@pytest.fixture
def threads() -> Iterator[None]:
    """Sets their number back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_it_is_there_where_the_processor_is_able() -> None:
    if able:
        need(shutil.which("gcc"), "gcc")
    assert native.available() == able


@on_able_processors
@pytest.mark.parametrize("outputs", [1, 31, 32, 33, 300])
@pytest.mark.parametrize("inputs", [16, 208])
def test_a_product_is_exact_in_what_it_was_given(outputs: int, inputs: int) -> None:
    torch.manual_seed(0)
    weight = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
    scales, bias = torch.rand(outputs) + 0.5, torch.randn(outputs)
    weights = native.Weights(weight, scales, bias)
    for rows in (*range(1, 26), 40, 128):
        x = torch.randint(-127, 128, (rows, inputs)).float()
        x[:, 0] = 127  # then the scale of each row is 1, and nothing is rounded
        expected = x.double() @ weight.double().T * scales.double() + bias.double()
        torch.testing.assert_close(weights(x).double(), expected, rtol=1e-6, atol=1e-4)


@on_able_processors
@pytest.mark.usefixtures("threads")
def test_a_row_is_the_same_bits_alone_beside_others_and_with_any_number_of_threads() -> None:
    torch.manual_seed(0)
    layer = int8.Int8Linear(torch.randn(300, 208), torch.randn(300))
    x = torch.randn(64, 208) * torch.logspace(-2, 2, 64)[:, None]
    whole = layer(x)
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        for n in (1, 2, 5, 12, 13, 25, 64):
            assert torch.equal(torch.cat([layer(part) for part in x.split(n)]), whole)


@on_able_processors
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_number_stays_none_and_in_its_row(bad: float) -> None:
    torch.manual_seed(0)
    layer, x = int8.Int8Linear(torch.randn(40, 48), torch.randn(40)), torch.randn(3, 48)
    before = layer(x)
    x[1, 7] = bad
    after = layer(x)
    assert after[1].isnan().all()
    assert torch.equal(after[[0, 2]], before[[0, 2]])


@on_able_processors
def test_draws_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    logits, uniform = torch.randn(40, 5003) * 4, torch.rand(40)
    logits[3, 30:] = -torch.inf
    replies = [torch.randint(0, 5003, (row,)).tolist() + row % 3 * [1, 2, 3] for row in range(40)]
    for sampling in (Sampling(frozenset({7})), Sampling(frozenset({7}), 1.3, 1.0, 200, 0.8)):
        tokens, logprobs = sampling.draw(logits, replies, uniform)
        for row in range(40):
            alone = sampling.draw(logits[row : row + 1], [replies[row]], uniform[row : row + 1])
            assert alone == ([tokens[row]], [logprobs[row]])
        with monkeypatch.context() as patch:
            patch.setattr(native, "takes", lambda *_: False)
            expected, expected_logprobs = sampling.draw(logits, replies, uniform)
        assert tokens == expected
        assert logprobs == pytest.approx(expected_logprobs, abs=1e-4)


@on_able_processors
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_draw_from_what_is_no_number_has_no_probability(bad: float) -> None:
    logits = torch.zeros(3, 5003)
    logits[1, 7] = bad
    logits[2] = bad
    _, logprobs = Sampling(frozenset()).draw(logits, [[], [], []], torch.full((3,), 0.5))
    assert [math.isfinite(logprob) for logprob in logprobs] == [True, False, False]


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
def test_the_blocks_compute_what_torch_does(model: Any) -> None:
    ids = ids_of(0, 150)
    packed = PackedModel(model)
    assert isinstance(packed._pass, NativeGpt2)
    made = read(packed, ids, 1)
    lean = Gpt2.of(model)
    assert lean
    packed._pass = lean
    expected = read(packed, ids, 1)
    assert ((made - expected).norm(dim=1) / expected.norm(dim=1)).max() < 0.03  # keys and values have half


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
    held, expected_held = (one.room(2, 2, 0, 64, packed.like)[..., :70, :] for one in (kept, expected_kept))
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


@on_able_processors
def test_it_keeps_within_its_memory(tmp_path: Path) -> None:
    program = tmp_path / "sanitized"
    subprocess.run(
        ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-fopenmp", "-fsanitize=address,undefined",
         "-fno-sanitize-recover=all", "tests/dialogue_service/generation/sanitized.c", "-o", program, "-lm"],
        cwd=REPOSITORY, check=True,
    )  # fmt: skip
    done = subprocess.run([program], env={"ASAN_OPTIONS": "detect_leaks=0"}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
