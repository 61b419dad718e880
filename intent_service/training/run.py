"""One run, start to end: catalogue and examples in, a head with its card out."""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from intent_service import catalog, examples
from intent_service.catalog import Catalog, CatalogIntent
from intent_service.examples import DataFault, Example
from intent_service.training.settings import TrainingSettings
from shared.registry import Registry

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and (done, in all)."""


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


def run(
    settings: TrainingSettings,
    intents: Catalog,
    rows: Sequence[Example],
    *,
    registry: Registry | None = None,
    whole: bool = False,
    progress: Progress,
) -> dict[str, Any]:
    """Train, save and return the content of the `card.json` that was written.

    Saved into `registry` as the version `settings.name`, or without one into `settings.output`. A version,
    and what is to be `whole` like one, has all it needs: an encoder from a folder goes with it. Raises
    DataFault and VersionFault.
    """
    # Imported once the input is known to be right: it takes seconds, for torch comes with it.
    from intent_service.classifiers.encoder import SentenceEncoder
    from intent_service.classifiers.trained import ENCODER, find_encoder
    from intent_service.training import card, trainer

    encoder = SentenceEncoder.load(find_encoder(settings.encoder))
    learned = trainer.learn(encoder, intents, rows, settings, progress)
    files = [*settings.data, *([settings.catalog] if settings.catalog else [])]
    written = card.content(settings, learned, files, rows)
    with _folder(settings, registry, written) as folder:
        own = settings.finetune_encoder or (
            (whole or registry is not None) and Path(settings.encoder).is_dir()
        )
        if own:
            encoder.save(folder / ENCODER)
        learned.head.save(folder, None if own else settings.encoder)
        card.write(folder, written)
    return written


def _folder(
    settings: TrainingSettings, registry: Registry | None, written: dict[str, Any]
) -> AbstractContextManager[Path]:
    if registry:
        return registry.saving(
            settings.model_name,
            kind="head with its encoder" if settings.finetune_encoder else "head",
            parent=written["encoder"],
            scores=written["scores"],
        )
    assert settings.output  # noqa: S101  # narrows the type
    settings.output.mkdir(parents=True, exist_ok=True)
    return contextlib.nullcontext(settings.output)
