"""Installs the torch that constraints.txt pins, without the CUDA libraries, for the Python that runs this.

On Linux the usual index serves a build that brings gigabytes of them. So there the `+cpu` build is asked for
by name: from what pip is configured to use, else from PyTorch's own index (or TORCH_INDEX_URL). Elsewhere the
usual build has no CUDA in it, and nothing is done.
"""

import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"


def main() -> int:
    """Always 0: if no CPU build can be had, the usual build will do, and a line says so."""
    pinned = _pinned(_CONSTRAINTS.read_text())
    if sys.platform != "linux" or _installed() == pinned:
        return 0
    if _pip("--quiet", f"torch=={pinned}+cpu", stderr=subprocess.DEVNULL):
        return 0
    index = os.environ.get("TORCH_INDEX_URL", CPU_INDEX)
    print(f"Fetching torch {pinned} (about 200 MB) from {index}", flush=True)
    if not _pip("--index-url", index, f"torch=={pinned}"):
        print(
            f"No CPU build of torch could be had from {index}: taking the usual one, some gigabytes larger. "
            "TORCH_INDEX_URL can name another index.",
            flush=True,
        )
    return 0


def _pinned(constraints: str) -> str:
    found = re.search(r"^torch==(\S+)$", constraints, re.MULTILINE)
    if not found:
        raise SystemExit("constraints.txt pins no torch: add a line such as torch==2.13.0")
    return found[1]


def _installed() -> str | None:
    try:
        return version("torch").partition("+")[0]
    except PackageNotFoundError:
        return None


def _pip(*arguments: str, stderr: int | None = None) -> bool:
    # The rest of the requirements is installed later, under the constraints.
    command = [sys.executable, "-m", "pip", "install", "--no-deps", *arguments]
    return subprocess.run(command, stderr=stderr, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
