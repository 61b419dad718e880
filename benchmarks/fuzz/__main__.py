"""`make fuzz`: many thousand requests that nobody wrote by hand; writes benchmarks/fuzz.md.

Both services run as `make run` starts them. The model is a server that answers at once, so that the requests
are what is tried and not the patience of who tries them.
"""

import argparse
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.fuzz import Outcome, fuzz
from benchmarks.generation.stack import instant_model, running

_TABLE = Path(__file__).resolve().parents[1] / "fuzz.md"


def main() -> int:
    """Returns the exit status: 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=1500, help="requests of each operation at most")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    outcomes: dict[str, Outcome] = {}
    with (
        tempfile.TemporaryDirectory(prefix="parley-fuzz-") as folder,
        instant_model() as model,
        running(DIALOGUE_GENERATOR_URL=model, DIALOGUE_MODEL="instant") as stack,
    ):
        stack.serves("instant")
        for service, port in (("dialogue", stack.port), ("intent", stack.intent_port)):
            outcomes[service] = fuzz(
                f"http://127.0.0.1:{port}",
                Path(folder),
                examples=options.examples,
                seed=options.seed,
                show=True,
            )
    _TABLE.write_text(_text(outcomes, options.seed, options.examples), "utf-8")
    print(f"wrote {_TABLE}")
    return int(any(outcome.failures for outcome in outcomes.values()))


def _text(outcomes: dict[str, Outcome], seed: int, examples: int) -> str:
    columns = ("service", "operations", "requests", "2xx", "4xx", "5xx", "faults found", "seconds")
    rows = [
        (
            name,
            outcome.operations,
            outcome.cases,
            *(outcome.status(first) for first in "245"),
            outcome.failures,
            round(outcome.seconds),
        )
        for name, outcome in outcomes.items()
    ]
    total = sum(outcome.cases for outcome in outcomes.values())
    lines = [columns, ("---",) * len(columns), *rows]
    table = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
    return _DOCUMENT.format(
        table=table,
        total=total,
        seed=seed,
        examples=examples,
        schemathesis=version("schemathesis"),
        when=time.strftime("%Y-%m-%d"),
        python=platform.python_version(),
    )


_DOCUMENT = """# Requests that nobody wrote by hand

Written by `make fuzz`: schemathesis {schemathesis} makes requests up from the OpenAPI documents, valid
ones and ones with a fault of every kind, alone and in stories along the documents' links (say something,
vote on the reply, read it, take it back, forget), and checks each answer: no 500; status, content type and
schema as documented; what the document allows is taken, what it forbids is refused; other methods get 405
with a true `Allow`.

Both services ran as `make run` starts them, with the bundled intent model, a real Valkey, and a model server
that answers at once. {total} requests, {when}, Python {python}, seed {seed}, at most {examples} for each
operation and way.

{table}

A 2xx is an answer that does what was asked for, a 4xx a refusal that the document foresees.
"""


if __name__ == "__main__":
    sys.exit(main())
