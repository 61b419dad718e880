"""The table of everything that was measured."""

from collections.abc import Mapping

import torch

from benchmarks.generation.peers import CTRANSLATE2, LINEAR, LLAMA, NAIVE
from benchmarks.sections import Section, machine, table
from shared import native

PARLEY = "Parley"
COLUMNS = (NAIVE, LINEAR, PARLEY, CTRANSLATE2, LLAMA)


def text(shape: str, sections: Mapping[str, Section], missing: Mapping[str, str]) -> str:
    """The whole document."""
    own = (
        "8-bit products, GPT-2 and the draws in native code"
        if native.available()
        else "8-bit products are torch's"
    )
    parts = [_HEAD.format(machine=f"{machine()}, torch {torch.__version__}", shape=shape, products=own)]
    parts += [f"{column}: {why}." for column, why in missing.items()]
    parts.append(_checks(sections))
    for section in sections.values():
        parts += [f"## {section.title}", section.note]
        if section.rows:
            parts.append(table(("", *COLUMNS), [(w, *_cells(cells)) for w, cells in section.rows]))
        if section.facts:
            parts.append(table(("", ""), list(section.facts.items())))
        parts.append(f"Measured {section.measured_at}; load average when it ended: {section.load:.1f}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _checks(sections: Mapping[str, Section]) -> str:
    rows = [
        (check.target, f"{check.measured:.2f} {check.unit}", "met" if check.met else "**missed**")
        for section in sections.values()
        for check in section.checks
    ]
    gpu = (
        "a GPU is here, but this table is the processor's"
        if torch.cuda.is_available()
        else "no GPU was at hand"
    )
    rows.append(
        ("On a GPU, half precision: decode at least 60 % of its bandwidth floor", gpu, "not measured")
    )
    return table(("target", "measured", ""), rows)


def _cells(cells: Mapping[str, str]) -> list[str]:
    return [cells.get(column, "-") for column in COLUMNS]


_HEAD = """# The speed of replies

Written by `make bench-generation`: {machine}.
Shape: {shape}, random weights, built on the spot. Times are medians in seconds (least-most in brackets).

- naive: transformers' `generate`, float32, the checkpoint as loaded (Conv1D), the whole history each time.
- naive, Linear: the same with GPT-2's Conv1D modules rewritten as Linear.
- Parley: `LocalGenerator`, by its public protocol, text in and text out, sampling as the service does;
  {products}.
- CTranslate2 int8, llama.cpp Q8_0: converted from the same checkpoint, greedy.

Each of them in a process of its own.

Every column makes exactly as many tokens as asked for. No setting forces that: the weights make the end of
a turn impossible to say (its logit is at most minus the square root of the width); results are counted.
Nor can anything be said but capitalised words: their text, read again in the next turn, is the same tokens,
as it is where a model has learned to write. Else each warm turn would read its last reply anew."""
