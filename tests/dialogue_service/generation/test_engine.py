"""The engine's loop, seen by steps, not by time."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
import torch

from dialogue_service.generation.engine import _joined
from dialogue_service.generation.job import Job
from shared.problems import Overloaded
from tests.dialogue_service.generation.conftest import WAIT_S, Bench, bench


@pytest.fixture
def small(gpt2: Path) -> Iterator[Bench]:
    made = bench(gpt2)
    yield made
    made.engine.stop()


def finished(jobs: dict[str, Job]) -> list[str]:
    """The names of these jobs in the order in which they ended."""
    order: list[str] = []
    for name, job in jobs.items():
        job.reply.add_done_callback(lambda _, name=name: order.append(name))
    for job in jobs.values():
        job.reply.result(WAIT_S)
    return order


def test_a_long_reply_does_not_hold_up_a_short_one(small: Bench) -> None:
    begun = threading.Event()
    long = small.job("Hi", reply_tokens=300, on_text=lambda _: begun.set())
    short = small.job("Hello", reply_tokens=5)
    small.engine.submit(long)
    assert begun.wait(WAIT_S)
    small.engine.submit(short)
    assert finished({"long": long, "short": short}) == ["short", "long"]


def test_a_long_prompt_does_not_hold_up_a_short_one(small: Bench) -> None:
    long, short = small.job("long " * 400), small.job("Hi")
    small.engine.submit(long)
    small.engine.submit(short)
    assert finished({"long": long, "short": short}) == ["short", "long"]


def test_less_is_read_at_once_while_somebody_waits_for_a_token(small: Bench) -> None:
    prompt = "word " * 60
    small.run(prompt, reply_tokens=2)
    assert small.model.most == 128
    small.model.most = 0
    begun = threading.Event()
    speaking = small.job("Hi", reply_tokens=300, on_text=lambda _: begun.set())
    small.engine.submit(speaking)
    assert begun.wait(WAIT_S)
    small.run("another " + prompt, reply_tokens=2)
    speaking.reply.cancel()
    assert small.model.most == 64 + 1


def test_conversations_share_passes(small: Bench) -> None:
    jobs = {str(n): small.job(f"conversation {n}", reply_tokens=40) for n in range(8)}
    for job in jobs.values():
        small.engine.submit(job)
    finished(jobs)
    # A few more than the 40 of one: not all were submitted, or read, in the first.
    assert small.model.passes < 2 * 40


def test_candidates_cost_no_passes(small: Bench) -> None:
    small.run("Hi", reply_tokens=10, candidates=1)
    alone, small.model.passes = small.model.passes, 0
    small.run("Hello there", reply_tokens=10, candidates=4)
    assert small.model.passes == alone


def test_giving_up_ends_the_work_within_one_token(small: Bench) -> None:
    pieces: list[str] = []

    def listen(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 3:
            job.reply.cancel()

    job = small.job("Hi", reply_tokens=300, on_text=listen)
    small.engine.submit(job)
    small.run("Hello", reply_tokens=100)
    # Were the first still computed, it would have gone on as long as the second.
    assert len(pieces) == 3


def test_what_waits_and_is_given_up_is_never_begun(small: Bench) -> None:
    job = small.job("Hi")
    job.reply.cancel()
    small.engine.submit(job)
    small.run("Hello", reply_tokens=4)
    assert small.model.passes == 4


def test_more_than_the_queue_holds_is_refused_and_told_when_to_come_back(gpt2: Path) -> None:
    small = bench(gpt2, queue=1)
    seen, go = threading.Event(), threading.Event()

    def hold(_: str) -> None:
        seen.set()
        go.wait(WAIT_S)

    running = small.job("Hi", on_text=hold)
    small.engine.submit(running)
    assert seen.wait(WAIT_S)
    waiting = small.job("Hello")
    small.engine.submit(waiting)
    with pytest.raises(Overloaded) as refused:
        small.engine.submit(small.job("too many"))
    assert int(refused.value.headers["Retry-After"]) >= 1
    # Who waits no more holds no place.
    waiting.reply.cancel()
    small.engine.submit(small.job("room again"))
    go.set()
    assert running.reply.result(WAIT_S)


def test_a_failed_step_fails_its_replies_and_nothing_else(small: Bench) -> None:
    before = small.run("Hi", "there", "you", seed=1)
    small.model.fails = True
    job = small.job("Hi", "there", "you", seed=1)
    small.engine.submit(job)
    with pytest.raises(RuntimeError, match="a broken pass"):
        job.reply.result(WAIT_S)
    assert small.run("Hi", "there", "you", seed=1) == before


def test_an_ear_that_fails_fails_its_own_reply_only(small: Bench) -> None:
    def broken(_: str) -> None:
        raise ValueError("deaf")

    bad, good = small.job("Hi", on_text=broken), small.job("Hello", reply_tokens=30)
    small.engine.submit(good)
    small.engine.submit(bad)
    with pytest.raises(ValueError, match="deaf"):
        bad.reply.result(WAIT_S)
    assert good.reply.result(WAIT_S)


def test_a_model_that_computes_no_numbers_is_an_error(small: Bench) -> None:
    network = small.model._model
    network.transformer.ln_f.weight.data.fill_(float("nan"))
    with pytest.raises(ArithmeticError):
        small.run("Hi")


def test_what_was_read_before_giving_up_is_not_read_again(small: Bench) -> None:
    text = "some words " * 60
    job = small.job(text, reply_tokens=300, on_text=lambda _: job.reply.cancel())
    small.engine.submit(job)
    with pytest.raises(CancelledError):
        job.reply.result(WAIT_S)
    small.run("other", reply_tokens=2)
    small.model.passes = 0
    small.run(text, reply_tokens=5)
    assert small.model.passes == 5


def test_logits_of_one_pass_are_joined_without_a_copy() -> None:
    whole, other = torch.randn(6, 9), torch.randn(2, 9)
    parts = list(whole.split_with_sizes([1, 3, 2]))
    assert torch.equal(_joined(parts), whole)
    assert _joined(parts).data_ptr() == whole.data_ptr()
    assert torch.equal(_joined(parts[1:]), whole[1:])
    for apart in ([parts[0], parts[2]], [parts[1], parts[0]], [parts[2], other], [parts[0].expand(3, -1)]):
        joined = _joined(apart)
        assert torch.equal(joined, torch.cat(apart))
        assert joined.data_ptr() not in {whole.data_ptr(), other.data_ptr()}
