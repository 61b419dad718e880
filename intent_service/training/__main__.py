"""The command line: `python -m intent_service.training --help`."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from intent_service import bundled
from intent_service.catalog import CatalogFault
from intent_service.examples import DataFault
from intent_service.settings import IntentSettings
from intent_service.training.run import gather, run
from intent_service.training.settings import SettingsError, TrainingSettings
from shared.registry import Registry, VersionFault
from shared.settings import SettingsFault, load


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the arguments say. Returns the exit status: 0, 2 for wrong input, 130 when interrupted."""
    given: dict[str, Any] = vars(_parser().parse_args(arguments))
    if given.pop("no_catalog", False):
        given["catalog"] = None
    if "output" not in given:
        given.setdefault("name", f"{datetime.now(UTC):%Y%m%d-%H%M%S}")
    settings = TrainingSettings(**{**given, "data": tuple(given.get("data", ()))})
    try:
        settings.check()
        service = load(IntentSettings)
        registry = None if settings.output else Registry(service.registry)
        if registry:
            registry.check_new(settings.model_name)
        scores = _train(settings, registry)["scores"]
    except (SettingsError, SettingsFault, VersionFault, CatalogFault, DataFault) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was saved", file=sys.stderr)
        return 130
    accuracy, refused = scores["accuracy"], scores["in_scope_refused"]
    print(f"{settings.model_name}: accuracy {accuracy} by {scores['measured_by']}, {refused:.1%} refused.")
    print(_how_to_serve(settings, service))
    return 0


def _how_to_serve(settings: TrainingSettings, service: IntentSettings) -> str:
    if settings.output:
        return f"Serve it with INTENT_MODEL={settings.output}"
    key = ' -H "Authorization: Bearer $API_KEY"' if service.api_key else ""
    url = f"http://127.0.0.1:{service.port}/models/{settings.model_name}/activate"
    return f"It is a version in {service.registry}. Put it into service with\ncurl -s -X POST {url}{key}"


def _train(settings: TrainingSettings, registry: Registry | None) -> dict[str, Any]:
    """The card of what was trained."""
    intents, rows = gather(settings)
    # Imported once the input is known to be right: it takes seconds.
    from rich.progress import Progress

    with Progress(transient=True) as bars:
        task = bars.add_task("encoding", total=None)

        def progress(doing: str, done: int, total: int) -> None:
            bars.update(task, description=doing, completed=done, total=total)

        return run(settings, intents, rows, registry=registry, progress=progress)


def _parser() -> argparse.ArgumentParser:
    # Options that are not given stay out of the namespace, so the defaults live in TrainingSettings alone.
    default = TrainingSettings
    parser = argparse.ArgumentParser(
        prog="python -m intent_service.training",
        description="Learn the catalogue's intents from examples; save a model version, or a folder.",
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--output", type=Path, help="folder for the head, instead of a version in INTENT_REGISTRY")
    add(
        "--data",
        nargs="+",
        type=Path,
        help='JSON Lines of {"text", "intent"} ("oos": none of the intents), or of exported feedback',
    )
    add("--catalog", type=Path, help="YAML file with the intents and more examples (the shipped one)")
    add("--no-catalog", action="store_true", help="learn the intents of the data alone")
    add("--encoder", help=f"folder or hub id of a sentence encoder ({bundled.NAME})")
    add("--finetune-encoder", action="store_true", help="train the encoder too: better, but takes minutes")
    add("--epochs", type=float, help=f"of the fine-tuning ({default.epochs})")
    add("--steps", type=int, help="of the fine-tuning, instead of --epochs")
    add("--learning-rate", type=float, help=f"of the fine-tuning ({default.learning_rate})")
    add(
        "--most-refused",
        type=float,
        help=f"share of messages in scope that may be unknown, given oos ones ({default.most_refused})",
    )
    add("--seed", type=int, help=f"of the fine-tuning ({default.seed})")
    add("--name", help="of the version (date and time), or on the card (that of the output folder)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
