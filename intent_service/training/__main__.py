"""The command line: `python -m intent_service.training --help`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from intent_service import bundled, catalog, examples
from intent_service.catalog import Catalog, CatalogFault, CatalogIntent
from intent_service.examples import DataFault, Example
from intent_service.training.settings import SettingsError, TrainingSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the arguments say. Returns the exit status: 0, 2 for wrong input, 130 when interrupted."""
    given: dict[str, Any] = vars(_parser().parse_args(arguments))
    if given.pop("no_catalog", False):
        given["catalog"] = None
    settings = TrainingSettings(**{**given, "data": tuple(given.get("data", ()))})
    try:
        settings.check()
        intents, rows = gather(settings)
        scores = run(settings, intents, rows)["scores"]
    except (SettingsError, CatalogFault, DataFault) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was saved", file=sys.stderr)
        return 130
    refused = scores["in_scope_refused"]
    print(
        f"{settings.output}: accuracy {scores['accuracy']} by {scores['measured_by']}, {refused:.1%} refused."
        f" Serve it with INTENT_MODEL={settings.output}"
    )
    return 0


def gather(settings: TrainingSettings) -> tuple[Catalog, list[Example]]:
    """The intents to learn, and the examples; the catalogue's own count as examples too.

    Intents that only the data has are added to the catalogue by name. Raises CatalogFault and DataFault.
    """
    rows: list[Example] = []
    problems: list[str] = []
    for path in settings.data:
        try:
            rows += examples.read(path)
        except DataFault as fault:
            problems.append(str(fault))
    if problems:
        raise DataFault("\n".join(problems))
    listed = catalog.load(settings.catalog).intents if settings.catalog else ()
    known = {intent.label for intent in listed}
    added = [label for label in examples.intents(rows) if label not in known]
    if wrong := catalog.unusable([*(intent.label for intent in listed), *added]):
        raise DataFault(f"the intents of catalogue and data together: {wrong[1]}")
    own = [Example(text, intent.label) for intent in listed for text in intent.examples]
    # Taken out of the catalogue, so that they are held out too when it is measured.
    bare = [intent.model_copy(update={"examples": ()}) for intent in listed]
    return Catalog(intents=(*bare, *(CatalogIntent(label=label) for label in added))), [*own, *rows]


def run(settings: TrainingSettings, intents: Catalog, rows: Sequence[Example]) -> dict[str, Any]:
    """Train, save and return the content of the `card.json` that was written. Raises DataFault."""
    # Imported once the input is known to be right: it takes seconds, for torch comes with it.
    from rich.progress import Progress

    from intent_service.classifiers.encoder import SentenceEncoder
    from intent_service.classifiers.trained import ENCODER, find_encoder
    from intent_service.training import card, trainer

    encoder = SentenceEncoder.load(find_encoder(settings.encoder))
    with Progress(transient=True) as bars:
        task = bars.add_task("encoding", total=None)

        def progress(doing: str, done: int, total: int) -> None:
            bars.update(task, description=doing, completed=done, total=total)

        learned = trainer.learn(encoder, intents, rows, settings, progress)
    settings.output.mkdir(parents=True, exist_ok=True)
    if settings.finetune_encoder:
        encoder.save(settings.output / ENCODER)
    learned.head.save(settings.output, None if settings.finetune_encoder else settings.encoder)
    files = [*settings.data, *([settings.catalog] if settings.catalog else [])]
    written = card.content(settings, learned, files, rows)
    card.write(settings.output, written)
    return written


def _parser() -> argparse.ArgumentParser:
    # Options that are not given stay out of the namespace, so the defaults live in TrainingSettings alone.
    default = TrainingSettings
    parser = argparse.ArgumentParser(
        prog="python -m intent_service.training",
        description="Learn the catalogue's intents from examples and save a folder for INTENT_MODEL.",
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder for the head")
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
    add("--name", help="name on the card (that of the output folder)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
