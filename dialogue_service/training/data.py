"""Dialogues read from files and checked. Knows nothing about tokens or models."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
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
    id: str | None = field(default=None, compare=False)
    """Of the vote that approved the last turn; None: no vote did."""


@dataclass(frozen=True)
class Thumb:
    """What somebody thinks of the last turn, a reply to those before; `id` is the vote's."""

    turns: tuple[str, ...]
    up: bool
    id: str


@dataclass(frozen=True)
class DataFile:
    """What one file holds; `unrated` counts rows of a feedback export without an approved reply."""

    path: Path
    sha256: str
    spoken: tuple[Dialogue, ...]
    thumbs: tuple[Thumb, ...]
    unrated: int

    @property
    def dialogues(self) -> tuple[Dialogue, ...]:
        """What there is to say after it: the file's dialogues and its approved replies."""
        return merge([self])[0]


def merge(files: Iterable[DataFile]) -> tuple[tuple[Dialogue, ...], tuple[Thumb, ...]]:
    """All dialogues and approved replies, and all thumbs, each once.

    Of several thumbs for the same reply to the same turns the last one counts. It keeps the id of the first:
    that decides on which side of the hold-out it falls, which must not change when somebody says it again.
    """
    thumbs: dict[tuple[str, ...], Thumb] = {}
    for thumb in (thumb for file in files for thumb in file.thumbs):
        first = thumbs.get(thumb.turns, thumb)
        thumbs[thumb.turns] = Thumb(thumb.turns, thumb.up, first.id)
    approved = [
        Dialogue(
            thumb.turns, tuple(index == len(thumb.turns) - 1 for index in range(len(thumb.turns))), thumb.id
        )
        for thumb in thumbs.values()
        if thumb.up
    ]
    spoken = [dialogue for file in files for dialogue in file.spoken]
    return tuple(dict.fromkeys([*approved, *spoken])), tuple(thumbs.values())


def read_file(path: Path, learn: Literal["replies", "all"] = "replies") -> DataFile:
    """Read JSON Lines, or one JSON list, of dialogues.

    A row is `{"input", "response"}` or `{"turns": [...]}`, the text of two speakers in turn; `learn` says
    whether the second speaker's turns are learned or all but the first. A row with the key `rating` or
    `better_reply` is feedback: its rating is a thumb for the last turn, a `better_reply` is one that is up.
    Other keys are ignored.

    Raises `DataError` with the first `MAX_PROBLEMS` problems of the file.
    """
    content = path.read_bytes()
    spoken: list[Dialogue] = []
    thumbs: list[Thumb] = []
    problems: list[str] = []
    unrated = 0
    for line, row in _rows(path, content):
        try:
            fields = _fields(row)
            if "rating" in fields or "better_reply" in fields:
                found = list(_thumbs(fields))
                unrated += not any(thumb.up for thumb in found)
                thumbs += found
            else:
                spoken.append(_dialogue(fields, learn))
        except json.JSONDecodeError as error:
            problems.append(f"{path}:{line + error.lineno - 1}: not JSON ({error.msg}, column {error.colno})")
        except ValueError as error:
            problems.append(f"{path}:{line}: {error}")
        if len(problems) == MAX_PROBLEMS:
            problems.append(f"{path}:{line}: stopped reading after {MAX_PROBLEMS} problems")
            break
    if not problems and not spoken and not thumbs:
        problems.append(f"{path}:1: nothing to learn here ({unrated} rows without an approved reply)")
    if problems:
        raise DataError("\n".join(problems))
    return DataFile(path, hashlib.sha256(content).hexdigest(), tuple(spoken), tuple(thumbs), unrated)


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


def _fields(row: str) -> dict[str, object]:
    fields = json.loads(row)
    if not isinstance(fields, dict):
        raise ValueError('a row must be an object with "input" and "response", or with "turns"')
    return fields


def _dialogue(row: dict[str, object], learn: Literal["replies", "all"]) -> Dialogue:
    turns = _turns(row)
    return Dialogue(turns, tuple(i % 2 == 1 or (learn == "all" and i > 0) for i in range(len(turns))))


def _thumbs(row: dict[str, object]) -> Iterator[Thumb]:
    """What a row of feedback thinks of its reply, and of the one it puts in its place."""
    turns, rating, better = _turns(row), row.get("rating"), row.get("better_reply")
    if rating not in ("positive", "negative", None):
        raise ValueError(f'"rating" must be "positive", "negative" or null, not {rating!r}')
    id_ = _id(row, turns)
    if rating is not None:
        yield Thumb(turns, rating == "positive", id_)
    if better is not None:
        yield Thumb((*turns[:-1], _text(better, '"better_reply"')), up=True, id=id_)


def _id(row: dict[str, object], turns: Sequence[str]) -> str:
    """The vote's, or where a row has none one that follows from its turns."""
    id_ = row.get("id")
    if id_ is None:
        return hashlib.sha256(json.dumps(turns).encode()).hexdigest()
    if not isinstance(id_, str):
        raise ValueError(f'"id" must be a text, not {type(id_).__name__}')
    return id_


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
