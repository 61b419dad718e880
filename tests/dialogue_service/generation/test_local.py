"""Replies of real models made on the spot."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dialogue_service.generation.local import LocalGenerator, whole_sentences
from shared.hub import ModelUnavailable
from shared.problems import EmptyReply


def generator(folder: Path, context_tokens: int = 384, reply_tokens: int = 12) -> LocalGenerator:
    return LocalGenerator(folder, context_tokens=context_tokens, reply_tokens=reply_tokens)


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> LocalGenerator:
    return generator(tiny_model)


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


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


def test_it_speaks_and_stays_within_its_tokens(tiny: LocalGenerator, tiny_model: Path) -> None:
    reply = tiny.reply(["Hi", "Hello", "How are you?"], threading.Event())
    assert reply.strip() == reply != ""
    # Decoded and encoded again, a text may need a few tokens more or less; never several times as many.
    assert len(AutoTokenizer.from_pretrained(tiny_model)(reply)["input_ids"]) <= 24


def test_a_long_conversation_never_exceeds_the_models_positions(tiny_model: Path) -> None:
    talker = generator(tiny_model, context_tokens=100_000)
    assert talker.reply(["word " * 3000] * 9, threading.Event())


def test_it_stops_within_a_token(tiny_model: Path) -> None:
    stop = threading.Event()
    stop.set()
    talker = generator(tiny_model, reply_tokens=500)
    assert len(talker.reply(["Hi"], stop)) < 100


def test_a_reply_does_not_go_in_circles(copy: Path) -> None:
    (word,) = AutoTokenizer.from_pretrained(copy)(" yes", add_special_tokens=False)["input_ids"]
    always_says(copy, word)
    words = generator(copy, reply_tokens=40).reply(["Hi"], threading.Event()).split()
    assert not any(words[i : i + 4] == words[i + 4 : i + 8] for i in range(len(words))), words


def test_a_model_without_words_is_an_empty_reply(copy: Path) -> None:
    (blank,) = AutoTokenizer.from_pretrained(copy)("\n", add_special_tokens=False)["input_ids"]
    always_says(copy, blank)
    with pytest.raises(EmptyReply):
        generator(copy, reply_tokens=4).reply(["Hi"], threading.Event())


def test_a_models_own_sampling_is_respected(copy: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(copy)
    model.generation_config.update(do_sample=True, top_k=1)
    model.generation_config.save_pretrained(copy)
    talker = generator(copy)
    replies = {talker.reply(["Hi"], threading.Event()) for _ in range(5)}
    assert len(replies) == 1


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


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("I like it. It is", "I like it."),
        ('He said "no!" and', 'He said "no!"'),
        ("no end in sight", "no end in sight"),
        ("It costs 3.50 and", "It costs 3.50 and"),
        ("Really? Yes! Well", "Really? Yes!"),
        ("Done.", "Done."),
    ],
)
def test_an_unfinished_sentence_is_left_out(text: str, whole: str) -> None:
    assert whole_sentences(text) == whole
