"""A model's folder may come from anybody: it is looked at before anything is built from it.

What is refused would hang, fill the memory, or lead out of the folder. That nothing in it is executed is the
matter of `checkpoint`: safetensors only, no foreign code.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from shared.hub import ModelUnavailable

_READ = (".json", ".txt", ".model", ".jinja")
_LARGE = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model")
_MAX_LARGE_BYTES = 64 * 2**20  # Gemma's tokenizer, the largest in wide use, has half of that
_MAX_BYTES = 8 * 2**20
_MAX_HEADER_BYTES = 16 * 2**20
_INDEX = "model.safetensors.index.json"

_FEW = 1024  # so many layers are built in a second, whatever the weights are
_SLACK = 2**24  # parameters that may be missing from the files, as a pooler or a head
_MAX_GROWTH = 64  # a normalizer that writes "1/2" for "½" stays far below


def check_files(folder: Path) -> None:
    """Refuse what could not be read in bounded time and memory. Raises ModelUnavailable."""
    for file in sorted(folder.iterdir()):
        if file.suffix == ".safetensors":
            _header(file)
        elif file.suffix in _READ:
            _size(file)
    parts = read_json(folder / _INDEX).get("weight_map") or {}
    if odd := [part for part in map(str, parts.values()) if Path(part).name != part]:
        raise _refusal(f"its {_INDEX} leads out of the folder, to {odd[0][:100]!r}")


def check_counts(folder: Path) -> None:
    """Refuse more layers or experts than weights, for all would be built. Raises ModelUnavailable."""
    tensors, _ = _weights(folder)
    for name, value in _integers(read_json(folder / "config.json")):
        counts = ("layer" in name or "expert" in name) and not ("size" in name or "dim" in name)
        if counts and value > max(tensors, _FEW):
            raise _refusal(f"its config.json says {name} {value:.0e}, but its files hold {tensors} weights")


def check_size(described: int, folder: Path) -> None:
    """Refuse a model of far more numbers than the folder's weights can fill. Raises ModelUnavailable."""
    _, stored = _weights(folder)
    if described > 2 * stored + _SLACK:  # at four bits a byte holds two
        raise _refusal(
            f"its config.json describes {described:.0e} numbers, its files hold {stored:.0e} bytes"
        )


def check_tokenizer(folder: Path) -> None:
    """Refuse a tokenizer that would blow up what it is given. Raises ModelUnavailable."""
    content = read_json(folder / "tokenizer.json")
    for part in ("normalizer", "decoder"):
        if (growth := _growth(content.get(part))) > _MAX_GROWTH:
            raise _refusal(f"its tokenizer would make a text {growth:.0e} times as long")


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file; nothing where there is no file. Raises ModelUnavailable."""
    if not file.exists():
        return {}
    _size(file)
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise _refusal(f"its {file.name} is not JSON") from None
    if not isinstance(content, dict):
        raise _refusal(f"its {file.name} holds no JSON object")
    return content


def inside(folder: Path, path: str) -> Path:
    """What lies at `path` in the folder. Raises ModelUnavailable if that leads out of it."""
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise _refusal(f"it names {path[:100]!r}, which lies outside")
    return folder / path


def _size(file: Path) -> None:
    if not file.is_file():  # a pipe would be waited for, a device never ends
        raise _refusal(f"its {file.name} is no file")
    if file.stat().st_size > (_MAX_LARGE_BYTES if file.name in (*_LARGE, _INDEX) else _MAX_BYTES):
        raise _refusal(f"its {file.name} is too large")


def _weights(folder: Path) -> tuple[int, int]:
    """How many tensors the folder's weights are, and how many bytes."""
    headers = [_header(file) for file in sorted(folder.glob("*.safetensors"))]
    return sum(tensors for tensors, _ in headers), sum(size for _, size in headers)


def _header(file: Path) -> tuple[int, int]:
    """How many tensors a file holds, and its bytes."""
    if not file.is_file():
        raise _refusal(f"its {file.name} is no file")
    with file.open("rb") as content:
        if int.from_bytes(content.read(8), "little") > _MAX_HEADER_BYTES:
            raise _refusal(f"its {file.name} is not safetensors, or has a header of more than 16 MiB")
    try:
        with safe_open(file, "pt") as weights:
            return len(weights.keys()), file.stat().st_size
    except SafetensorError as error:
        raise _refusal(f"its {file.name} is broken ({error})") from None


def _integers(content: dict[str, Any]) -> Iterator[tuple[str, int]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _integers(value)
        elif isinstance(value, int):
            yield name, value


def _growth(step: Any) -> float:
    """By how much a step of a tokenizer, or a sequence of steps, may lengthen a text."""
    if not isinstance(step, dict):
        return 1.0
    if step.get("type") == "Sequence":
        return math.prod(map(_growth, step.get("normalizers") or step.get("decoders") or []))
    if step.get("type") != "Replace":
        return 1.0
    pattern = step.get("pattern")
    replaced = pattern.get("String") if isinstance(pattern, dict) else None
    written = len(str(step.get("content") or ""))
    # A regular expression may match one sign, or nothing before every one.
    return max(1.0, written / max(1, len(replaced)) if isinstance(replaced, str) else written + 1.0)


def _refusal(reason: str) -> ModelUnavailable:
    return ModelUnavailable(reason, "Save the model again, or name another one.", lasting=True)
