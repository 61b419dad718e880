"""Products in native code: exact, the same bits however the work is divided, clean in their use of memory."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from shared import native
from shared.settings import REPOSITORY
from tests.outside import need
from tests.processor import able, on_able_processors


def test_it_is_there_where_the_processor_is_able() -> None:
    if able:
        need(shutil.which("gcc"), "gcc")
    assert native.available() == able


def layer_of(weight: torch.Tensor) -> native.Weights:
    """One whose bias is 1, 2, 3, ..."""
    whole, scales = native.rounded(weight)
    return native.Weights(whole, scales[:, 0], torch.arange(1.0, len(weight) + 1))


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
    layer = layer_of(torch.randn(300, 208))
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
    layer, x = layer_of(torch.randn(40, 48)), torch.randn(3, 48)
    before = layer(x)
    x[1, 7] = bad
    after = layer(x)
    assert after[1].isnan().all()
    assert torch.equal(after[[0, 2]], before[[0, 2]])


@on_able_processors
def test_it_keeps_within_its_memory(tmp_path: Path) -> None:
    program = tmp_path / "sanitized"
    subprocess.run(
        ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-fopenmp", "-fsanitize=address,undefined",
         "-fno-sanitize-recover=all", "tests/shared/sanitized.c", "-o", program, "-lm"],
        cwd=REPOSITORY, check=True,
    )  # fmt: skip
    done = subprocess.run([program], env={"ASAN_OPTIONS": "detect_leaks=0"}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
