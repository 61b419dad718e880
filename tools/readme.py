"""Fills the generated tables of README.md; with --check only says whether they are current.

A table stands between `<!-- begin NAME -->` and `<!-- end -->`.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from dialogue_service.settings import DialogueSettings
from intent_service.settings import IntentSettings
from launcher.settings import LauncherSettings
from shared.settings import REPOSITORY, Settings
from tools.openapi import FOLDER

README = REPOSITORY / "README.md"
_METHODS = ("get", "post", "put", "patch", "delete")


def settings_table() -> str:
    """Every environment variable: its default and what it is."""
    rows: dict[str, tuple[str, str]] = {}
    for kind in (LauncherSettings, DialogueSettings, IntentSettings):
        for field, info in kind.model_fields.items():
            rows.setdefault(kind.variable(field), (_default(kind, field), str(info.description)))
    lines = [
        f"| `{name}` | {default} | {text[0].upper()}{text[1:]} |" for name, (default, text) in rows.items()
    ]
    return "\n".join(["| variable | default | what it is |", "|---|---|---|", *lines])


def _default(kind: type[Settings], field: str) -> str:
    value = kind.model_fields[field].default
    if value is None:
        return ""
    path = Path(str(value))
    shown = path.relative_to(REPOSITORY) if path.is_absolute() and path.is_relative_to(REPOSITORY) else value
    return f"`{shown}`"


def endpoints_table(service: str) -> str:
    """Every route of a service, as its OpenAPI document has it."""
    paths: dict[str, dict[str, Any]] = json.loads((FOLDER / f"{service}.json").read_text("utf-8"))["paths"]
    lines = [
        f"| `{method.upper()} {path}` | {operation['summary']} |"
        for path, operations in paths.items()
        for method, operation in operations.items()
        if method in _METHODS
    ]
    return "\n".join(["| call | answers |", "|---|---|", *lines])


def filled(text: str) -> str:
    """The README with its tables as they should be."""
    tables = {
        "settings": settings_table(),
        "dialogue endpoints": endpoints_table("dialogue"),
        "intent endpoints": endpoints_table("intent"),
    }
    for name, table in tables.items():
        block = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = block.subn(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"README.md needs one block named {name}; it has {count}")
    return text


def main(arguments: list[str] | None = None) -> int:
    """Write or check; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.readme", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if a table is out of date"
    )
    check = parser.parse_args(arguments).check
    text = README.read_text("utf-8")
    if (current := filled(text)) == text:
        return 0
    if check:
        print("README.md is out of date: run python -m tools.readme", file=sys.stderr)
        return 1
    README.write_text(current, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
