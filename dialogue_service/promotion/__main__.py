"""The command line: `python -m dialogue_service.promotion --help`."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dialogue_service.promotion.plan import Plan
from dialogue_service.settings import DialogueSettings
from shared import job_process
from shared.job_process import Fault
from shared.settings import SettingsFault, load


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a version by hand. Returns the exit status: 0, 2 for wrong input, 130 when interrupted."""
    given = _parser().parse_args(arguments)
    if given.job:
        job_process.main(lambda say: _make(Plan.read(given.job), given.job, say))
    try:
        settings = load(DialogueSettings)
        plan = _plan(given, settings)
        with tempfile.TemporaryDirectory(prefix=".by-hand-", dir=plan.registry) as work:
            made = _by_hand(plan, Path(work))
    except (Fault, SettingsFault, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was saved", file=sys.stderr)
        return 130
    key = ' -H "Authorization: Bearer $API_KEY"' if settings.api_key else ""
    print(made["verdict"])
    print(f"It is a version in {plan.registry}; its report.html shows both models. Put it into service with")
    print(f"curl -s -X POST http://127.0.0.1:{settings.port}/models/{plan.name}/activate{key}")
    return 0


def _make(plan: Plan, work: Path, say: job_process.Report) -> dict[str, Any]:
    # Imported here because it takes seconds, for torch comes with it.
    from dialogue_service.promotion import candidate

    return candidate.make(plan, work, say)


def _by_hand(plan: Plan, work: Path) -> dict[str, Any]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("loading", total=None)

        def say(stage: str, step: int, total: int) -> None:
            bars.update(task, description=stage, completed=step, total=total or None)

        return _make(plan, work, say)


def _plan(given: argparse.Namespace, settings: DialogueSettings) -> Plan:
    """For the model that the service would serve. Raises Fault."""
    import threading

    from shared import hub
    from shared.hub import ModelUnavailable
    from shared.registry import CONFIGURED, Registry, make_private

    registry = Registry(settings.registry)
    try:
        active = registry.pointer().active
        make_private(settings.registry)
        if given.model or active == CONFIGURED:
            model = given.model or settings.model or settings.standin
            base, against = hub.fetch(model, lambda _: None, threading.Event(), settings.revision), model
        else:
            base, against = registry.folder(active), active
    except ModelUnavailable as fault:
        raise Fault(f"{fault}") from fault
    return Plan(
        data=tuple(given.data),
        method=given.method,
        base=base,
        against=Path(against).name if Path(against).is_dir() else against,
        registry=settings.registry,
        name=given.name or f"{datetime.now(UTC):%Y%m%d-%H%M%S}",
        generation=settings.generation(),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dialogue_service.promotion",
        description="Train a candidate from feedback, compare it with the model in service, save a version.",
    )
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", nargs="+", type=Path, help="files of exported feedback, and of dialogues")
    source.add_argument("--job", type=Path, help=argparse.SUPPRESS)  # the folder of a job of the service
    add(
        "--method",
        choices=("sft", "kto"),
        default="kto",
        help="say approved replies, or learn from thumbs (kto)",
    )
    add("--model", help="folder or hub id to begin with and to compare with (what the service would serve)")
    add("--name", help="of the version (date and time)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
