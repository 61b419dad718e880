"""Messages with their intents, read from JSON Lines. Every mistake is reported with file and line."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from intent_service.catalog import UNKNOWN
from shared.contracts import Label, Text

OUT_OF_SCOPE = "oos"
"""The intent of a message about none of the intents, as CLINC150 writes it; "unknown" is read so too."""

MAX_PROBLEMS = 20
"""Reading a file stops after this many problems."""

_TEXT: TypeAdapter[str] = TypeAdapter(Text)
_LABEL: TypeAdapter[str] = TypeAdapter(Label)


class DataFault(ValueError):
    """A data file cannot be used; one `file:line: what is wrong` per line of the message."""


@dataclass(frozen=True)
class Example:
    """A message and the intent it has; `OUT_OF_SCOPE` where it has none of them."""

    text: str
    intent: str

    @property
    def in_scope(self) -> bool:
        """Whether the message is about one of the intents."""
        return self.intent != OUT_OF_SCOPE


def read(path: Path, *, may_be_none: bool = False) -> list[Example]:
    """Read `{"text", "intent"}` rows, or rows of the feedback export.

    Of the feedback only corrected intents count: the message is the last turn but one, its intent is
    `correct_intent`; rows without a correction are passed over. Raises DataFault with the first
    `MAX_PROBLEMS` problems of the file, and unless there `may_be_none` when nothing is left.
    """
    examples: list[Example] = []
    problems: list[str] = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            example = _example(json.loads(line))
        except json.JSONDecodeError as error:
            problems.append(f"{path}:{number}: not JSON ({error.msg}, column {error.colno})")
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
        else:
            examples += [example] if example else []
        if len(problems) == MAX_PROBLEMS:
            break
    if not problems and not examples and not may_be_none:
        problems.append(f"{path}:1: there is no message with an intent in it")
    if problems:
        raise DataFault("\n".join(problems))
    return examples


def intents(examples: Iterable[Example]) -> list[str]:
    """The intents in order of their first message, without `OUT_OF_SCOPE`."""
    return list(dict.fromkeys(example.intent for example in examples if example.in_scope))


def _lines(path: Path) -> list[str]:
    try:
        # Not splitlines(): a JSON text may hold U+2028 and the like as they are.
        return path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DataFault(f"{path}:1: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise DataFault(f"{path}:1: is not UTF-8 text") from None


def _example(row: Any) -> Example | None:
    """Check one row; None when it is feedback without a corrected intent. Raises ValueError."""
    if not isinstance(row, dict):
        raise ValueError('a row must be an object with "text" and "intent", or with "turns"')
    if "turns" in row:
        if row.get("correct_intent") is None:
            return None
        turns = row["turns"]
        if not isinstance(turns, list) or len(turns) < 2:
            raise ValueError('"turns" must be a list that ends with the message and the reply')
        return Example(_checked(_TEXT, turns[-2], "the last turn but one"), _intent(row["correct_intent"]))
    missing = [key for key in ("text", "intent") if key not in row]
    if missing:
        raise ValueError(f'missing {" and ".join(map(json.dumps, missing))} (or "turns")')
    return Example(_checked(_TEXT, row["text"], '"text"'), _intent(row["intent"]))


def _intent(value: object) -> str:
    label = _checked(_LABEL, value, "the intent")
    return OUT_OF_SCOPE if label == UNKNOWN else label


def _checked(kind: TypeAdapter[str], value: object, what: str) -> str:
    try:
        return kind.validate_python(value, strict=True)
    except ValidationError as error:
        raise ValueError(f"{what}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
