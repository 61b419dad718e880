"""Whether a candidate may take the place of the model in service: one rule, one verdict.

It must be better in what it was trained for, by more than chance explains, and nowhere worse than tolerated.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import JsonValue

Z = 1.64
"""Standard errors by which a gain must exceed 0: chance alone does that in 5 of 100 cases."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One measure of both models.

    An `aim` must become better by more than `bound`; of all others `bound` is the most by which they may
    become worse (None: shown only). `condition` says that in words, as in "perplexity is at most 3 % higher";
    `said` is what is measured.
    """

    name: str
    said: str
    before: float
    after: float
    better: Literal["higher", "lower"]
    condition: str
    bound: float | None
    aim: bool = False

    @property
    def gain(self) -> float:
        """By how much the candidate is better; below 0 it is worse."""
        return self.after - self.before if self.better == "higher" else self.before - self.after

    @property
    def holds(self) -> bool:
        """Whether the rule is met here."""
        if self.bound is None:
            return True
        return self.gain > self.bound if self.aim else self.gain >= -self.bound

    def __str__(self) -> str:
        return f"{self.name} {self.before:.4g} → {self.after:.4g}"


@dataclass(frozen=True)
class Verdict:
    """What the rule says of a candidate; `against` names the model in service."""

    against: str
    measures: Sequence[Measure] = field(repr=False)

    @property
    def promoted(self) -> bool:
        """Whether the candidate may serve: it has an aim, and all conditions hold."""
        return any(measure.aim for measure in self.measures) and all(m.holds for m in self.measures)

    @property
    def rule(self) -> str:
        """The rule in one sentence."""
        said = [(m.aim, f"{m.name} is {m.condition}") for m in self.measures if m.bound is not None]
        aims, others = ([text for aim, text in said if aim is kind] for kind in (True, False))
        return f"Promoted if {' and '.join(aims)}, and {', '.join(others)}."

    @property
    def why(self) -> str:
        """The verdict in one sentence, with the numbers that decided."""
        if self.promoted:
            aims = "; ".join(str(m) for m in self.measures if m.aim)
            return f"Promoted: {aims}, and nothing else is worse than tolerated."
        missed = "; ".join(f"{m} (it must be {m.condition})" for m in self.measures if not m.holds)
        return f"Not promoted: {missed}."

    def recorded(self) -> dict[str, JsonValue]:
        """For the card, as JSON values."""
        return {
            "against": self.against,
            "rule": self.rule,
            "promoted": self.promoted,
            "verdict": self.why,
            "measures": {
                m.name: {"before": round(m.before, 4), "after": round(m.after, 4), "holds": m.holds}
                for m in self.measures
            },
        }


def markdown(recorded: dict[str, Any]) -> list[str]:
    """What was recorded of a verdict, as lines for a card."""
    rows = (
        f"| {name} | {measure['before']} | {measure['after']} | {'yes' if measure['holds'] else 'no'} |"
        for name, measure in recorded["measures"].items()
    )
    return [
        f"## Beside `{recorded['against']}`, the model in service",
        "",
        recorded["rule"],
        "",
        recorded["verdict"],
        "",
        "| | before | after | as the rule wants it |",
        "|---|---|---|---|",
        *rows,
        "",
        "`report.html` shows what both say.",
        "",
    ]
