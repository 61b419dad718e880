"""A data set for evaluation: a folder of JSON Lines, split into train, valid and test.

    train.jsonl, valid.jsonl, test.jsonl        {"text", "intent"} rows; only test.jsonl must be there
    oos_train.jsonl, oos_valid.jsonl, oos_test.jsonl    out of scope, where there are such messages
    labels.json        {"intents": [{"intent", "description"}]}; else the intents are those of the rows

Rows whose intent is "oos" may also stand among the others, and a lone oos.jsonl belongs to the test.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intent_service import catalog, examples
from intent_service.catalog import Catalog
from intent_service.examples import DataFault, Example


@dataclass(frozen=True)
class DataSet:
    """The messages of one folder."""

    name: str
    intents: tuple[str, ...]
    train: tuple[Example, ...]
    test: tuple[Example, ...]  # out of scope included

    @property
    def catalog(self) -> Catalog:
        """The intents' names and nothing else."""
        return Catalog.of(self.intents)

    def shots(self, count: int, seed: int) -> list[Example]:
        """`count` training messages of every intent, drawn by `seed`, and no others. Raises DataFault."""
        drawn: list[Example] = []
        for intent in self.intents:
            mine = [example for example in self.train if example.intent == intent]
            if len(mine) < count:
                raise DataFault(
                    f"{self.name}: there are {len(mine)} training messages of {intent}, not {count}"
                )
            # Seeded by the intent too: what is drawn for one does not depend on the others.
            drawn += random.Random(f"{seed} {intent}").sample(mine, count)  # noqa: S311 - no secret
        return drawn


def load(folder: Path, limit: int | None = None, seed: int = 0) -> DataSet:
    """Read a folder; with `limit` the test is so many of its messages, drawn by `seed`. Raises DataFault."""
    test = _split(folder, "test")
    if not any(example.in_scope for example in test):
        raise DataFault(f"{folder / 'test.jsonl'}: there must be messages in scope to measure on")
    train = _split(folder, "train")
    intents = _labels(folder / "labels.json") or examples.intents([*train, *test])
    for name, split in (("train", train), ("test", test)):
        strange = {example.intent for example in split if example.in_scope} - set(intents)
        if strange:
            raise DataFault(f"{folder}: {name} has the intent {min(strange)}, which labels.json has not")
    if found := catalog.unusable(intents):
        raise DataFault(f"{folder}: the intent {intents[found[0]]}: {found[1]}")
    if limit is not None and limit < len(test):
        test = random.Random(seed).sample(test, limit)  # noqa: S311 - no secret
    return DataSet(folder.resolve().name, tuple(intents), tuple(train), tuple(test))


def _split(folder: Path, split: str) -> list[Example]:
    files = [folder / f"{split}.jsonl", folder / f"oos_{split}.jsonl"]
    if split == "test":
        if not files[0].is_file():
            raise DataFault(f"{files[0]}: no such file; a data folder needs it")
        if not files[1].is_file():
            files.append(folder / "oos.jsonl")
    return [example for file in files if file.is_file() for example in examples.read(file)]


def _labels(file: Path) -> list[str]:
    if not file.is_file():
        return []
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        named = [entry["intent"] for entry in content["intents"]]
    except json.JSONDecodeError as error:
        raise DataFault(f"{file}:{error.lineno}: not JSON ({error.msg})") from None
    except (UnicodeDecodeError, KeyError, TypeError):
        raise DataFault(f'{file}:1: must be {{"intents": [{{"intent": "..."}}]}}') from None
    return [str(name) for name in named if name != examples.OUT_OF_SCOPE]
