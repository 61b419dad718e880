"""The card of a trained model: `card.json` for programs, and a `README.md` made from it."""

import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from dialogue_service.training.data import DataFile
from dialogue_service.training.settings import SettingsError, TrainingSettings
from shared import gate

ABOUT_KEYS = frozenset({"description", "limits", "licence", "sources", "replies"})
SOURCE_KEYS = frozenset({"name", "licence", "attribution"})
REPLY_KEYS = frozenset({"message", "reply", "sensible"})
SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "hidden_size", "num_hidden_layers")


def read_about(path: Path | None) -> dict[str, Any]:
    """Read what only a person knows.

    That is `description`, `limits`, `licence` (texts), `sources` of the data, and `replies` that were read.
    A source is `{"name", "licence", "attribution"}`, a reply `{"message", "reply", "sensible"}`; other keys
    are kept. Raises `SettingsError` for other shapes.
    """
    if path is None:
        return {}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SettingsError(f"{path}: not JSON ({error})") from error
    if not isinstance(about, dict) or not about.keys() <= ABOUT_KEYS:
        raise SettingsError(f"{path}: must be an object with only the keys {', '.join(sorted(ABOUT_KEYS))}")
    for source in about.get("sources", []):
        if not isinstance(source, dict) or not source.keys() >= SOURCE_KEYS:
            raise SettingsError(f"{path}: every source needs {', '.join(sorted(SOURCE_KEYS))}")
    for reply in about.get("replies", []):
        if not isinstance(reply, dict) or not reply.keys() >= REPLY_KEYS:
            raise SettingsError(f"{path}: every reply needs {', '.join(sorted(REPLY_KEYS))}")
    return about


def content(
    *,
    settings: TrainingSettings,
    model: PreTrainedModel,
    files: Sequence[DataFile],
    scores: dict[str, dict[str, float]],
    training: dict[str, Any],
    about: dict[str, Any],
) -> dict[str, Any]:
    """Gather the card as JSON values; files are named without their folders."""
    return {
        "name": settings.model_name,
        "base_model": settings.recorded()["model"],
        "architecture": type(model).__name__,
        "parameters": model.num_parameters(),
        "sizes": {key: value for key, value in model.config.to_dict().items() if key in SIZES},
        "weights": settings.save_dtype,
        "format": "each turn followed by the end-of-text token, turns joined without separators (DialoGPT)",
        "data": [
            {
                "file": file.path.name,
                "sha256": file.sha256,
                "dialogues": len(file.dialogues),
                "left_out_unrated": file.unrated,
            }
            for file in files
        ],
        "scores": scores,
        "training": training,
        "settings": settings.recorded(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in _libraries(settings)},
        },
        "date": datetime.now(UTC).date().isoformat(),
        **about,
    }


def _libraries(settings: TrainingSettings) -> list[str]:
    more = {"trl": settings.method == "kto", "peft": settings.lora > 0}
    return ["torch", "transformers", "tokenizers", *(name for name, used in more.items() if used)]


def write(folder: Path, card: dict[str, Any]) -> None:
    """Write `README.md`, then `card.json`: a folder that has a `card.json` is complete."""
    (folder / "README.md").write_text(readme(card), encoding="utf-8")
    (folder / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def readme(card: dict[str, Any]) -> str:
    """Render a card as Markdown."""
    before, after = card["scores"]["before"], card["scores"]["after"]
    training = card["training"]
    origin = f"fine-tuned from `{card['base_model']}`" if card["base_model"] else "trained from scratch"
    lines = [
        f"# {card['name']}",
        "",
        *([card["description"], ""] if "description" in card else []),
        f"{card['architecture']}, {card['parameters'] / 1e6:.1f} million parameters, {card['weights']},"
        f" {origin} with `python -m dialogue_service.training` on {card['date']}.",
        f"Format: {card['format']}.",
        "",
        *(["## Limits", "", card["limits"], ""] if "limits" in card else []),
        *(["## Licence", "", card["licence"], ""] if "licence" in card else []),
        "## Scores on held-out dialogues",
        "",
        "| | loss (nats per token) | perplexity |",
        "|---|---|---|",
        f"| before | {before['loss']} | {before['perplexity']} |",
        f"| after | {after['loss']} | {after['perplexity']} |",
        "",
        f"Measured on {after['tokens']} learned tokens of {training['held_out_dialogues']} dialogues.",
        *(_agreement(before, after) if "agreement" in after else []),
        "",
        *(gate.markdown(card["promotion"]) if "promotion" in card else []),
        "## Data",
        "",
        *(
            f"- `{file['file']}`: {file['dialogues']} dialogues, SHA-256 `{file['sha256']}`"
            for file in card["data"]
        ),
        *(
            f"- {source['name']}: {source['licence']}. {source['attribution']}"
            for source in card.get("sources", [])
        ),
        "",
        "## Training",
        "",
        f"{training['steps']} steps on {training['learned_from']}, seed {card['settings']['seed']};"
        f" the best model was that of step {training['best_step']}, the peak learning rate"
        f" {training['learning_rate']:.2g}.",
        "",
        *(f"- {key}: {value}" for key, value in card["settings"].items() if value not in (None, [])),
        *(f"- {key} {value}" for key, value in card["versions"].items()),
        "",
        *(_replies(card["replies"]) if "replies" in card else []),
    ]
    return "\n".join(lines)


def _replies(replies: Sequence[dict[str, Any]]) -> list[str]:
    sensible = sum(reply["sensible"] for reply in replies)
    return [
        "## Replies that were read",
        "",
        f"To messages that each begin a conversation; {sensible} of {len(replies)} were judged sensible.",
        "",
        "| message | reply | |",
        "|---|---|---|",
        *(
            f"| {_cell(reply['message'])} | {_cell(reply['reply'])} | {'' if reply['sensible'] else 'no'} |"
            for reply in replies
        ),
        "",
    ]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _agreement(before: dict[str, float], after: dict[str, float]) -> list[str]:
    return [
        "",
        "A held-out reply with thumbs up ranks above one with thumbs down in"
        f" {after['agreement']:.1%} of the pairs, before the training in {before['agreement']:.1%}"
        " (50 % is chance).",
    ]
