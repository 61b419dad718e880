"""Copy a model's folder into a registry: `python -m shared.add_version my-model .data/models/dialogue`."""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared.registry import Registry, VersionFault


def main(arguments: Sequence[str] | None = None) -> int:
    """Add what the arguments name. Returns the exit status: 0, or 2 for wrong input."""
    parser = argparse.ArgumentParser(prog="python -m shared.add_version", description=__doc__)
    parser.add_argument("model", type=Path, help="folder with safetensors weights")
    parser.add_argument("registry", type=Path, help="what INTENT_REGISTRY or DIALOGUE_REGISTRY names")
    parser.add_argument("--name", help="of the version (that of the model's folder)")
    parser.add_argument("--parent", help="the version or model it was made from")
    options = parser.parse_args(arguments)
    model: Path = options.model
    name: str = options.name or model.resolve().name
    if not any(model.glob("*.safetensors")):
        print(
            f"{model} holds no .safetensors weights: save the model with save_pretrained()", file=sys.stderr
        )
        return 2
    try:
        scores = _scores(model)
        with Registry(options.registry).saving(
            name, kind="model", parent=options.parent, scores=scores
        ) as folder:
            shutil.copytree(model, folder, dirs_exist_ok=True)
    except VersionFault as fault:
        print(fault, file=sys.stderr)
        return 2
    print(f"{name} is a version in {options.registry}; POST /models/{name}/activate puts it into service")
    return 0


def _scores(model: Path) -> dict[str, Any]:
    """What the training wrote on the model's card, if it has one."""
    card = model / "card.json"
    content = json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {}
    scores: dict[str, Any] = content.get("scores", {})
    return scores


if __name__ == "__main__":
    sys.exit(main())
