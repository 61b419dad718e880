"""A model's folder from somebody who means harm: refused with a clear word, nothing executed."""

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from shared.checkpoint import load_model, load_tokenizer
from shared.hub import ModelUnavailable
from shared.model_folder import inside, read_json

Checkpoint = Callable[[str], Path]
Spoil = Callable[[Path], object]


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._trace),)


def configured(**values: Any) -> Spoil:
    """config.json says something else."""

    def spoil(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return spoil


def written(name: str, content: str | bytes) -> Spoil:
    """A file holds this."""
    return lambda folder: (folder / name).write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )


def long(name: str, size: int) -> Spoil:
    """A file has this size, and takes no room on the disk."""

    def spoil(folder: Path) -> None:
        with (folder / name).open("ab") as file:
            file.truncate(size)

    return spoil


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def claims_too_much(folder: Path) -> None:
    """The header says that a tensor goes on beyond the file."""
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    last = max((name for name in header if name != "__metadata__"), key=lambda n: header[n]["data_offsets"])
    header[last] |= {"shape": [10**12], "data_offsets": [header[last]["data_offsets"][0], 4 * 10**12]}
    new = json.dumps(header).encode()
    weights.write_bytes(struct.pack("<Q", len(new)) + new + data[8 + length :])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Trap(folder / "trace")))


def piped(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return spoil


def linked_to_a_device(folder: Path) -> None:
    (folder / "generation_config.json").symlink_to("/dev/zero")


def indexed(part: str) -> Spoil:
    return written("model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": {"a": part}}))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (cut, "model.safetensors is broken"),
        (claims_too_much, "model.safetensors is broken"),
        (pickled, "is not safetensors"),
        (written("model.safetensors", b""), "model.safetensors is broken"),
        (written("model.safetensors", b"PK\x03\x04" + bytes(100)), "is not safetensors"),
        (written("model.safetensors", struct.pack("<Q", 2**63) + b"{}"), "is not safetensors"),
        (written("model.safetensors", struct.pack("<Q", 10) + b"{" * 10), "model.safetensors is broken"),
        (
            written("model.safetensors", struct.pack("<Q", 10**6) + b'{"a":' * 200_000),
            "model.safetensors is broken",
        ),
        (piped("model.safetensors"), "model.safetensors is no file"),
        (piped("generation_config.json"), "generation_config.json is no file"),
        (linked_to_a_device, "generation_config.json is no file"),
        (indexed("../../elsewhere.safetensors"), r"leads out of the folder, to '\.\./\.\./elsewhere"),
        (indexed("/etc/model.safetensors"), "leads out of the folder"),
        (written("config.json", "[" * 100_000), "config.json is not JSON"),
        (written("config.json", '{"a":' * 100_000), "config.json is not JSON"),
        (written("config.json", b"\xff\xfe{}"), "config.json is not JSON"),
        (written("config.json", "[]"), "config.json holds no JSON object"),
        (long("config.json", 2**40), "config.json is too large"),
        (long("notes.txt", 2**40), "notes.txt is too large"),
        (configured(n_layer=10**9), "config.json says n_layer 1e"),
        (configured(n_layer=2**70), "config.json says n_layer 1e"),
        (configured(text_config={"num_hidden_layers": 10**9}), "config.json says num_hidden_layers 1e"),
        (configured(n_positions=10**9), "config.json describes 3e"),
        (configured(vocab_size=10**12), "config.json describes 3e"),
        (configured(n_inner=10**9), "config.json describes 1e"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_model_that_would_do_harm_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, spoil: Spoil, reason: str
) -> None:
    folder = checkpoint("model")
    spoil(folder)
    with pytest.raises(ModelUnavailable, match=reason) as caught:
        load_model(AutoModelForCausalLM, folder)
    assert caught.value.lasting
    assert "\n" not in str(caught.value)
    assert not (folder / "trace").exists()


@pytest.mark.parametrize(
    "values",
    [
        {"n_embd": 10**9},
        {"n_embd": 2**62, "n_head": 1},
        {"vocab_size": -1},
        {"n_layer": "many"},
        {"n_layer": None},
        {"n_head": 0},
        {"model_type": "no-such-model"},
        {"model_type": 7},
        {"auto_map": {"AutoConfig": "own.Own"}, "model_type": "own"},
        {"auto_map": {"AutoModelForCausalLM": "https://example.invalid/x--own.Own"}, "model_type": "own"},
    ],
    ids=str,
)
def test_a_config_that_makes_no_sense_is_an_error(checkpoint: Checkpoint, values: dict[str, Any]) -> None:
    folder = checkpoint("model")
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(folder / 'trace')!r})\nclass Own: ...\n")
    configured(**values)(folder)
    with pytest.raises(Exception, match=r"\S"):
        load_model(AutoModelForCausalLM, folder)
    assert not (folder / "trace").exists()


def test_what_else_lies_in_the_folder_is_not_touched(checkpoint: Checkpoint) -> None:
    folder = checkpoint("model")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "model.pkl"):
        (folder / name).write_bytes(pickle.dumps(Trap(folder / "trace")))
    (folder / "tokenization_own.py").write_text("1 / 0")
    configured(auto_map={"AutoModelForCausalLM": "tokenization_own.Own"})(folder)
    load_model(AutoModelForCausalLM, folder)
    load_tokenizer(folder)
    assert not (folder / "trace").exists()


def tokenizing(**parts: Any) -> Spoil:
    """tokenizer.json is that of the checkpoint, with these parts."""

    def spoil(folder: Path) -> None:
        load_tokenizer(folder).save_pretrained(folder)
        file = folder / "tokenizer.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | parts))

    return spoil


_DOUBLING = {"type": "Replace", "pattern": {"String": "q"}, "content": "qq"}
_BOMB = {"type": "Sequence", "normalizers": [_DOUBLING] * 60}
_LONG = {"type": "Replace", "pattern": {"Regex": "q"}, "content": "q" * 100_000}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (tokenizing(normalizer=_BOMB), r"make a text 1e\+18 times as long"),
        (tokenizing(normalizer={"type": "Sequence", "normalizers": [_BOMB]}), "times as long"),
        (tokenizing(normalizer=_LONG), "times as long"),
        (tokenizing(decoder={"type": "Sequence", "decoders": [_DOUBLING] * 60}), "times as long"),
        (written("tokenizer.json", '{"normalizer":' * 100_000), "tokenizer.json is not JSON"),
        (written("tokenizer.json", "7"), "tokenizer.json holds no JSON object"),
        (long("tokenizer.json", 2**40), "tokenizer.json is too large"),
        (long("vocab.json", 2**40), "vocab.json is too large"),
        (long("merges.txt", 2**40), "merges.txt is too large"),
        (piped("tokenizer.json"), "tokenizer.json is no file"),
        (long("chat_template.jinja", 2**40), "chat_template.jinja is too large"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_tokenizer_that_would_blow_up_is_refused(checkpoint: Checkpoint, spoil: Spoil, reason: str) -> None:
    folder = checkpoint("model")
    spoil(folder)
    with pytest.raises(ModelUnavailable, match=reason):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    "normalizer",
    [
        None,
        {"type": "NFC"},
        {"type": "Sequence", "normalizers": []},
        {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        {"type": "Replace", "pattern": {"Regex": "[ \\t]+"}, "content": " "},
    ],
)
def test_everyday_tokenizers_pass(checkpoint: Checkpoint, normalizer: Any) -> None:
    folder = checkpoint("model")
    tokenizing(normalizer=normalizer)(folder)
    load_tokenizer(folder)


def test_a_path_leads_only_into_the_folder(tmp_path: Path) -> None:
    assert inside(tmp_path, "0_Transformer") == tmp_path / "0_Transformer"
    for path in ("..", "../x", "a/../../x", "/etc", str(tmp_path)):
        with pytest.raises(ModelUnavailable, match="lies outside"):
            inside(tmp_path, path)


def test_a_file_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert read_json(tmp_path / "config.json") == {}
    assert torch.get_default_device() == torch.device("cpu"), "building without memory leaves no trace"
