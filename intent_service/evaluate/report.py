"""An evaluation's result: one JSON object, or tables for people."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from intent_service import metrics
from intent_service.metrics import Answer

_DIGITS = 4
_SAID = {
    "accuracy": "in scope, best label right",
    "macro_f1": "in scope, mean over the intents",
    "overall_accuracy": "all messages, answered right with unknown counted",
    "oos_recall": "out of scope, answered unknown",
    "oos_precision": "answered unknown, out of scope",
    "in_scope_refused": "in scope, answered unknown",
    "ece_before": "expected calibration error of a plain softmax over the labels",
    "ece": "expected calibration error of the score",
    "ms_per_message": "milliseconds a message",
}


def summary(
    answers: Sequence[Answer], ms_per_message: float, ece_before: float | None, **about: Any
) -> dict[str, Any]:
    """Every measure as JSON values; null where there is nothing to measure it on."""
    given = {"ms_per_message": ms_per_message, "ece_before": ece_before}
    measures: dict[str, float | None] = {
        name: getattr(metrics, name)(answers) for name in _SAID if name not in given
    }
    measures["ece_before"] = ece_before
    return {
        **about,
        "in_scope": sum(answer.truth is not None for answer in answers),
        "out_of_scope": sum(answer.truth is None for answer in answers),
        **{name: None if value is None else round(value, _DIGITS) for name, value in measures.items()},
        "ms_per_message": round(ms_per_message, 2),
        "confused": [
            {"intent": truth, "taken_for": best, "messages": count}
            for truth, best, count in metrics.confused(answers)
        ],
    }


def show(result: dict[str, Any], console: Console) -> None:
    """Print a summary as tables."""
    table = Table(
        title=f"{result['data']}: {result['intents']} intents, {result['in_scope']} messages in scope,"
        f" {result['out_of_scope']} out of scope; {result['classifier']}",
        title_justify="left",
    )
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("of what")
    for name, said in _SAID.items():
        value = result[name]
        table.add_row(name, "-" if value is None else f"{value:g}", said)
    console.print(table)
    if not result["confused"]:
        return
    pairs = Table(title="Most confused", title_justify="left")
    pairs.add_column("intent")
    pairs.add_column("taken for")
    pairs.add_column("messages", justify="right")
    for pair in result["confused"]:
        pairs.add_row(pair["intent"], pair["taken_for"], str(pair["messages"]))
    console.print(pairs)
