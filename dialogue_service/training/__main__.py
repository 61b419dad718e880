"""The command line: `python -m dialogue_service.training --help`."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import transformers
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dialogue_service.evaluation.judge import Judge
from dialogue_service.settings import DialogueSettings
from dialogue_service.training import model, votes
from dialogue_service.training.data import DataError
from dialogue_service.training.model import ModelError
from dialogue_service.training.settings import DEFAULT_RATE, LORA_RATE, SettingsError, TrainingSettings
from dialogue_service.training.trainer import run
from shared.registry import Registry, VersionFault, make_private
from shared.settings import SettingsFault, load

_VOTES = "votes.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the arguments say. Returns the exit status: 0, 2 for wrong input, 130 when interrupted."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for ours in ("dialogue_service", "shared"):
        logging.getLogger(ours).setLevel(logging.INFO)
    # It misses an output matrix in checkpoints, which is the embedding and therefore not saved twice.
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    given: dict[str, Any] = vars(_parser().parse_args(arguments))
    try:
        service = load(DialogueSettings)
        settings = _settings(given, service)
        card = _run(settings, service)
    except (SettingsError, SettingsFault, DataError, ModelError, VersionFault) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command with --resume continues", file=sys.stderr)
        return 130
    before, after = card["scores"]["before"], card["scores"]["after"]
    told = {name: f"{name} {before[name]} -> {after[name]}" for name in after if name != "tokens"}
    print(f"{settings.model_name}: held-out {', '.join(told.values())}")
    if "promotion" in card:
        print(card["promotion"]["verdict"])
    print(_how_to_serve(settings, service))
    return 0


def _settings(given: dict[str, Any], service: DialogueSettings) -> TrainingSettings:
    """The options, and for what is not given the Parley of this machine: its votes, model and registry."""
    feedback = given.pop("feedback", None if "data" in given else _own_feedback(service))
    for option in ("data", "valid_data"):
        given[option] = tuple(given.get(option, ()))
    if not given.keys() & {"model", "from_scratch"}:
        given["model"], given["revision"] = model.in_service(service)
    if "output" not in given:
        given["registry"] = service.registry
        given.setdefault("name", f"{datetime.now(UTC):%Y%m%d-%H%M%S}")
        Registry(service.registry).check_new(given["name"])
    settings = TrainingSettings(**given)
    if feedback is None:
        return settings
    kept = settings.checkpoints / _VOTES
    if not settings.note.exists():  # an unfinished run goes on with the votes it began with
        found = votes.fetch(feedback, service.api_key)
        make_private(settings.checkpoints)
        kept.write_bytes(found)
    return replace(settings, data=(*settings.data, kept))


def _own_feedback(service: DialogueSettings) -> str:
    """Where the votes of this machine's Parley are to be had."""
    if os.environ.get("REDIS_URL"):
        return service.redis_url
    host = "127.0.0.1" if service.host in ("0.0.0.0", "::") else service.host  # noqa: S104
    return f"http://{host}:{service.port}"


def _run(settings: TrainingSettings, service: DialogueSettings) -> dict[str, Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        tasks = {"training": bar.add_task("training", total=None)}

        def say(stage: str, step: int, steps: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage)
            bar.update(tasks[stage], completed=step, total=steps)

        return run(settings, partial(say, "training"), _judge(settings, service, say))


def _judge(
    settings: TrainingSettings, service: DialogueSettings, say: Callable[[str, int, int], None]
) -> Judge | None:
    """For a version that was made from another model, which it is compared with."""
    if settings.model is None or settings.registry is None:
        return None
    base = model.folder_of(settings.model, settings.revision)
    against = base.name if Path(settings.model).is_dir() else settings.model
    return Judge(settings.model_name, settings.method, base, against, service.generation(), say)


def _how_to_serve(settings: TrainingSettings, service: DialogueSettings) -> str:
    if settings.output:
        return f"Serve it with DIALOGUE_MODEL={settings.output}"
    key = ' -H "Authorization: Bearer $API_KEY"' if service.api_key else ""
    url = f"http://127.0.0.1:{service.port}/models/{settings.model_name}/activate"
    return f"It is a version in {service.registry}. Put it into service with\ncurl -s -X POST {url}{key}"


def _rates() -> str:
    return ", ".join(f"{method} {rate}" for method, rate in DEFAULT_RATE.items())


def _parser() -> argparse.ArgumentParser:
    # Options that are not given stay out of the namespace, so the defaults live in TrainingSettings alone.
    default = TrainingSettings
    parser = argparse.ArgumentParser(
        prog="python -m dialogue_service.training",
        description="Train a language model on dialogues and on votes; save a model version, or a folder."
        " Without options: the model in service, on the votes it got.",
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--data", nargs="+", type=Path, help="JSON Lines or JSON files of dialogues, or of exported feedback")
    add(
        "--feedback",
        metavar="URL",
        help="votes of a running Parley: the address of the dialogue service or of its Redis (without --data:"
        " REDIS_URL, or this machine's service)",
    )
    add("--output", type=Path, help="folder for the model, instead of a version in DIALOGUE_REGISTRY")
    add("--model", help="fine-tune this folder or hub id (the model in service)")
    add("--revision", help="branch, tag or commit of --model on the hub")
    add("--from-scratch", type=Path, help="or make a new GPT-2 of the sizes in this JSON file")
    add("--method", choices=("sft", "kto"), help=f"say replies, or learn from thumbs ({default.method})")
    add(
        "--lora", type=int, help=f"rank of the matrices learned instead of the weights ({default.lora}: none)"
    )
    add("--valid-data", nargs="+", type=Path, help="files to measure on")
    add(
        "--valid-fraction",
        type=float,
        help=f"else: share of the data held out, of feedback always a fifth ({default.valid_fraction})",
    )
    add(
        "--learn",
        choices=("replies", "all"),
        help='in {"turns"}, learn every second turn or all but the first',
    )
    add("--epochs", type=float, help=f"passes over the data ({default.epochs})")
    add("--max-steps", type=int, help="optimizer steps, instead of --epochs")
    add(
        "--learning-rate",
        type=float,
        help=f"peak rate, falls linearly to 0 (for a model as wide as the starter {_rates()}, for wider ones"
        f" less, with --lora {LORA_RATE} times as much)",
    )
    add("--beta", type=float, help=f"how firmly kto holds the model to what it was ({default.beta})")
    add("--warmup", type=float, help=f"share of the steps in which the rate rises ({default.warmup})")
    add("--weight-decay", type=float, help=f"of AdamW ({default.weight_decay})")
    add("--tokens-per-batch", type=int, help=f"most tokens, padding included ({default.tokens_per_batch})")
    add("--max-length", type=int, help=f"longest dialogue in tokens, older turns go ({default.max_length})")
    add("--seed", type=int, help=f"of the split, the weights and the order ({default.seed})")
    add(
        "--checkpoint-every",
        type=int,
        help=f"steps between checkpoints, a pass at most ({default.checkpoint_every})",
    )
    add("--patience", type=int, help=f"checkpoints without a better one before it stops ({default.patience})")
    add("--resume", action="store_true", help="continue the run that was interrupted")
    add("--save-dtype", choices=("fp16", "fp32"), help=f"of the saved weights ({default.save_dtype})")
    add("--generation-config", type=Path, help="JSON file of generation settings to save with the model")
    add("--name", help="of the version (date and time), or on the card (that of the output folder)")
    add("--about", type=Path, help="JSON file for the card: description, limits, licence, sources")
    return parser


if __name__ == "__main__":
    sys.exit(main())
