"""Replies of real models made on the spot."""

import asyncio
import gc
import json
import random
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from dialogue_service import prompt
from dialogue_service.generation.local import LocalGenerator
from shared.hub import ModelUnavailable
from shared.problems import EmptyReply
from tests.servers import wait_until

pytestmark = pytest.mark.anyio

WORDS = [
    "hello",
    "how",
    "are you",
    "I like music",
    "and films,",
    "tell me more",
    "no",
    "yes!",
    "über 北京",
    "?",
]


def generator(folder: Path, context_tokens: int = 384, reply_tokens: int = 12, **more: Any) -> LocalGenerator:
    return LocalGenerator(folder, context_tokens=context_tokens, reply_tokens=reply_tokens, **more)


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> LocalGenerator:
    return generator(tiny_model)


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


@pytest.fixture
def greedy(folder: Path, tmp_path: Path) -> Path:
    """A model of each kind that always takes its most probable token."""
    made = Path(shutil.copytree(folder, tmp_path / "greedy"))
    GenerationConfig(do_sample=True, top_k=1).save_pretrained(made)  # type: ignore[no-untyped-call]
    return made


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def always_says(folder: Path, token: int) -> None:
    """Give a model a bias of its own making: after anything comes `token`."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        # The last norm's bias is all that reaches the tied output matrix.
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.copy_(model.transformer.wte.weight[token] * 1e6)
    model.save_pretrained(folder)


async def test_it_speaks_and_stays_within_its_tokens(tiny: LocalGenerator, tiny_model: Path) -> None:
    reply = await tiny.reply(["Hi", "Hello", "How are you?"])
    assert reply.strip() == reply != ""
    # Decoded and encoded again, a text may need a few tokens more or less; never several times as many.
    assert len(AutoTokenizer.from_pretrained(tiny_model)(reply)["input_ids"]) <= 24


async def test_a_long_conversation_never_exceeds_the_models_positions(tiny_model: Path) -> None:
    talker = generator(tiny_model, context_tokens=100_000)
    assert await talker.reply(["word " * 3000] * 9)


async def test_greedy_is_what_transformers_generates(greedy: Path) -> None:
    edit(greedy / "generation_config.json", repetition_penalty=1.0)
    turns = ["hello how are you", "fine", "tell me more about films"]
    tokenizer = AutoTokenizer.from_pretrained(greedy)
    ids = prompt.encode(tokenizer, turns, 384)
    own = AutoModelForCausalLM.from_pretrained(greedy).generate(
        torch.tensor([ids]), do_sample=False, min_new_tokens=6, max_new_tokens=6, repetition_penalty=1.0
    )
    expected = tokenizer.decode(own[0, len(ids) :], skip_special_tokens=True).strip()
    said = await generator(greedy, reply_tokens=6, dtype="fp32").reply(turns, on_text=lambda _: None)
    assert said == expected


async def test_what_is_kept_between_turns_never_changes_a_reply(greedy: Path, dtype: str) -> None:
    """Long random conversations side by side, forgetting, restarts, and a window that moves."""
    options: dict[str, Any] = {"context_tokens": 250, "reply_tokens": 10, "candidates": 2, "dtype": dtype}
    bare = generator(greedy, cache_mb=0, **options)
    kept = generator(greedy, **options)
    chance = random.Random(1)
    talks: list[list[str]] = [[], [], []]
    for turn in range(60):
        talk = chance.choice(talks)
        if chance.random() < 0.04:
            talk.clear()
        if turn % 20 == 19:
            kept = generator(greedy, **options)
        talk.append(" ".join(chance.choices(WORDS, k=chance.randint(1, 9))))
        reply = await kept.reply(talk)
        assert reply == await bare.reply(talk), f"turn {turn}: {talk}"
        talk.append(reply)
    assert bare._engine._prefixes.bytes == 0 < kept._engine._prefixes.bytes


async def test_most_of_a_prompt_is_not_read_again(greedy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talker = generator(greedy, context_tokens=800)
    chance, turns, fed, read = random.Random(2), [], 0, 0
    real = talker._engine._prefixes.take

    def take(ids: list[int]) -> Any:
        nonlocal fed, read
        known = real(ids)
        fed, read = fed + len(ids) - known.length, read + len(ids)
        return known

    monkeypatch.setattr(talker._engine._prefixes, "take", take)
    for _ in range(60):
        turns.append(" ".join(chance.choices(WORDS, k=4)))
        turns.append(await talker.reply(turns))
    assert fed < 0.35 * read


async def test_a_seed_gives_the_same_reply_alone_and_beside_others(folder: Path, dtype: str) -> None:
    talker = generator(folder, candidates=3, dtype=dtype)
    turns = ["hello", "yes", "tell me more"]
    alone = await talker.reply(turns, seed=7)
    others = [talker.reply([f"{n} " * n]) for n in range(1, 6)]
    beside = await asyncio.gather(talker.reply(turns, seed=7), *others, talker.reply(turns, seed=7))
    assert beside[0] == beside[-1] == alone
    assert await generator(folder, candidates=3, dtype=dtype).reply(turns, seed=7) == alone
    assert len({await talker.reply(turns, seed=seed) for seed in range(8)}) > 1
    assert len({await talker.reply(turns) for _ in range(8)}) > 1


async def test_what_is_streamed_is_what_is_returned(folder: Path) -> None:
    talker = generator(folder, reply_tokens=30)
    here = threading.current_thread()
    for seed in range(5):
        pieces: list[str] = []

        def hear(piece: str, pieces: list[str] = pieces) -> None:
            assert threading.current_thread() is here
            pieces.append(piece)

        reply = await talker.reply(["hello"], seed=seed, on_text=hear)
        assert "".join(pieces) == reply == reply.strip() != ""
        assert len(pieces) > 5


async def test_who_gives_up_stops_the_work(tiny_model: Path) -> None:
    talker = generator(tiny_model, reply_tokens=600)
    begun = asyncio.Event()
    first: list[str] = []
    second: list[str] = []

    def hear(piece: str) -> None:
        first.append(piece)
        begun.set()

    reply = asyncio.ensure_future(talker.reply(["Hi"], seed=1, on_text=hear))
    await begun.wait()
    reply.cancel()
    await talker.reply(["Hi"], seed=1, on_text=second.append)
    # Were it still computed, it would have said as much by now.
    assert len(first) < len(second)


async def test_a_reply_does_not_go_in_circles(copy: Path) -> None:
    (word,) = AutoTokenizer.from_pretrained(copy)(" yes", add_special_tokens=False)["input_ids"]
    always_says(copy, word)
    words = (await generator(copy, reply_tokens=40).reply(["Hi"])).split()
    assert not any(words[i : i + 4] == words[i + 4 : i + 8] for i in range(len(words))), words


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_without_words_is_an_empty_reply(copy: Path, stream: bool) -> None:
    (blank,) = AutoTokenizer.from_pretrained(copy)("\n", add_special_tokens=False)["input_ids"]
    always_says(copy, blank)
    with pytest.raises(EmptyReply):
        await generator(copy, reply_tokens=4).reply(["Hi"], on_text=(lambda _: None) if stream else None)


async def test_a_models_own_sampling_is_respected(copy: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(copy)
    model.generation_config.update(do_sample=True, top_k=1)
    model.generation_config.save_pretrained(copy)
    talker = generator(copy)
    assert len({await talker.reply(["Hi"]) for _ in range(5)}) == 1


async def test_half_precision_speaks_too(folder: Path) -> None:
    assert await generator(folder, dtype="bf16", candidates=2).reply(["hello", "yes", "no"])


@pytest.mark.filterwarnings("error")
async def test_its_thread_ends_with_it(tiny_model: Path) -> None:
    talker = generator(tiny_model)
    thread = talker._engine._thread
    waiting = asyncio.ensure_future(talker.reply(["Hi"]))
    await asyncio.sleep(0)
    del talker
    gc.collect()
    assert await waiting, "who waits keeps it alive"
    del waiting
    gc.collect()
    wait_until(lambda: not thread.is_alive())


def test_it_can_be_warmed_up_without_a_loop(tiny_model: Path) -> None:
    generator(tiny_model).warm_up()


def test_a_model_that_computes_nonsense_is_not_warmed_up(copy: Path) -> None:
    always_says(copy, 0)
    model = AutoModelForCausalLM.from_pretrained(copy)
    model.transformer.ln_f.bias.data.fill_(float("inf"))
    model.save_pretrained(copy)
    with pytest.raises((ArithmeticError, ModelUnavailable)):
        generator(copy).warm_up()


def test_a_model_lacking_weights_is_refused(copy: Path) -> None:
    edit(copy / "config.json", n_layer=3)
    with pytest.raises(ModelUnavailable, match="it lacks"):
        generator(copy)


def test_a_model_without_eos_is_refused(copy: Path) -> None:
    edit(copy / "tokenizer_config.json", eos_token=None)
    with pytest.raises(ModelUnavailable, match="EOS"):
        generator(copy)


def test_a_model_too_short_for_a_reply_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ModelUnavailable, match="DIALOGUE_REPLY_TOKENS"):
        generator(tiny_model, reply_tokens=1024)
