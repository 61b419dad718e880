"""Measures the default encoder on intent sets and writes `benchmarks/intents.md`.

    python -m benchmarks.intents --data ../shared/data/intents [--finetune-encoder]

Every row is what `python -m intent_service.evaluate` measures on the test split.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from intent_service.evaluate.__main__ import Options, evaluate

REPORT = Path(__file__).with_name("intents.md")
_SETS = ("clinc150", "banking77")
_MEASURES = (
    "accuracy",
    "macro_f1",
    "overall_accuracy",
    "oos_recall",
    "oos_precision",
    "in_scope_refused",
    "ece",
    "ms_per_message",
    "preparation_s",
)


def ways(folder: Path, finetune_encoder: bool) -> Iterator[Options]:
    """What is measured on one set, the quickest first."""
    yield Options(folder)
    for learned in ({"shots": 3}, {"shots": 10}, {"train": True}):
        yield Options(folder, **learned)  # type: ignore[arg-type]
    if finetune_encoder:
        yield Options(folder, shots=10, finetune_encoder=True)
        yield Options(folder, train=True, finetune_encoder=True)


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "# How well intents are found",
        "",
        "Written by `python -m benchmarks.intents`: the bundled encoder on the test splits, one machine.",
        "`python -m intent_service.evaluate --help` and `intent_service/metrics.py` say what is measured.",
        "",
        f"| set | learned from | {' | '.join(_MEASURES)} |",
        f"|---|---|{'---|' * len(_MEASURES)}",
        *(
            f"| {result['data']} | {result['classifier']} | "
            + " | ".join("-" if result[name] is None else f"{result[name]:g}" for name in _MEASURES)
            + " |"
            for result in results
        ),
        "",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure everything and write the report after each row. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.intents", description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with the sets clinc150 and banking77"
    )
    parser.add_argument("--finetune-encoder", action="store_true", help="also with the encoder fine-tuned")
    given = parser.parse_args(arguments)
    results: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("loading", total=None)

        def say(doing: str, done: int, total: int) -> None:
            bars.update(task, description=doing, completed=done, total=total)

        for name in _SETS:
            for options in ways(given.data / name, given.finetune_encoder):
                results.append(evaluate(options, say)[1])
                # Written each time: what was measured stays when a later row fails.
                REPORT.write_text(table(results), encoding="utf-8")
    print(REPORT.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
