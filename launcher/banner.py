"""What a person reads once everything is ready."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from shared.contracts import SlotStatus
from shared.settings import MAKE_KEY

_HELLO = '{"message": "Hi, how are you?"}'


@dataclass(frozen=True)
class Facts:
    """What the banner says."""

    dialogue_url: str
    intent_url: str
    dialogue: SlotStatus
    intent: SlotStatus
    memory: str
    needs_key: bool
    exposed: Sequence[str] = ()
    """The variables that make a service listen to other machines, where no key is needed."""


def show(facts: Facts, console: Console) -> None:
    """Print the banner, and after it a curl line of its own that can be pasted as it is."""
    rows = [
        ("Chat page", f"{facts.dialogue_url}/"),
        *_docs(facts),
        *_models("Replies", facts.dialogue),
        *_models("Intents", facts.intent),
        ("Memory", facts.memory),
        ("Stop", "Ctrl-C"),
    ]
    if console.is_terminal:
        grid = Table.grid(padding=(0, 2))
        for name, value in rows:
            grid.add_row(Text(name, style="bold"), Text(value, overflow="fold"))
        console.print(Panel(grid, title="Parley is ready", expand=False))
    else:
        lines = "\n".join(f"{name:<11}{value}" for name, value in rows)
        _print(console, f"Parley is ready\n{lines}")
    if facts.exposed:
        _print(console, _warning(facts.exposed), "bold red")
    where = ", in a shell that has API_KEY set" if facts.needs_key else ""
    _print(console, f"Try it{where}:\n{curl(facts)}")


def curl(facts: Facts) -> str:
    """A shell command that sends a first message. The key itself is not shown."""
    key = ' -H "Authorization: Bearer $API_KEY"' if facts.needs_key else ""
    address = shlex.quote(f"{facts.dialogue_url}/chat")
    return f"curl -s {address} -H 'Content-Type: application/json'{key} -d '{_HELLO}'"


def _docs(facts: Facts) -> Iterable[tuple[str, str]]:
    if facts.needs_key:  # which a browser does not send when it opens /docs
        yield "API docs", "openapi/dialogue.json, openapi/intent.json"
    else:
        yield "API docs", f"{facts.dialogue_url}/docs"
        yield "", f"{facts.intent_url}/docs"


def _models(name: str, slot: SlotStatus) -> Iterable[tuple[str, str]]:
    yield name, slot.serving or "no model"
    if loading := slot.loading:
        bytes_known = f", {loading.fetched_bytes // 10**6} of {loading.total_bytes // 10**6} MB"
        progress = bytes_known if loading.total_bytes else ""
        yield "", f"{loading.name} takes over when it is ready ({loading.stage}{progress})"
    if failed := slot.failed:
        yield "", f"{failed.name} is not available: {failed.reason}. {failed.advice}"


def _warning(exposed: Sequence[str]) -> str:
    why = ", ".join(exposed)
    return (
        f"WARNING: everyone who can reach this machine can talk, read and forget here ({why}).\n"
        f"Set a key that every call then needs: API_KEY=$({MAKE_KEY})"
    )


def _print(console: Console, text: str, style: str | None = None) -> None:
    """As it is: no wrapping, no colours of its own, so that it can be copied."""
    console.print(text, style=style, soft_wrap=True, markup=False, highlight=False)
