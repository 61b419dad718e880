"""Small real checkpoints, complete in format and random in weight, each made from a fixed seed.

from tests import checkpoints
checkpoints.gpt2_like(tmp_path)
"""

import json
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
)

GPT2_VOCAB = Path(__file__).resolve().parents[2] / "shared" / "data" / "gpt2-bpe"
"""Where GPT-2's own vocabulary lies on machines that have it."""

_END = "<|endoftext|>"
_SAMPLE = [
    "Hello! How are you today? I am fine, thank you. What is your name?",
    "I like music and films. Do you like them too? Tell me more about yourself.",
]
_BPE_FILES = ("vocab.json", "merges.txt")
_FRAME = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_WORDS = ["hello", "how", "are", "you", "i", "am", "sad", "happy", "this", "example", "is", "weather", "joke"]


def gpt2_like(
    folder: Path, *, vocab: Path | None = GPT2_VOCAB, spread: float = 0.02, width: int = 32, **more: Any
) -> Path:
    """A tiny causal LM in DialoGPT's format: config, vocab.json, merges.txt, tokenizer_config, safetensors.

    With `vocab` (a folder of vocab.json and merges.txt) it has DialoGPT's token ids, the end of a turn
    being 50256; where that folder is missing a small byte-level BPE is trained.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if vocab is not None and vocab.is_dir():
        for name in ("vocab.json", "merges.txt"):
            (folder / name).write_bytes((vocab / name).read_bytes())
    else:
        _train_bpe(folder, [_END])
    ids = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    _write(folder / "tokenizer_config.json", {"model_max_length": 1024})
    config = GPT2Config(
        vocab_size=len(ids),
        n_positions=1024,
        n_embd=width,
        n_layer=2,
        n_head=2,
        initializer_range=spread,
        bos_token_id=ids[_END],
        eos_token_id=ids[_END],
        **more,
    )
    _save(folder, lambda: GPT2LMHeadModel(config))
    # DialoGPT has none, and what is written for it would hide faults in how generation is configured.
    (folder / "generation_config.json").unlink(missing_ok=True)
    return folder


_CHAT_TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def llama_like(folder: Path, **more: Any) -> Path:
    """A tiny causal LM of today's kind: rotary positions, shared key heads, a chat template."""
    ids = _chat_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=len(ids),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.2,  # wide, so that what was said before clearly matters
        bos_token_id=ids["<s>"],
        eos_token_id=ids["</s>"],
        **more,
    )
    _save(folder, lambda: LlamaForCausalLM(config))
    return folder


def mamba_like(folder: Path) -> Path:
    """A tiny causal LM that has a recurrent state instead of keys and values."""
    ids = _chat_tokenizer(folder)
    config = MambaConfig(
        vocab_size=len(ids),
        hidden_size=16,
        state_size=4,
        num_hidden_layers=2,
        bos_token_id=ids["<s>"],
        eos_token_id=ids["</s>"],
    )
    _save(folder, lambda: MambaForCausalLM(config))
    return folder


def _chat_tokenizer(folder: Path) -> dict[str, int]:
    """A small byte-level BPE with a chat template; returns its vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    _train_bpe(folder, ["<s>", "</s>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_level(models.BPE.from_file(*(str(folder / n) for n in _BPE_FILES))),
        bos_token="<s>",  # noqa: S106  # no password
        eos_token="</s>",  # noqa: S106
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    for name in _BPE_FILES:
        (folder / name).unlink()
    tokenizer.save_pretrained(folder)
    return dict(tokenizer.get_vocab())


def bert_encoder(folder: Path, *, pooling: str = "mean", prompts: dict[str, str] | None = None) -> Path:
    """A tiny sentence encoder in the layout of sentence-transformers, 16 dimensions, 32 tokens at most."""
    _bert_tokenizer(folder)
    _save(folder, lambda: BertModel(_bert_config()))
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    _write(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(kinds.items())
        ],
    )
    _write(folder / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": False})
    _write(folder / "config_sentence_transformers.json", {"prompts": prompts or {}})
    modes = (
        "cls_token",
        "mean_tokens",
        "max_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
        "lasttoken",
    )
    flags = {f"pooling_mode_{mode}": mode.removesuffix("_token") == pooling for mode in modes}
    flags |= {f"pooling_mode_{pooling}{end}": True for end in ("", "_tokens") if f"{pooling}{end}" in modes}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 16, **flags})
    return folder


def nli(folder: Path, labels: Sequence[str] = ("contradiction", "neutral", "entailment")) -> Path:
    """A tiny natural language inference model."""
    config = _bert_config(**_classes(labels))
    _bert_tokenizer(folder)
    _save(folder, lambda: BertForSequenceClassification(config))
    return folder


def bart_nli(folder: Path, labels: Sequence[str] = ("contradiction", "neutral", "entailment")) -> Path:
    """The same in the form of bart-large-mnli: an encoder and a decoder, byte-level BPE, no token types."""
    folder.mkdir(parents=True, exist_ok=True)
    _train_bpe(folder, _FRAME)
    ids = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    merges = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    RobertaTokenizer(
        vocab=ids, merges=[tuple(merge.split(" ")) for merge in merges], model_max_length=64
    ).save_pretrained(folder)
    config = BartConfig(
        vocab_size=len(ids),
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        init_std=0.5,
        bos_token_id=ids["<s>"],
        pad_token_id=ids["<pad>"],
        eos_token_id=ids["</s>"],
        decoder_start_token_id=ids["</s>"],
        forced_eos_token_id=ids["</s>"],
        **_classes(labels),
    )
    _save(folder, lambda: BartForSequenceClassification(config))
    return folder


def _classes(labels: Sequence[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}


def _bert_config(**more: Any) -> BertConfig:
    return BertConfig(
        vocab_size=len(_bert_vocab()),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,  # wide, so that different texts get clearly different outputs
        **more,
    )


def _bert_vocab() -> list[str]:
    signs = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    return [*_SPECIAL, *signs, *(f"##{sign}" for sign in signs), *(word for word in _WORDS if len(word) > 1)]


def _bert_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    BertTokenizer(
        vocab={token: i for i, token in enumerate(_bert_vocab())}, model_max_length=64
    ).save_pretrained(folder)


def _train_bpe(folder: Path, special: Sequence[str]) -> None:
    tokenizer = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_SAMPLE, trainer)
    tokenizer.model.save(str(folder))


def _byte_level(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _save(folder: Path, make: Callable[[], PreTrainedModel]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        make().save_pretrained(folder)


def _write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")
