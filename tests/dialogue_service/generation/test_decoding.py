"""What is known of each candidate when all are drawn."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from dialogue_service.generation.candidate import OPENING
from dialogue_service.generation.decoding import Blank, Decoding
from dialogue_service.generation.packed import PackedModel
from dialogue_service.generation.piece import KeyValues
from dialogue_service.generation.sampling import Sampling
from shared.checkpoint import load_model

BLANK = [3, 4]
PROMPT = list(range(5, 60))


def decode(folder: Path, *, branches: int = 3, reply_tokens: int = 15, end: frozenset[int]) -> Decoding:
    """All candidates of one prompt."""
    model = PackedModel(load_model(AutoModelForCausalLM, folder))
    sampling = Sampling(frozenset(), temperature=1.0, top_k=0, top_p=1.0)
    decoding = Decoding(
        PROMPT,
        KeyValues(),
        branches=branches,
        reply_tokens=reply_tokens,
        end_ids=end,
        seed=1,
        blank=Blank.read(model, BLANK),
        like=model.like,
    )
    while not decoding.done:
        fed = [decoding.tree.chunk(20)] if decoding.reading else decoding.step()
        logits = model(fed)
        if not decoding.reading:
            given, without = decoding.take(logits)
            drawn = sampling.draw(given, decoding.replies(), decoding.uniform())
            decoding.extend(*drawn, without)
    return decoding


def scores(folder: Path, before: list[int], reply: list[int]) -> Tensor:
    """Log probabilities of a reply's tokens by transformers' own forward pass."""
    logits = load_model(AutoModelForCausalLM, folder)(torch.tensor([[*before, *reply]])).logits[0]
    own = logits[len(before) - 1 : -1].log_softmax(-1)
    return torch.as_tensor(own[range(len(reply)), reply])


@torch.inference_mode()
def test_candidates_are_scored_with_and_without_the_conversation(folder: Path) -> None:
    decoding = decode(folder, end=frozenset(range(200, 215)))
    assert len({tuple(branch.ids) for branch in decoding.branches}) == 3
    for branch in decoding.branches:
        given = scores(folder, PROMPT, branch.ids)
        assert branch.logprob == pytest.approx(float(given.sum()), abs=1e-3)
        assert branch.opening_logprob == pytest.approx(float(given[:OPENING].sum()), abs=1e-3)
        blank = scores(folder, BLANK, branch.ids)[:OPENING]
        assert branch.unconditional == pytest.approx(float(blank.sum()), abs=1e-3)


@torch.inference_mode()
def test_a_candidate_is_finished_when_the_model_ended_it(folder: Path) -> None:
    ends = frozenset(range(100, 215))
    decoding = decode(folder, branches=8, end=ends)
    for branch in decoding.branches:
        assert branch.finished == (branch.ids[-1] in ends)
        assert not ends & set(branch.ids[:-1])
        assert branch.finished or len(branch.ids) == 15


@torch.inference_mode()
def test_one_candidate_alone_is_not_scored_without_the_conversation(folder: Path) -> None:
    (branch,) = decode(folder, branches=1, end=frozenset()).branches
    assert branch.unconditional == 0
    assert len(branch.ids) == 15


@torch.inference_mode()
def test_what_one_candidate_says_does_not_depend_on_when_another_ends(folder: Path) -> None:
    free = decode(folder, end=frozenset())
    early = frozenset({free.branches[0].ids[4]})
    for before, after in zip(free.branches, decode(folder, end=early).branches, strict=True):
        assert after.ids == before.ids[: len(after.ids)]


@torch.inference_mode()
def test_what_is_known_afterwards_is_the_prompt_and_the_reply_but_its_last_token(folder: Path) -> None:
    decoding = decode(folder, end=frozenset())
    ids, keys_values = decoding.known(1)
    assert ids == [*PROMPT, *decoding.branches[1].ids[:-1]]
    assert keys_values.length == len(ids)
