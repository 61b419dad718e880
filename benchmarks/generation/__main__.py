"""`python -m benchmarks.generation` measures and writes benchmarks/generation.md."""

import argparse
import logging
import os
import sys
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read at import

import transformers
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks.generation import engine, model, peers, report, stack
from benchmarks.sections import Results, Section
from shared import allocator
from shared.settings import REPOSITORY
from shared.worker import in_own_thread

TABLE = Path(__file__).parents[1] / "generation.md"
WORK = REPOSITORY / "build" / "bench-generation"
SECTIONS = (*engine.SECTIONS, "turns", "around", "start")


def main() -> int:
    """Returns the exit status."""
    asked = _arguments()
    allocator.settle()  # as in a service
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if not (asked.vocab / "vocab.json").exists():
        print(f"Not measured: no GPT-2 vocab.json in {asked.vocab}. Name its folder with --vocab.")
        return 0
    work = WORK / asked.shape
    work.mkdir(parents=True, exist_ok=True)
    results = Results(work / "results.json")
    wanted = asked.only or [name for name in SECTIONS if not asked.resume or name not in results.sections]
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    began = time.monotonic()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("building the model", total=len(wanted))
        shape = model.SHAPES[asked.shape]
        folder = work / f"dialogpt-{asked.shape}"
        checkpoint = in_own_thread(lambda: model.build(shape, asked.vocab, folder))
        words = model.Words(checkpoint)
        missing = peers.missing()
        for column, why in missing.items():
            console.print(f"{column}: {why}", markup=False)
        needed = set(wanted) & set(engine.SECTIONS)
        found = peers.others(checkpoint) if needed else {}
        for name in wanted:
            say = _say(progress, task, name)
            section = _measure(name, asked, shape, checkpoint, words, found, say)
            results.put(name, section)
            for check in section.checks:
                console.print(f"{check.target}: {check.measured:.2f} {check.unit}")
            progress.advance(task)
    ordered = {name: results.sections[name] for name in SECTIONS if name in results.sections}
    shown = report.text(f"DialoGPT-{asked.shape}'s" if asked.shape != "small" else "small", ordered, missing)
    asked.output.write_text(shown, encoding="utf-8")
    console.print(f"{asked.output} written after {time.monotonic() - began:.0f} s")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generation", description=__doc__)
    parser.add_argument(
        "--vocab", type=Path, default=REPOSITORY.parent / "shared" / "data" / "gpt2-bpe",
        help="the folder of GPT-2's vocab.json and merges.txt",
    )  # fmt: skip
    parser.add_argument(
        "--shape", choices=model.SHAPES, default="medium", help="small tries the benchmark out"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each thing is measured")
    parser.add_argument("--turns", type=int, default=stack.TURNS, help="length of the long conversation")
    parser.add_argument(
        "--requests", type=int, default=300, help="requests to the model that answers at once"
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="these sections; the others stay")
    parser.add_argument("--resume", action="store_true", help="measure only what has not been measured yet")
    parser.add_argument("--output", type=Path, help="the file to write (default: benchmarks/generation.md)")
    asked = parser.parse_args()
    asked.output = asked.output or (TABLE if asked.shape == "medium" else WORK / asked.shape / "table.md")
    return asked


def _measure(
    name: str,
    asked: argparse.Namespace,
    shape: model.Shape,
    checkpoint: Path,
    words: model.Words,
    found: dict[str, peers.Apart],
    say: engine.Say,
) -> Section:
    if name == "turns":
        return stack.turns(checkpoint, words, say, asked.turns)
    if name == "around":
        return stack.around(words, say, asked.requests)
    if name == "start":
        return stack.start(checkpoint, say, asked.rounds)
    return engine.run(name, engine.Bench(checkpoint, shape, words, found, asked.rounds, say))


def _say(progress: Progress, task: object, name: str) -> engine.Say:
    return lambda news: progress.update(task, description=f"{name}: {news}")  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
