"""The process of a job that only does as it is told: `python -m tests.jobs --job FOLDER`.

It makes a version as a copy of a model, without learning anything, so that what surrounds a job can be tested
in a moment.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from shared import job_process
from shared.job_process import Fault, Report
from shared.registry import Registry


def write(folder: Path, name: str, **told: Any) -> None:
    """Tell a job what to do; `model` is a folder to copy."""
    (folder / "told.json").write_text(json.dumps({"name": name} | told), encoding="utf-8")


def _work(folder: Path, say: Report) -> dict[str, Any]:
    told = json.loads((folder / "told.json").read_text(encoding="utf-8"))
    print("a library says something")
    say("training", 0, 4)
    say("training", 1, 4)
    while told.get("waits"):
        time.sleep(0.02)
    if told.get("crashes"):
        print("out of luck", file=sys.stderr, flush=True)
        os._exit(3)
    if told.get("kills_itself"):
        os.kill(os.getpid(), 9)
    if fault := told.get("fault"):
        raise Fault(fault)
    if told.get("model"):
        with Registry(Path(told["registry"])).saving(
            told["name"], kind="test", parent="base", scores={}
        ) as made:
            shutil.copytree(told["model"], made, dirs_exist_ok=True)
    say("saving", 1, 1)
    promoted = bool(told.get("promoted"))
    facts = {"nice": os.nice(0), "threads": os.environ["OMP_NUM_THREADS"]}
    return {"version": told["name"], "promoted": promoted, "verdict": "As told.", "scores": facts}


if __name__ == "__main__":
    job = Path(sys.argv[sys.argv.index("--job") + 1])
    job_process.main(lambda say: _work(job, say))
