"""What a benchmark measured, kept in a file until all of it is there, and the tables made of it."""

import json
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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
    findings: list[str] = field(default_factory=list)
    measured_at: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M"))
    load: float = field(default_factory=lambda: os.getloadavg()[0])


def checks(sections: Sequence[Section]) -> str:
    """The table of all targets."""
    rows = [
        (check.target, f"{check.measured:.2f} {check.unit}", "met" if check.met else "**missed**")
        for section in sections
        for check in section.checks
    ]
    return table(("target", "measured", ""), rows)


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


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    """The processor, and how many cores."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    processor = names[0].partition(":")[2].strip() if names else platform.processor()
    return f"{processor}, {os.cpu_count()} cores"
