"""The model that everybody is measured with: a known shape, random weights, GPT-2's own vocabulary.

No weight matters for speed, but what can be said does. The end of a turn is impossible, so that every column
makes exactly as many tokens as it is asked for, whatever settings it has for that. And only tokens that are
capitalised words can be said: their text, read again in the next turn, is the same tokens, as it is where a
model has learned to write (all of 200 replies of the starter; of this model, all but one in some thousands).
"""

import json
import random
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

END = "<|endoftext|>"
POSITIONS = 1024
_WORD = re.compile("Ġ[a-z]{3,10}")
_SAID = re.compile("[A-Z][a-z]{2,9}")


@dataclass(frozen=True)
class Shape:
    """A GPT-2 architecture."""

    layers: int
    width: int
    heads: int

    def weights(self, vocabulary: int) -> int:
        """Weights that each decoded token has to read: all matrices, the output's among them."""
        return 12 * self.layers * self.width**2 + vocabulary * self.width


SHAPES = {"medium": Shape(24, 1024, 16), "small": Shape(4, 256, 4)}
"""medium is DialoGPT-medium's; small is for trying the benchmark itself out."""


def build(shape: Shape, vocab: Path, folder: Path) -> Path:
    """A checkpoint in DialoGPT's format in `folder`; one that is there already is taken."""
    if (folder / "model.safetensors").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(vocab / name, folder / name)
    ids = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": POSITIONS}))
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(ids),
            n_positions=POSITIONS,
            n_embd=shape.width,
            n_layer=shape.layers,
            n_head=shape.heads,
            bos_token_id=ids[END],
            eos_token_id=ids[END],
        )
    )
    with torch.no_grad():
        # A normalised state has the length sqrt(width): with this bias it always points along the direction,
        # also after what cannot be said, whose rows (tied: their embeddings too) point against it.
        direction = torch.nn.functional.normalize(torch.randn(shape.width), dim=0)
        model.transformer.ln_f.bias.copy_(2 * shape.width**0.5 * direction)
        unsaid = [id_ for token, id_ in ids.items() if not _SAID.fullmatch(token)]
        model.transformer.wte.weight[unsaid] -= direction
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)  # DialoGPT has none
    return folder


def ctranslate2_int8(checkpoint: Path) -> Path:
    """The checkpoint as CTranslate2's own converter makes it."""
    from ctranslate2.converters import TransformersConverter

    folder = checkpoint.with_name("ctranslate2")
    if not (folder / "model.bin").exists():
        TransformersConverter(str(checkpoint)).convert(str(folder), quantization="int8", force=True)
    return folder


def gguf_q8(checkpoint: Path) -> Path:
    """The checkpoint as llama.cpp wants it, matrices in Q8_0."""
    import gguf
    from gguf.quants import quantize

    file = checkpoint.with_name("q8_0.gguf")
    if file.exists():
        return file
    model = GPT2LMHeadModel.from_pretrained(checkpoint, dtype=torch.float32)
    config = model.config
    writer = gguf.GGUFWriter(file.with_suffix(".part"), "gpt2")
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    _gguf_vocabulary(writer, checkpoint)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, config.n_layer)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":  # tied: llama.cpp takes the embedding
            continue
        plain = tensor.numpy()
        if re.search(r"\.(c_attn|c_proj|c_fc)\.weight$", name):  # Conv1D keeps them the other way round
            plain = np.ascontiguousarray(plain.T)
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if plain.ndim == 2 and "wpe" not in name:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(known, quantize(plain, kind), raw_dtype=kind)
        else:
            writer.add_tensor(known, plain)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file.with_suffix(".part").rename(file)
    return file


def _gguf_vocabulary(writer: object, checkpoint: Path) -> None:
    import gguf

    assert isinstance(writer, gguf.GGUFWriter)  # noqa: S101  # narrows the type
    ids = json.loads((checkpoint / "vocab.json").read_text(encoding="utf-8"))
    tokens = sorted(ids, key=ids.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if token == END else gguf.TokenType.NORMAL for token in tokens]
    )
    lines = (checkpoint / "merges.txt").read_text(encoding="utf-8").splitlines()
    writer.add_token_merges([line for line in lines if line and not line.startswith("#version")])
    writer.add_bos_token_id(ids[END])
    writer.add_eos_token_id(ids[END])


class Words:
    """Turns of random words, each of them one token, so that lengths in tokens are exact."""

    def __init__(self, checkpoint: Path, seed: int = 0) -> None:
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(checkpoint)
        words = (token for token in self.tokenizer.get_vocab() if _WORD.fullmatch(token))
        self._words = sorted(word.replace("Ġ", " ") for word in words)
        self._random = random.Random(seed)  # noqa: S311  # words, not secrets

    def turn(self, tokens: int) -> str:
        """One turn of so many tokens."""
        return "".join(self._random.choices(self._words, k=tokens))

    def history(self, tokens: int, turn: int = 29) -> list[str]:
        """An even number of turns, of so many tokens together, their ends included (a multiple of 60)."""
        return [self.turn(turn) for _ in range(2 * (tokens // (2 * (turn + 1))))]

    def ids(self, turns: list[str]) -> list[int]:
        """As DialoGPT reads them: every turn and an end."""
        end = self.tokenizer.eos_token_id
        return [id_ for turn in turns for id_ in (*self.tokenizer(turn)["input_ids"], end)]
