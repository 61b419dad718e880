"""What is drawn, by the rules and by chance."""

import math
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from dialogue_service.generation.sampling import Sampling, highest
from shared import native
from tests.processor import on_able_processors

END = 99
VOCABULARY = 100


@pytest.fixture(autouse=True, params=["torch", "native"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to draw, where there are both."""
    if request.param == "torch":
        monkeypatch.setattr(native, "takes", lambda *_: False)
    elif not native.available():
        pytest.skip("there is no native code for this processor")
    return str(request.param)


@pytest.fixture
def logits() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(6, VOCABULARY) * 3


@pytest.mark.parametrize("count", [1, 5, 50, 5000])
@pytest.mark.parametrize("columns", [40, 5003, 50257])
def test_the_highest_are_those_of_topk(count: int, columns: int) -> None:
    torch.manual_seed(0)
    scores = torch.randn(3, columns)
    scores[1, columns // 2 :] = -torch.inf
    scores[2, -1] = 9.0  # behind the last whole block

    values, ids = highest(scores, count)

    expected = scores.topk(min(count, columns)).values
    assert torch.equal(values, expected)
    assert torch.equal(scores.gather(1, ids), expected)
    assert all(len(set(row)) == len(row) for row in ids.tolist())


def frequencies(sampling: Sampling, logits: torch.Tensor, reply: list[int]) -> torch.Tensor:
    """How often each token is drawn when the uniform numbers are spread evenly."""
    n = 20_000
    uniform = (torch.arange(n) + 0.5) / n
    tokens, _ = sampling.draw(logits.repeat(n, 1), [reply] * n, uniform)
    return torch.bincount(torch.tensor(tokens), minlength=VOCABULARY) / n


@pytest.mark.parametrize("reply", [[], [4], [4, 7, 4, 9, 30]])
@pytest.mark.parametrize(("top_k", "top_p"), [(50, 0.9), (5, 1.0), (0, 0.5), (3, 0.2)])
def test_the_distribution_is_that_of_transformers_own_rules(
    logits: torch.Tensor, reply: list[int], top_k: int, top_p: float
) -> None:
    sampling = Sampling(frozenset({END}), temperature=0.7, top_p=top_p, top_k=top_k, repetition_penalty=1.3)
    rules = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(1.3),
            MinNewTokensLengthLogitsProcessor(0, 2, [END]),
            TemperatureLogitsWarper(0.7),
            TopKLogitsWarper(top_k or VOCABULARY),
            TopPLogitsWarper(top_p),
        ]
    )
    expected = rules(torch.tensor([reply], dtype=torch.long), logits[:1].clone()).softmax(-1)[0]
    drawn = frequencies(sampling, logits[:1], reply)
    torch.testing.assert_close(drawn, expected, rtol=0, atol=2e-4)


def test_log_probabilities_are_the_models_own(logits: torch.Tensor) -> None:
    tokens, logprobs = Sampling(frozenset({END})).draw(logits, [[1, 2, 3]] * 6, torch.full((6,), 0.3))
    own = logits.log_softmax(-1)[range(6), tokens]
    torch.testing.assert_close(torch.tensor(logprobs), own)


def test_a_row_does_not_depend_on_its_neighbours(logits: torch.Tensor) -> None:
    sampling = Sampling(frozenset({END}))
    replies = [[], [1], [2, 3], [4] * 9, [5, 6, 7], [8, 9]]
    uniform = torch.rand(6, generator=torch.Generator().manual_seed(3))
    together = sampling.draw(logits, replies, uniform)[0]
    alone = [sampling.draw(logits[i : i + 1], [replies[i]], uniform[i : i + 1])[0][0] for i in range(6)]
    assert together == alone


def test_no_run_of_four_comes_twice(logits: torch.Tensor) -> None:
    sampling = Sampling(frozenset({END}), top_k=1)
    wish = torch.full((1, VOCABULARY), -5.0)
    wish[0, 7] = 100.0
    assert sampling.draw(wish, [[5, 6, 8, 7, 5, 6, 8]], torch.tensor([0.5]))[0] != [7]
    assert sampling.draw(wish, [[5, 6, 8, 9, 5, 6, 8]], torch.tensor([0.5]))[0] == [7]


def test_a_reply_does_not_end_before_two_tokens() -> None:
    sampling = Sampling(frozenset({END}), top_k=1)
    wish = torch.zeros(1, VOCABULARY)
    wish[0, END] = 100.0
    ended = [sampling.draw(wish, [reply], torch.tensor([0.5]))[0] == [END] for reply in ([], [1], [1, 2])]
    assert ended == [False, False, True]


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
def test_the_ends_of_the_unit_interval_draw_what_is_allowed(logits: torch.Tensor, uniform: float) -> None:
    sampling = Sampling(frozenset({END}), top_k=10, top_p=0.5, temperature=1.0)
    allowed = frequencies(sampling, logits[:1], []) > 0
    (token,), _ = sampling.draw(logits[:1], [[]], torch.tensor([uniform]))
    assert allowed[token]


def test_a_models_own_settings_win_and_the_rest_is_ours() -> None:
    own = SimpleNamespace(temperature=0.0, top_k=None, top_p=0.5)
    sampling = Sampling.of(own, frozenset({END}))
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.0, 50, 0.5)
    wish = torch.zeros(1, VOCABULARY)
    wish[0, 3] = 0.1
    assert sampling.draw(wish, [[]], torch.tensor([0.99]))[0] == [3], "temperature 0 is greedy"


def test_a_token_that_there_is_not_is_refused(logits: torch.Tensor) -> None:
    with pytest.raises(IndexError):
        Sampling(frozenset({VOCABULARY})).draw(logits, [[]] * 6, torch.rand(6))


def test_logits_are_left_as_they_were(logits: torch.Tensor) -> None:
    before = logits.clone()
    Sampling(frozenset({END})).draw(logits, [[], [1], [2, 2], [1, 2, 3, 4] * 2, [5], [END]], torch.rand(6))
    assert torch.equal(logits, before)


@on_able_processors
@pytest.mark.parametrize("way", ["native"], indirect=True)
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
@pytest.mark.parametrize("way", ["native"], indirect=True)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_draw_from_what_is_no_number_has_no_probability(bad: float) -> None:
    logits = torch.zeros(3, 5003)
    logits[1, 7] = bad
    logits[2] = bad
    _, logprobs = Sampling(frozenset()).draw(logits, [[], [], []], torch.full((3,), 0.5))
    assert [math.isfinite(logprob) for logprob in logprobs] == [True, False, False]
