"""The command line: `python -m dialogue_service.training --help`."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dialogue_service.training.data import DataError
from dialogue_service.training.model import ModelError
from dialogue_service.training.settings import SettingsError, TrainingSettings
from dialogue_service.training.trainer import run


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the arguments say. Returns the exit status: 0, 2 for wrong input, 130 when interrupted."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for ours in ("dialogue_service", "shared"):
        logging.getLogger(ours).setLevel(logging.INFO)
    given: dict[str, Any] = vars(_parser().parse_args(arguments))
    for option in ("data", "valid_data"):
        given[option] = tuple(given.get(option, ()))
    settings = TrainingSettings(**given)
    try:
        card = run(settings)
    except (SettingsError, DataError, ModelError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; --resume continues from {settings.checkpoints}", file=sys.stderr)
        return 130
    before, after = card["scores"]["before"], card["scores"]["after"]
    print(
        f"{settings.output}: held-out loss {before['loss']} -> {after['loss']},"
        f" perplexity {before['perplexity']} -> {after['perplexity']}"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    # Options that are not given stay out of the namespace, so the defaults live in TrainingSettings alone.
    default = TrainingSettings
    parser = argparse.ArgumentParser(
        prog="python -m dialogue_service.training",
        description="Train a language model on dialogues and save it as a safetensors folder with a card.",
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--data", nargs="+", type=Path, required=True, help="JSON Lines or JSON files of dialogues")
    add("--output", type=Path, required=True, help="folder for the model")
    add("--model", help="fine-tune this folder or hub id")
    add("--from-scratch", type=Path, help="or make a new model of the sizes in this JSON file")
    add("--induction", action="store_true", help="give the new model heads that can copy from the start")
    add("--valid-data", nargs="+", type=Path, help="files to measure on")
    add("--valid-fraction", type=float, help=f"else: share of the data held out ({default.valid_fraction})")
    add(
        "--learn",
        choices=("replies", "all"),
        help='in {"turns"}, learn every second turn or all but the first',
    )
    add("--epochs", type=float, help=f"passes over the data ({default.epochs})")
    add("--max-steps", type=int, help="optimizer steps, instead of --epochs")
    add("--learning-rate", type=float, help=f"peak rate, falls linearly to 0 ({default.learning_rate})")
    add("--warmup", type=float, help=f"share of the steps in which the rate rises ({default.warmup})")
    add("--weight-decay", type=float, help=f"of AdamW ({default.weight_decay})")
    add("--tokens-per-batch", type=int, help=f"most tokens, padding included ({default.tokens_per_batch})")
    add("--max-length", type=int, help=f"longest dialogue in tokens, older turns go ({default.max_length})")
    add("--seed", type=int, help=f"of the split, the weights and the order ({default.seed})")
    add("--checkpoint-every", type=int, help=f"steps between checkpoints ({default.checkpoint_every})")
    add("--resume", action="store_true", help="continue the unfinished run in --output")
    add("--save-dtype", choices=("fp16", "fp32"), help=f"of the saved weights ({default.save_dtype})")
    add("--generation-config", type=Path, help="JSON file of generation settings to save with the model")
    add("--name", help="name on the card (that of the output folder)")
    add("--about", type=Path, help="JSON file for the card: description, limits, licence, sources")
    return parser


if __name__ == "__main__":
    sys.exit(main())
