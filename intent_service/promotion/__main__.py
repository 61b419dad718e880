"""The process of a training job: `python -m intent_service.promotion --job FOLDER`."""

import argparse
from pathlib import Path
from typing import Any

from intent_service.promotion.plan import Plan
from shared import job_process


def _make(folder: Path, say: job_process.Report) -> dict[str, Any]:
    # Imported here because it takes seconds, for torch comes with it.
    from intent_service.promotion import candidate

    return candidate.make(Plan.read(folder), folder, say)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m intent_service.promotion", description=__doc__)
    parser.add_argument("--job", type=Path, required=True, help="folder of a job of the service")
    folder = parser.parse_args().job
    job_process.main(lambda say: _make(folder, say))
