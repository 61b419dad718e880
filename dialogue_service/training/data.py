"""Dialogues read from files and checked. Knows nothing about tokens or models."""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MAX_PROBLEMS = 20
"""Reading a file stops after this many problems."""


class DataError(ValueError):
    """A data file cannot be trained on; one `file:line: what is wrong` per line of the message."""


@dataclass(frozen=True)
class Dialogue:
    """Turns in order, and for each whether the model learns to say it (never the first)."""

    turns: tuple[str, ...]
    learned: tuple[bool, ...]


@dataclass(frozen=True)
class DataFile:
    """What one file holds; `unrated` counts rows of a feedback export without an approved reply."""

    path: Path
    sha256: str
    dialogues: tuple[Dialogue, ...]
    unrated: int


def read_file(path: Path, learn: Literal["replies", "all"] = "replies") -> DataFile:
    """Read JSON Lines, or one JSON list, of dialogues.

    A row is `{"input", "response"}` or `{"turns": [...]}`, the text of two speakers in turn; `learn` says
    whether the second speaker's turns are learned or all but the first. A row with the key `rating` or
    `better_reply` is feedback: only its last turn is learned, replaced by `better_reply` where there is one,
    and a row that is neither positive nor corrected teaches nothing. Other keys are ignored.

    Raises `DataError` with the first `MAX_PROBLEMS` problems of the file.
    """
    content = path.read_bytes()
    dialogues: list[Dialogue] = []
    problems: list[str] = []
    unrated = 0
    for line, row in _rows(path, content):
        try:
            dialogue = _dialogue(json.loads(row), learn)
        except json.JSONDecodeError as error:
            problems.append(f"{path}:{line + error.lineno - 1}: not JSON ({error.msg}, column {error.colno})")
        except ValueError as error:
            problems.append(f"{path}:{line}: {error}")
        else:
            if dialogue is None:
                unrated += 1
            else:
                dialogues.append(dialogue)
        if len(problems) == MAX_PROBLEMS:
            problems.append(f"{path}:{line}: stopped reading after {MAX_PROBLEMS} problems")
            break
    if not problems and not dialogues:
        problems.append(f"{path}:1: nothing to learn here ({unrated} rows without an approved reply)")
    if problems:
        raise DataError("\n".join(problems))
    return DataFile(path, hashlib.sha256(content).hexdigest(), tuple(dialogues), unrated)


def read_files(paths: Sequence[Path], learn: Literal["replies", "all"] = "replies") -> list[DataFile]:
    """Read several files; raises one `DataError` with the problems of all of them."""
    files: list[DataFile] = []
    problems: list[str] = []
    for path in paths:
        try:
            files.append(read_file(path, learn))
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    return files


def hold_out(
    dialogues: Sequence[Dialogue], fraction: float, seed: int
) -> tuple[list[Dialogue], list[Dialogue]]:
    """Split into (learned from, held out) at random by `seed`, at least one dialogue on each side.

    Raises `DataError` when there is only one.
    """
    if len(dialogues) < 2:
        raise DataError("one dialogue cannot be split: add more, or measure on --valid-data")
    count = min(max(1, round(len(dialogues) * fraction)), len(dialogues) - 1)
    held = set(random.Random(seed).sample(range(len(dialogues)), count))  # noqa: S311 - no secret
    return (
        [dialogue for index, dialogue in enumerate(dialogues) if index not in held],
        [dialogue for index, dialogue in enumerate(dialogues) if index in held],
    )


def _rows(path: Path, content: bytes) -> Iterator[tuple[int, str]]:
    """Yield each row's first line number and its JSON text."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8 text") from error
    if text.lstrip().startswith("["):
        yield from _list_rows(path, text)
        return
    for number, line_text in enumerate(text.split("\n"), start=1):
        if line_text.strip():
            yield number, line_text


def _list_rows(path: Path, text: str) -> Iterator[tuple[int, str]]:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON ({error.msg}, column {error.colno})") from error
    decoder = json.JSONDecoder()
    line, counted = 1, 0
    start = _skip(text, text.index("[") + 1)
    while text[start] != "]":
        end = decoder.raw_decode(text, start)[1]
        line, counted = line + text.count("\n", counted, start), start
        yield line, text[start:end]
        start = _skip(text, end)


def _skip(text: str, position: int) -> int:
    while text[position] in " \t\r\n,":
        position += 1
    return position


def _dialogue(row: object, learn: Literal["replies", "all"]) -> Dialogue | None:
    """Check one row; None when it is feedback without an approved reply. Raises ValueError."""
    if not isinstance(row, dict):
        raise ValueError('a row must be an object with "input" and "response", or with "turns"')
    turns = _turns(row)
    last = len(turns) - 1
    if "rating" not in row and "better_reply" not in row:
        return Dialogue(turns, tuple(i % 2 == 1 or (learn == "all" and i > 0) for i in range(len(turns))))
    rating, better = row.get("rating"), row.get("better_reply")
    if rating not in ("positive", "negative", None):
        raise ValueError(f'"rating" must be "positive", "negative" or null, not {rating!r}')
    if better is not None:
        turns = (*turns[:last], _text(better, '"better_reply"'))
    elif rating != "positive":
        return None
    return Dialogue(turns, tuple(i == last for i in range(len(turns))))


def _turns(row: dict[str, object]) -> tuple[str, ...]:
    if "turns" in row:
        turns = row["turns"]
        if not isinstance(turns, list):
            raise ValueError(f'"turns" must be a list of texts, not {type(turns).__name__}')
        if len(turns) < 2:
            raise ValueError(f'"turns" must hold at least 2 turns, not {len(turns)}')
        return tuple(_text(turn, f"turn {number}") for number, turn in enumerate(turns, start=1))
    missing = [key for key in ("input", "response") if key not in row]
    if missing:
        raise ValueError(f'missing {" and ".join(map(json.dumps, missing))} (or "turns")')
    return _text(row["input"], '"input"'), _text(row["response"], '"response"')


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where} must be a text, not {type(value).__name__}")
    if not value.strip():
        raise ValueError(f"{where} is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} holds a lone surrogate, which is no character") from error
    return value.strip()
