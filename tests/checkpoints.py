"""Small real checkpoints in full format, made on the spot: config.json, model.safetensors, tokenizer files."""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

GPT2_BPE = Path(__file__).resolve().parents[2] / "shared" / "data" / "gpt2-bpe"
_WORDS = ["Hello, how are you?", "I'm fine, thanks! And you?", "What is your name?", "yes no maybe"]


def gpt2_like(folder: Path, *, words: Iterable[str] = _WORDS) -> None:
    """DialoGPT's exact format with two small layers and random weights.

    The vocabulary is GPT-2's own where the data folder is at hand, else a small one of the same kind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if GPT2_BPE.is_dir():
        tokenizer = GPT2Tokenizer.from_pretrained(GPT2_BPE)
    else:
        trained = ByteLevelBPETokenizer()
        trained.train_from_iterator(words, vocab_size=500, special_tokens=["<|endoftext|>"], show_progress=False)
        trained.save_model(str(folder))
        tokenizer = GPT2Tokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    end = tokenizer.eos_token_id
    sizes = {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 1024}
    config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=end, eos_token_id=end, **sizes)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
