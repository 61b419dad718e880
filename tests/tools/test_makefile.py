import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


@pytest.fixture
def clone(tmp_path):
    """The files that the Makefile reads, and an environment that says that everything is installed."""
    native = ("shared/native.c", "shared/kernels/product.h")
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "tools/torch_cpu.py", *native):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, tmp_path / name)
    return tmp_path


def _make(folder, *arguments):
    bare = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=bare, capture_output=True, text=True, timeout=60, check=False
    )


def _install(folder):
    (folder / ".venv").mkdir()
    for stamp in ("installed", "installed-dev"):
        (folder / ".venv" / stamp).touch()


def test_every_target_is_explained(clone):
    said = _make(clone).stdout

    for target in ("install", "run", "test", "lint", "clean"):
        assert f"make {target}\t" in said


@pytest.mark.parametrize(("target", "program"), [("run", "launcher"), ("test", "pytest")])
def test_what_is_installed_starts_at_once(clone, target, program):
    _install(clone)

    commands = _make(clone, "--dry-run", target).stdout.splitlines()

    assert len(commands) == 1
    assert f"-m {program}" in commands[0]


@pytest.mark.parametrize(
    "changed", ["pyproject.toml", "constraints.txt", "shared/native.c", "shared/kernels/product.h"]
)
@pytest.mark.parametrize("target", ["run", "test"])
def test_changed_requirements_are_installed(clone, target, changed):
    _install(clone)
    later = time.time() + 10
    os.utime(clone / changed, (later, later))

    assert "pip install" in _make(clone, "--dry-run", target).stdout


def test_an_old_python_is_named(clone):
    old = clone / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 && exit 0\nexit 1\n')
    old.chmod(0o755)

    result = _make(clone, "install", f"PYTHON={old}")

    assert result.returncode == 2
    assert result.stdout == (
        "Parley needs Python 3.11 to 3.13; this is Python 3.9.2. Name another one: make PYTHON=python3.12\n"
    )
    assert not (clone / ".venv").exists()


def test_a_missing_python_is_named(clone):
    assert "There is no /no/such/python" in _make(clone, "install", "PYTHON=/no/such/python").stdout


def test_clean_leaves_the_memory(clone):
    _install(clone)
    (clone / ".data").mkdir()

    assert _make(clone, "clean").returncode == 0
    assert not (clone / ".venv").exists()
    assert (clone / ".data").exists()
