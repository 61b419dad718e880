"""The command line: `python -m intent_service.evaluate --help`."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from intent_service import bundled, catalog, metrics
from intent_service.catalog import Catalog, CatalogFault
from intent_service.classifiers import Classifier, load
from intent_service.classifiers.encoder import SentenceEncoder
from intent_service.classifiers.trained import TrainedClassifier, find_encoder
from intent_service.classifiers.verdict import Verdict
from intent_service.evaluate import charts, data, report
from intent_service.evaluate.data import DataSet
from intent_service.examples import DataFault
from intent_service.metrics import Answer
from intent_service.training import trainer
from intent_service.training.settings import TrainingSettings
from shared.hub import ModelUnavailable

_BATCH = 32

Say = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """What is measured, and how."""

    data: Path
    model: str = bundled.NAME
    catalog: Path | None = None
    shots: int | None = None
    train: bool = False
    finetune_encoder: bool = False
    most_refused: float = TrainingSettings.most_refused
    limit: int | None = None
    seed: int = 0
    hypothesis: str = "This example is {}."


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate as the arguments say. Returns the exit status: 0, or 2 for wrong input."""
    given = vars(_parser().parse_args(arguments))
    as_json, folder = given.pop("json"), given.pop("charts")
    try:
        with Progress(console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task("loading", total=None)
            answers, result = evaluate(
                Options(**given),
                lambda doing, done, total: bars.update(task, description=doing, completed=done, total=total),
            )
    except (CatalogFault, DataFault, ModelUnavailable) as error:
        print(error, file=sys.stderr)
        return 2
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        report.show(result, Console())
    if folder:
        written = " and ".join(str(path) for path in charts.write(folder, answers))
        print(f"drawn: {written}", file=sys.stderr)
    return 0


def evaluate(options: Options, say: Say) -> tuple[list[Answer], dict[str, Any]]:
    """Classify the test messages: the answers, and their summary. Raises the faults that `main` prints."""
    dataset = data.load(options.data, options.limit, options.seed)
    intents = _catalog(options.catalog, dataset)
    started = time.perf_counter()
    classifier, described = _classifier(options, dataset, intents, say)
    prepared_s = time.perf_counter() - started
    texts = [example.text for example in dataset.test]
    verdicts, ms_per_message = _classify(classifier, texts, intents, say)
    answers = [
        Answer(
            example.intent if example.in_scope else None,
            verdict.ranking[0].label,
            verdict.ranking[0].score,
            verdict.known,
        )
        for example, verdict in zip(dataset.test, verdicts, strict=True)
    ]
    plain = [replace(answer, score=_softmax(v)) for answer, v in zip(answers, verdicts, strict=True)]
    return answers, report.summary(
        answers,
        ms_per_message,
        ece_before=metrics.ece(plain),
        data=dataset.name,
        model=options.model,
        classifier=described,
        intents=len(intents.intents),
        preparation_s=round(prepared_s, 1),
    )


def _softmax(verdict: Verdict) -> float:
    """The best label's share of all scores: what it would be if every message were about one of them."""
    return verdict.ranking[0].score / sum(label.score for label in verdict.ranking)


def _catalog(path: Path | None, dataset: DataSet) -> Catalog:
    if path is None:
        return dataset.catalog
    intents = catalog.load(path)
    missing = set(dataset.intents) - {intent.label for intent in intents.intents}
    if missing:
        raise DataFault(f"{path}: the intent {min(missing)} of {dataset.name} is not in it")
    return intents


def _classifier(options: Options, dataset: DataSet, intents: Catalog, say: Say) -> tuple[Classifier, str]:
    """The classifier to measure, and what it is in words."""
    told = "names only" if options.catalog is None else options.catalog.name
    if not options.train and not options.shots:
        folder = find_encoder(options.model)
        return load(folder, options.hypothesis), told
    examples = list(dataset.train) if options.train else dataset.shots(options.shots or 0, options.seed)
    encoder = SentenceEncoder.load(find_encoder(options.model))
    learned = trainer.learn(encoder, intents, examples, _settings(options), say)
    amount = "all examples" if options.train else f"{options.shots} examples an intent"
    how = "encoder fine-tuned" if options.finetune_encoder else "linear head"
    return TrainedClassifier(encoder, learned.head), f"{told}, {amount}, {how}"


def _settings(options: Options) -> TrainingSettings:
    return TrainingSettings(
        output=Path(),
        finetune_encoder=options.finetune_encoder,
        most_refused=options.most_refused,
        seed=options.seed,
        encoder=options.model,
    )


def _classify(
    classifier: Classifier, texts: Sequence[str], intents: Catalog, say: Say
) -> tuple[list[Verdict], float]:
    """The verdicts, and the milliseconds a message took; preparing the catalogue is not counted."""
    classifier.prepare(intents)
    classifier.classify(texts[:1], intents)
    verdicts: list[Verdict] = []
    started = time.perf_counter()
    for start in range(0, len(texts), _BATCH):
        verdicts += classifier.classify(texts[start : start + _BATCH], intents)
        say("classifying", len(verdicts), len(texts))
    return verdicts, (time.perf_counter() - started) * 1000 / len(texts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m intent_service.evaluate",
        description="Measure how well the messages of a data folder are classified.",
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder with test.jsonl, and what goes with it")
    add("--model", default=Options.model, help="folder, or hub id (%(default)s)")
    add("--catalog", type=Path, help="YAML file that describes the intents (their names alone)")
    learn = parser.add_mutually_exclusive_group()
    learn.add_argument("--shots", type=_positive, help="learn from so many training messages of each intent")
    learn.add_argument("--train", action="store_true", help="learn from all training messages")
    add("--finetune-encoder", action="store_true", help="and train the encoder too, which takes minutes")
    add(
        "--most-refused",
        type=float,
        default=Options.most_refused,
        help="share of held-out messages in scope that may be unknown (%(default)s)",
    )
    add("--limit", type=_positive, help="measure on so many test messages only, drawn at random")
    add("--seed", type=int, default=0, help="of what is drawn at random (%(default)s)")
    add("--hypothesis", default=Options.hypothesis, help="of NLI models, {} being the label (%(default)s)")
    add("--json", action="store_true", help="print one JSON object")
    add("--charts", type=Path, help="folder for reliability.svg and confusion.svg")
    return parser


def _positive(given: str) -> int:
    if not given.isdecimal() or int(given) < 1:
        raise argparse.ArgumentTypeError("must be a whole number from 1 on")
    return int(given)


if __name__ == "__main__":
    sys.exit(main())
