"""What the README says is what happens."""

import os
import re
import subprocess

import pytest

from shared.settings import REPOSITORY
from tests.parley import Parley
from tools import readme

TEXT = readme.README.read_text("utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
MAKE_TARGETS = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)


def test_there_are_commands_to_try() -> None:
    assert len(BLOCKS) >= 5


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.strip().splitlines()[0][:40])
def test_every_bash_block_works_as_it_stands(parley: Parley, block: str) -> None:
    here = block.replace("http://127.0.0.1:8000", parley.urls["dialogue"])
    here = here.replace("http://127.0.0.1:8001", parley.urls["intent"])
    here = here.replace("ws://127.0.0.1:8000", parley.urls["dialogue"].replace("http", "ws"))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", here], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "urn:parley:problem" not in done.stdout


def test_every_endpoint_has_a_curl_line() -> None:
    commands = " ".join(re.findall(r"```(?:ba)?sh\n(.*?)```", TEXT, re.DOTALL))
    paths = {re.sub(r"\{.*", "", path) for path in re.findall(r"^\| `[A-Z]+ (/[^`]*)`", TEXT, re.MULTILINE)}
    assert paths
    missing = [path for path in paths if not re.search(rf"800[01]{re.escape(path)}", commands)]
    assert missing == []


def test_the_make_targets_it_names_exist() -> None:
    named = set(re.findall(r"\bmake ([a-z-]+)", re.sub(r"apt install make \S+", "", TEXT)))
    assert named <= set(MAKE_TARGETS)
    assert {"run", "test"} <= named


def test_the_files_it_names_exist() -> None:
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_.]*|[a-z_]+\.(?:json|yml|toml))`", TEXT)
    assert named
    missing = [name for name in named if not (REPOSITORY / name).exists() and name != "my-model"]
    assert missing == []


def test_its_tables_are_current() -> None:
    assert readme.main(["--check"]) == 0, "run python -m tools.readme"


def test_it_names_nothing_of_this_machine() -> None:
    assert os.fspath(REPOSITORY) not in TEXT
