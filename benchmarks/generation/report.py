"""What was measured, kept in a file until all of it is there, and the table made of it."""

import json
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.generation.peers import CTRANSLATE2, LINEAR, LLAMA, NAIVE

PARLEY = "Parley"
COLUMNS = (NAIVE, LINEAR, PARLEY, CTRANSLATE2, LLAMA)


@dataclass(frozen=True)
class Times:
    """Several measurements of one thing, in seconds unless the row says otherwise."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def shown(self, digits: int = 2) -> str:
        """Median, least and most."""
        least, most = min(self.values), max(self.values)
        return f"{self.median:.{digits}f} ({least:.{digits}f}-{most:.{digits}f})"


@dataclass(frozen=True)
class Check:
    """A target and what came of it."""

    target: str
    measured: float
    met: bool
    unit: str = "times"

    @classmethod
    def at_least(cls, measured: float, bound: float, what: str, unit: str = "times") -> "Check":
        """More is better."""
        return cls(f"{what}: at least {bound:g} {unit}", measured, measured >= bound, unit)

    @classmethod
    def at_most(cls, measured: float, bound: float, what: str, unit: str = "times") -> "Check":
        """Less is better."""
        return cls(f"{what}: at most {bound:g} {unit}", measured, measured <= bound, unit)


@dataclass
class Section:
    """One part of the table: rows of a text for each column, and targets."""

    title: str
    note: str = ""
    rows: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    measured_at: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M"))
    load: float = field(default_factory=lambda: os.getloadavg()[0])


class Results:
    """The sections so far, in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        stored: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        self.sections = {name: _section(raw) for name, raw in stored.items()}

    def put(self, name: str, section: Section) -> None:
        """Keep a section in the place of an earlier one."""
        self.sections[name] = section
        self._file.write_text(json.dumps({k: _raw(v) for k, v in self.sections.items()}, indent=1))


def _raw(section: Section) -> dict[str, Any]:
    return vars(section) | {"checks": [vars(check) for check in section.checks]}


def _section(raw: Mapping[str, Any]) -> Section:
    rows = [(what, cells) for what, cells in raw["rows"]]
    return Section(**{**raw, "rows": rows, "checks": [Check(**check) for check in raw["checks"]]})


def text(shape: str, sections: Mapping[str, Section], missing: Mapping[str, str]) -> str:
    """The whole document."""
    parts = [_HEAD.format(machine=_machine(), shape=shape)]
    parts += [f"{column}: {why}." for column, why in missing.items()]
    parts.append(_checks(sections))
    for section in sections.values():
        parts += [f"## {section.title}", section.note]
        if section.rows:
            parts.append(_table(("", *COLUMNS), [(w, *_cells(cells)) for w, cells in section.rows]))
        if section.facts:
            parts.append(_table(("", ""), list(section.facts.items())))
        parts.append(f"Measured {section.measured_at}; load average when it ended: {section.load:.1f}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _checks(sections: Mapping[str, Section]) -> str:
    rows = [
        (check.target, f"{check.measured:.2f} {check.unit}", "met" if check.met else "**missed**")
        for section in sections.values()
        for check in section.checks
    ]
    gpu = (
        "a GPU is here, but this table is the processor's"
        if torch.cuda.is_available()
        else "no GPU was at hand"
    )
    rows.append(
        ("On a GPU, half precision: decode at least 60 % of its bandwidth floor", gpu, "not measured")
    )
    return _table(("target", "measured", ""), rows)


def _cells(cells: Mapping[str, str]) -> list[str]:
    return [cells.get(column, "-") for column in COLUMNS]


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    processor = names[0].partition(":")[2].strip() if names else platform.processor()
    return f"{processor}, {os.cpu_count()} cores, torch {torch.__version__}"


_HEAD = """# The speed of replies

Written by `make bench-generation`: {machine}.
Shape: {shape}, random weights, built on the spot. Times are medians in seconds (least-most in brackets).

- naive: transformers' `generate`, float32, the checkpoint as loaded (Conv1D), the whole history each time.
- naive, Linear: the same with GPT-2's Conv1D modules rewritten as Linear.
- Parley: `LocalGenerator`, by its public protocol, text in and text out, sampling as the service does.
- CTranslate2 int8, llama.cpp Q8_0: converted from the same checkpoint, greedy.

Each of them in a process of its own.

Every column makes exactly as many tokens as asked for. No setting forces that: the weights make the end of
a turn impossible to say (its logit is at most minus the square root of the width); results are counted."""
