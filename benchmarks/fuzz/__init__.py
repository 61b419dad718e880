"""Requests that schemathesis makes up from the OpenAPI documents, against the services as they run."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fuzz.hooks import STATUSES
from shared.settings import REPOSITORY

_CONFIG = Path(__file__).with_name("schemathesis.toml")


@dataclass(frozen=True)
class Outcome:
    """What came of one service's run."""

    cases: int
    operations: int
    failures: int
    seconds: float
    answers: Counter[str]
    said: str

    def status(self, first: str) -> int:
        """How many answers had a status that begins like this."""
        return sum(count for what, count in self.answers.items() if what.rpartition(" ")[2].startswith(first))


def fuzz(url: str, folder: Path, *, examples: int, seed: int = 1, show: bool = False) -> Outcome:
    """Try the service at `url`: `examples` requests of each operation at most, and as many stories.

    Checked is all that schemathesis can check: no 500; status, content type and schema as documented; what
    the document allows is taken, what it forbids refused; 405 and Allow for other methods. Its files stay
    in `folder`; with `show` it tells how it goes.
    """
    report, statuses = folder / "report.json", folder / "statuses.json"
    command = [
        *(
            sys.executable,
            "-m",
            "schemathesis.cli",
            "--config-file",
            str(_CONFIG),
            "run",
            f"{url}/openapi.json",
        ),
        *("--max-examples", str(examples), "--seed", str(seed), "--workers", "1"),
        *("--report", "json", "--report-json-path", str(report)),
    ]
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=os.environ | {STATUSES: str(statuses)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = []
    with process, process.stdout or sys.stdin as lines:
        for line in lines:
            said.append(line)
            if show:
                print(line, end="", flush=True)
    content = json.loads(report.read_text()) if report.exists() else {}
    if not content.get("complete") or content["errors"]:
        raise RuntimeError("".join(said))
    return Outcome(
        cases=content["test_cases"]["generated"],
        operations=content["operations"]["tested"],
        failures=content["test_cases"]["unique_failures"]
        + len(content["errors"])
        + (process.returncode not in (0, 1)),
        seconds=content["running_time"],
        answers=Counter(json.loads(statuses.read_text())),
        said="".join(said),
    )
