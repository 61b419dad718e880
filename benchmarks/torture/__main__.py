"""`python -m benchmarks.torture` breaks Parley in every way it knows and writes benchmarks/reliability.md."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read at import, here and by what is started

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from benchmarks.sections import Results, Section
from benchmarks.torture import crash, disk, faults, load, long, replicas, report
from shared.settings import REPOSITORY

TABLE = Path(__file__).parents[1] / "reliability.md"
WORK = REPOSITORY / "build" / "torture"

Say = Callable[[str], None]
SECTIONS: dict[str, Callable[[argparse.Namespace, Say], Section]] = {
    "crash": lambda asked, say: crash.rounds(asked.rounds, say),
    "network": lambda asked, say: faults.network(say, asked.repeat),
    "replicas": lambda asked, say: replicas.two(say, 2 * asked.repeat),
    "disk": lambda asked, say: disk.full_and_read_only(say, asked.repeat),
    "long": lambda asked, say: long.conversation(say, asked.exchanges),
    "load": lambda asked, say: load.heavy(say, 60 * asked.load_minutes),
}


def main() -> int:
    """Returns the exit status: 1 when a target was missed."""
    asked = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that whatever was started is stopped
    WORK.mkdir(parents=True, exist_ok=True)
    results = Results(WORK / "results.json")
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    missed = 0
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=len(asked.only))
        for name in asked.only:
            say = _say(progress, task, name, console)
            section = SECTIONS[name](asked, say)
            results.put(name, section)
            for check in section.checks:
                console.print(f"{check.target}: {check.measured:.2f} {check.unit}", highlight=False)
                missed += not check.met
            for fault in section.findings[:20]:
                console.print(fault, markup=False, style="red")
            progress.advance(task)
    if asked.output:
        ordered = {name: results.sections[name] for name in SECTIONS if name in results.sections}
        asked.output.write_text(report.text(ordered), encoding="utf-8")
    return int(missed > 0)


def _say(progress: Progress, task: TaskID, name: str, console: Console) -> Say:
    def say(what: str) -> None:
        progress.update(task, description=f"{name}: {what}")
        if not console.is_terminal:
            print(f"{name}: {what}", file=sys.stderr, flush=True)

    return say


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture", description=__doc__)
    parser.add_argument("--rounds", type=int, default=4, help="how often something is killed (4)")
    parser.add_argument("--repeat", type=int, default=1, help="how often each network fault is made (1)")
    parser.add_argument("--exchanges", type=int, default=50_000, help="of the long conversation (50000)")
    parser.add_argument("--load-minutes", type=float, default=0.5, help="how long the load lasts (0.5)")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections")
    parser.add_argument("--output", type=Path, default=TABLE, help="where to write the table")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
