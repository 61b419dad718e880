"""Real pip in a real environment, with tiny packages called torch in folders that stand for the indexes."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PINNED = next(
    line.removeprefix("torch==")
    for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
    if line.startswith("torch==")
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is nothing to do elsewhere")


@pytest.fixture
def python(tmp_path):
    """An environment with nothing but pip in it (borrowed, because installing it takes seconds)."""
    pip = pytest.importorskip("pip")
    venv.create(tmp_path / "environment", symlinks=True)
    (packages,) = (tmp_path / "environment" / "lib").glob("python*/site-packages")
    (packages / "pip").symlink_to(Path(pip.__file__).parent)
    return tmp_path / "environment" / "bin" / "python"


def _index(folder, version):
    """A package index (PEP 503) in a folder, with one wheel of torch."""
    simple = folder / "torch"
    simple.mkdir(parents=True)
    name = f"torch-{version}-py3-none-any.whl"
    info = f"torch-{version}.dist-info"
    with zipfile.ZipFile(simple / name, "w") as wheel:
        wheel.writestr("torch/__init__.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    (simple / "index.html").write_text(f'<a href="{name.replace("+", "%2B")}">{name}</a>')
    return folder.as_uri()


def _run(python, usual, torch_index):
    settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": usual, "TORCH_INDEX_URL": torch_index}
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return subprocess.run(
        [python, REPOSITORY / "tools" / "torch_cpu.py"],
        env=outside | settings | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        check=True,
        timeout=120,
        capture_output=True,
        text=True,
    ).stdout


def _version(python):
    code = "from importlib.metadata import version; print(version('torch'))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    return found.stdout.strip() or None


def test_the_cpu_build_that_pip_is_configured_to_find_is_taken(python, tmp_path):
    _run(python, _index(tmp_path / "usual", f"{PINNED}+cpu"), (tmp_path / "none").as_uri())

    assert _version(python) == f"{PINNED}+cpu"


def test_the_usual_build_is_passed_over_for_pytorchs_own_index(python, tmp_path):
    usual = _index(tmp_path / "usual", PINNED)

    said = _run(python, usual, _index(tmp_path / "pytorch", f"{PINNED}+cpu"))

    assert _version(python) == f"{PINNED}+cpu"
    assert (tmp_path / "pytorch").as_uri() in said


def test_without_any_cpu_build_the_usual_one_is_left_to_the_install_and_a_line_says_so(python, tmp_path):
    said = _run(python, _index(tmp_path / "usual", PINNED), (tmp_path / "none").as_uri())

    assert _version(python) is None
    assert "TORCH_INDEX_URL can name another index" in said


def test_what_is_installed_already_stays(python, tmp_path):
    usual = _index(tmp_path / "usual", f"{PINNED}+cpu")
    _run(python, usual, usual)

    said = _run(python, (tmp_path / "none").as_uri(), (tmp_path / "none").as_uri())

    assert said == ""
    assert _version(python) == f"{PINNED}+cpu"
