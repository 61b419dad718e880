"""Writes the OpenAPI documents of both services to openapi/; with --check only says whether they are current.

Made from the apps with their default settings, so the environment has no say in them.
"""

import argparse
import json
import sys
from pathlib import Path

from fastapi import FastAPI

import dialogue_service.app
import intent_service.app
from dialogue_service.settings import DialogueSettings
from intent_service.settings import IntentSettings

FOLDER = Path(__file__).resolve().parents[1] / "openapi"


def documents() -> dict[Path, str]:
    """File to content, for each service."""
    # model_construct takes the defaults as they are; calling the class would read the environment.
    apps: dict[str, FastAPI] = {
        "dialogue": dialogue_service.app.create_app(DialogueSettings.model_construct()),
        "intent": intent_service.app.create_app(IntentSettings.model_construct()),
    }
    return {FOLDER / f"{name}.json": _text(app) for name, app in apps.items()}


def _text(app: FastAPI) -> str:
    return json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write or check; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.openapi", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is out of date")
    check = parser.parse_args(arguments).check
    made = documents()
    stale = [file for file, text in made.items() if not file.exists() or file.read_text("utf-8") != text]
    for file in stale:
        if check:
            print(f"{file.name} is out of date: run python -m tools.openapi", file=sys.stderr)
        else:
            file.parent.mkdir(exist_ok=True)
            file.write_text(made[file], "utf-8")
            print(f"wrote {file}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
