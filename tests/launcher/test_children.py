import os
import signal
import subprocess
import sys

import psutil
import pytest

from launcher import children as module
from launcher.children import Child, Children, GaveUp, StartFault, Stopped
from tests.servers import all_ended, wait_until


def _python(name, code, *arguments, **options):
    return Child(name, [sys.executable, "-c", code, *map(str, arguments)], **options)


def _pause_until(children, holds):
    for _ in range(300):
        if holds():
            return
        children.pause(0.05)
    pytest.fail("it did not come true in time")


def test_a_child_that_ends_is_started_again(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_RESTART_DELAY_S", 0.05)
    marks = tmp_path / "marks"
    with Children() as children:
        children.start(_python("marker", "import sys; open(sys.argv[1], 'a').write('x')", marks))

        _pause_until(children, lambda: marks.exists() and len(marks.read_text()) >= 2)


def test_a_child_that_keeps_ending_is_given_up_with_its_last_words(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_RESTART_DELAY_S", 0.0)
    code = "import os, sys; print('no more'); open(sys.argv[1], 'a').write('x'); sys.exit(7)"
    marks = tmp_path / "marks"
    with Children() as children:
        children.start(_python("hopeless", code, marks, log=tmp_path / "log"))

        with pytest.raises(GaveUp, match=r"hopeless keeps ending \(now: exit status 7\).*\n  no more"):
            children.pause(30.0)

    assert marks.read_text() == "x" * (1 + module.MAX_RESTARTS)


def test_a_child_is_not_started_again_before_its_hindrance_is_gone(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(module, "_RESTART_DELAY_S", 0.0)
    starts, disk = tmp_path / "starts", ["full"]
    code = "import sys; open(sys.argv[1], 'a').write('x')"
    with Children() as children:
        children.start(_python("writer", code, starts, hindrance=lambda: disk[0] if disk else None))
        _pause_until(children, lambda: "writer is not started: full" in caplog.text)
        children.pause(1.0)
        assert starts.read_text() == "x"
        assert caplog.text.count("is not started") == 1, "said once, not at every look"
        disk.clear()
        _pause_until(children, lambda: starts.read_text() != "x")


def test_a_child_that_refuses_its_settings_is_not_started_again():
    with Children() as children:
        children.start(_python("picky", "raise SystemExit(2)"))

        with pytest.raises(StartFault, match="picky refused to start"):
            children.pause(30.0)


def test_the_newest_child_is_stopped_first(tmp_path):
    code = """
import signal, sys, time
def end(*_):
    open(sys.argv[1], "a").write(sys.argv[2])
    sys.exit()
signal.signal(signal.SIGTERM, end)
open(sys.argv[1] + sys.argv[2], "w")
time.sleep(60)
"""
    marks = tmp_path / "marks"
    with Children() as children:
        for name in "abc":
            children.start(_python(name, code, marks, name))
        _pause_until(children, lambda: len(list(tmp_path.iterdir())) == 3)

    assert marks.read_text() == "cba"


def test_one_that_does_not_stop_is_killed_with_all_it_started(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "STOP_GRACE_S", 0.2)
    code = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open(sys.argv[1], "w")
time.sleep(60)
"""
    with Children() as children:
        stubborn = _python("stubborn", code, tmp_path / "up")
        children.start(stubborn)
        _pause_until(children, (tmp_path / "up").exists)
        family = [psutil.Process(stubborn.process.pid), *psutil.Process(stubborn.process.pid).children()]

    assert len(family) == 2
    wait_until(lambda: all_ended(family))


@pytest.mark.parametrize("each", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_noticed_while_waiting_and_handlers_are_put_back(each):
    before = signal.getsignal(each)
    with Children() as children:
        os.kill(os.getpid(), each)
        with pytest.raises(Stopped):
            children.pause(30.0)

    assert signal.getsignal(each) is before


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Children() as children:
            os.kill(os.getpid(), signal.SIGHUP)
            children.pause(0.0)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_children_die_with_a_launcher_that_is_killed():
    code = """
import sys
from launcher.children import Child, Children
with Children() as children:
    for name in "ab":
        children.start(Child(name, [sys.executable, "-c", "import time; time.sleep(60)"]))
    print("started", flush=True)
    children.pause(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout.readline() == "started\n"
        family = psutil.Process(launcher.pid).children()
        launcher.kill()

    assert len(family) == 2
    wait_until(lambda: all_ended(family))
