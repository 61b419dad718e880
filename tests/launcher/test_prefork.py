"""Programs that part from one process: small modules in a temporary folder, the working directory."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys

import psutil
import pytest

from launcher import children as children_module
from launcher import prefork
from launcher.children import Child, Children, StartFault, Stopped
from tests.servers import all_ended, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each is started by itself")

_WAITS = """
import os, pathlib, sys, time
pathlib.Path(__file__).with_suffix(".up").write_text(f"{os.getpid()} {'json.tool' in sys.modules}")
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    # Instead of what the services share, which would take seconds.
    for package in ("shared", "transformers"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "shared" / "allocator.py").write_text("settle = give_back = lambda: None")
    (tmp_path / "shared" / "service.py").write_text("import json.tool")
    for name in "ab":
        (tmp_path / f"{name}.py").write_text(_WAITS)


@pytest.fixture(autouse=True)
def _before(monkeypatch):
    monkeypatch.setattr(
        _new, "before", {each.pid for each in psutil.Process().children(recursive=True)}, raising=False
    )


def _new():
    """Children of this process that were not there when the test began."""
    return [each for each in psutil.Process().children(recursive=True) if each.pid not in _new.before]


def _programs():
    return [Child(name, [sys.executable, "-m", name]) for name in "ab"]


def _up(folder, children):
    for _ in range(300):
        said = [(folder / f"{name}.up") for name in "ab"]
        if all(file.exists() and file.read_text() for file in said):
            return [file.read_text().split() for file in said]
        children.pause(0.05)
    return pytest.fail("they did not come up")


def test_they_have_what_was_imported_and_are_children_like_others(tmp_path):
    with Children() as children:
        programs = _programs()
        prefork.Zygote().start(programs, children)
        said = _up(tmp_path, children)
        family = _new()

        assert [shared for _, shared in said] == ["True", "True"]
        assert [int(pid) for pid, _ in said] == [program.process.pid for program in programs]
        assert {each.pid for each in family} == {program.process.pid for program in programs}
        titles = {" ".join(each.cmdline()).strip() for each in family}
        assert titles == {f"{sys.executable} -m {name}" for name in "ab"}
        assert all(os.getsid(each.pid) == each.pid for each in family)

    assert all_ended(family)


def test_what_only_training_needs_is_hidden_while_it_imports():
    with prefork._hidden(["wave"]):
        assert importlib.util.find_spec("wave") is None
    assert importlib.util.find_spec("wave") is not None


def test_one_that_dies_is_started_again_by_itself(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(children_module, "_RESTART_DELAY_S", 0.05)
    with Children() as children:
        programs = _programs()
        prefork.Zygote().start(programs, children)
        _up(tmp_path, children)
        first, other = (program.process.pid for program in programs)
        (tmp_path / "a.up").unlink()
        os.kill(first, signal.SIGKILL)
        said = _up(tmp_path, children)

        assert "a ended (killed by SIGKILL): starting it again" in caplog.text
        assert said[0][1] == "False"
        assert int(said[0][0]) != first
        assert int(said[1][0]) == programs[1].process.pid == other


def test_one_that_does_not_stop_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(children_module, "STOP_GRACE_S", 0.2)
    (tmp_path / "a.py").write_text("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)" + _WAITS)
    with Children() as children:
        programs = _programs()
        prefork.Zygote().start(programs, children)
        _up(tmp_path, children)

    assert [program.ended for program in programs] == ["killed by SIGKILL", "killed by SIGTERM"]


def test_a_refused_setting_ends_the_launcher(tmp_path):
    (tmp_path / "b.py").write_text("raise SystemExit(2)")
    with Children() as children:
        prefork.Zygote().start(_programs(), children)

        with pytest.raises(StartFault, match="b refused to start"):
            children.pause(30.0)


@pytest.mark.parametrize("fault", ["import nonsense", "raise SystemExit(7)"])
def test_without_what_they_share_they_still_start(tmp_path, fault):
    (tmp_path / "shared" / "service.py").write_text(fault)
    with Children() as children:
        prefork.Zygote().start(_programs(), children)
        said = _up(tmp_path, children)

    assert [shared for _, shared in said] == ["False", "False"]


def test_without_subreapers_they_are_started_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr(prefork, "_subreaper", contextlib.nullcontext)
    with Children() as children:
        programs = _programs()
        prefork.Zygote().start(programs, children)
        said = _up(tmp_path, children)

        assert [shared for _, shared in said] == ["False", "False"]
        assert [int(pid) for pid, _ in said] == [program.process.pid for program in programs]


def test_being_asked_to_stop_while_it_imports_is_noticed(tmp_path):
    (tmp_path / "shared" / "service.py").write_text(
        "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    )
    with pytest.raises(Stopped), Children() as children:
        prefork.Zygote().start(_programs(), children)

    assert not list(tmp_path.glob("*.up"))
    assert not _new()


@pytest.mark.parametrize("when", ["importing", "serving"])
def test_they_die_with_a_launcher_that_is_killed(tmp_path, when):
    if when == "importing":
        (tmp_path / "shared" / "service.py").write_text("import pathlib, time; time.sleep(60)")
    code = """
import sys
from launcher import prefork
from launcher.children import Child, Children
with Children() as children:
    prefork.Zygote().start([Child(name, [sys.executable, "-m", name]) for name in "ab"], children)
    children.pause(60)
"""
    with subprocess.Popen([sys.executable, "-c", code]) as launcher:
        expected = 1 if when == "importing" else 2
        ups = [tmp_path / "a.up", tmp_path / "b.up"] if when == "serving" else []
        process = psutil.Process(launcher.pid)
        wait_until(lambda: all(up.exists() for up in ups) and len(process.children()) == expected)
        family = process.children()
        launcher.kill()

    wait_until(lambda: all_ended(family))
