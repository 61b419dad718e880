"""The card of a trained head: `card.json` for programs, and a `README.md` made from it."""

import hashlib
import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from intent_service.examples import Example
from intent_service.training.settings import TrainingSettings
from intent_service.training.trainer import FOLDS, Learned
from shared import gate

_MEASURES = {
    "accuracy": "best label right, in scope",
    "macro_f1": "mean over the intents",
    "overall_accuracy": "answered right, unknown counted",
    "oos_recall": "out of scope, answered unknown",
    "in_scope_refused": "in scope, answered unknown",
    "ece": "expected calibration error",
}


def content(
    settings: TrainingSettings, learned: Learned, files: Sequence[Path], examples: Sequence[Example]
) -> dict[str, Any]:
    """Gather the card as JSON values; files are named without their folders."""
    tuned = settings.finetune_encoder
    return {
        "name": settings.model_name,
        "encoder": settings.recorded()["encoder"],
        "encoder_fine_tuned": tuned,
        "intents": list(learned.head.labels),
        "examples": len(examples),
        "out_of_scope_examples": sum(not example.in_scope for example in examples),
        "data": [
            {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()} for file in files
        ],
        "scores": {
            "measured_by": "a held-out fifth that the encoder was tuned without"
            if tuned
            else f"{FOLDS}-fold cross-validation",
            **learned.scores,
        },
        "pull": learned.pull,
        "calibration": learned.head.calibration.recorded(),
        "settings": settings.recorded(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers")},
        },
        "date": datetime.now(UTC).date().isoformat(),
    }


def write(folder: Path, card: dict[str, Any]) -> None:
    """Write `README.md`, then `card.json`: a folder that has a `card.json` is complete."""
    (folder / "README.md").write_text(readme(card), encoding="utf-8")
    (folder / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def readme(card: dict[str, Any]) -> str:
    """Render a card as Markdown."""
    scores = card["scores"]
    base = f"fine-tuned from `{card['encoder']}`" if card["encoder_fine_tuned"] else f"`{card['encoder']}`"
    lines = [
        f"# {card['name']}",
        "",
        f"A linear head for {len(card['intents'])} intents on the sentence encoder {base}, trained with"
        f" `python -m intent_service.training` on {card['date']} from {card['examples']} examples,"
        f" {card['out_of_scope_examples']} of them out of scope.",
        "",
        "To serve it, activate it if it is a version in the registry, or name this folder in `INTENT_MODEL`;"
        " `INTENT_CATALOG` names the catalogue that it was trained for.",
        "",
        "## Scores",
        "",
        f"By {scores['measured_by']}, on {scores['held_out_messages']} messages. What is unknown and what the"
        " scores mean was fitted on the same messages.",
        "",
        "| measure | value | of what |",
        "|---|---|---|",
        *(
            f"| {name} | {'-' if scores[name] is None else scores[name]} | {said} |"
            for name, said in _MEASURES.items()
        ),
        "",
        *(gate.markdown(card["promotion"]) if "promotion" in card else []),
        "## Data",
        "",
        *(f"- `{file['file']}`, SHA-256 `{file['sha256']}`" for file in card["data"]),
        "",
        "## Training",
        "",
        f"- pull to the names: {card['pull']:g}",
        *(f"- calibration, {key}: {value}" for key, value in card["calibration"].items()),
        *(f"- {key}: {value}" for key, value in card["settings"].items() if value not in (None, [])),
        *(f"- {key} {value}" for key, value in card["versions"].items()),
        "",
    ]
    return "\n".join(lines)
