"""Child processes: started, restarted when they die, stopped in reverse order, never left behind.

Knows nothing of Redis or HTTP. Everything that waits does so in `Children.pause`, so that signals and deaths
are noticed wherever the launcher happens to be.

On Linux the kernel kills every child when the launcher dies, however it dies. Other systems have no such
service: there children outlive a `kill -9` of the launcher (every other way to end it stops them).
"""

import contextlib
import ctypes
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Self

logger = logging.getLogger(__name__)

STOP_GRACE_S = 12.0
MAX_RESTARTS = 5
RESTART_WINDOW_S = 60.0
_RESTART_DELAY_S = 1.0
_STEP_S = 0.1
_REFUSED_SETTINGS = 2
_STDERR = 2
_PARENT_DEATH_SIGNAL = 1
_libc = ctypes.CDLL(None)


class StartFault(Exception):
    """Something about this machine or the settings keeps Parley from starting; the message is for people."""


class GaveUp(Exception):
    """A child keeps dying."""


class Stopped(Exception):
    """The launcher was asked to stop."""


@dataclass
class Child:
    """A program to keep running. Its output goes to the launcher's stderr, or to the file `log`.

    While it is not `watched`, its end is the business of whoever started it. `hindrance` tells why it would
    only end again if it were started now, or None; until then it is not.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    keep_open: Sequence[int] = ()
    log: Path | None = None
    watched: bool = True
    hindrance: Callable[[], str | None] = lambda: None
    process: "subprocess.Popen[bytes] | Adopted | None" = field(default=None, init=False)
    restart_at: float | None = field(default=None, init=False)
    restarts: list[float] = field(default_factory=list, init=False)
    hindered: str | None = field(default=None, init=False)

    def start(self) -> None:
        """Start the program. Must be called in the main thread (see `die_with`)."""
        self.restart_at = None
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(self.log.open("wb")) if self.log else _STDERR
            self.process = subprocess.Popen(
                self.argv,
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self.keep_open,
                # A session of its own: Ctrl-C at the terminal reaches it through the launcher only.
                start_new_session=True,
                preexec_fn=partial(die_with, os.getpid()),
            )

    @property
    def ended(self) -> str | None:
        """How it ended, or None while it runs."""
        status = self.process.poll() if self.process else None
        if status is None:
            return None
        return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"

    def last_words(self) -> str:
        """The end of its log, indented, each line on its own; nothing if it has none."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log else []
        return "".join(f"\n  {line}" for line in lines[-8:])

    def stop(self) -> None:
        """Ask it to end, wait, and kill it with everything it started if it does not."""
        if not self.process or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            logger.warning("%s does not stop: killing it", self.name)
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Adopted:
    """A child that this process has not started itself, with what is used of subprocess.Popen."""

    def __init__(self, pid: int) -> None:
        """`pid` must be a child of this process by now."""
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """As Popen.poll."""
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = math.inf) -> int:
        """As Popen.wait."""
        until = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired([], timeout)
            time.sleep(_STEP_S / 10)
        return status

    def terminate(self) -> None:
        """As Popen.terminate."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)


class Children:
    """All child processes of this launcher. A context manager for the main thread."""

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._stop_asked = False
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup's wish is respected.
            if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN:
                self._handlers[each] = signal.signal(each, self._ask_to_stop)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop all, the newest first: what others rely on goes last."""
        for child in reversed(self._children):
            child.stop()
        for each, handler in self._handlers.items():
            signal.signal(each, handler)

    def _ask_to_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stop_asked = True

    def start(self, child: Child, pid: int | None = None) -> None:
        """Start `child` if it does not run, or take the process `pid` for it, and keep it running."""
        self._children.append(child)
        if pid is not None:
            child.process = Adopted(pid)
        elif child.process is None:
            child.start()

    def pause(self, seconds: float) -> None:
        """Wait, and meanwhile restart what dies.

        Raises Stopped after SIGINT, SIGTERM or SIGHUP, StartFault when a child refuses its settings, GaveUp
        when one was restarted more than MAX_RESTARTS times within RESTART_WINDOW_S seconds.
        """
        until = time.monotonic() + seconds
        while True:
            if self._stop_asked:
                raise Stopped
            for child in self._children:
                if child.watched:
                    self._look_after(child)
            if (left := until - time.monotonic()) <= 0:
                return
            time.sleep(min(left, _STEP_S))

    def _look_after(self, child: Child) -> None:
        now = time.monotonic()
        if child.restart_at is not None:
            if now >= child.restart_at:
                self._start_again(child, now)
        elif how := child.ended:
            if child.process and child.process.returncode == _REFUSED_SETTINGS:
                raise StartFault(
                    f"{child.name} refused to start; the line above says why.{child.last_words()}"
                )
            child.restarts = [at for at in child.restarts if now - at < RESTART_WINDOW_S]
            if len(child.restarts) >= MAX_RESTARTS:
                raise GaveUp(
                    f"{child.name} keeps ending (now: {how}). Stopping everything.{child.last_words()}"
                )
            child.restarts.append(now)
            child.restart_at = now + _RESTART_DELAY_S
            logger.warning("%s ended (%s): starting it again%s", child.name, how, child.last_words())

    def _start_again(self, child: Child, now: float) -> None:
        why = child.hindrance()
        if why and why != child.hindered:
            logger.error("%s is not started: %s", child.name, why)
        child.hindered = why
        if why:
            child.restart_at = now + _RESTART_DELAY_S
        else:
            child.start()


def die_with(parent: int) -> None:
    """Ask Linux to kill this process when the thread that started it ends, its parent's main thread.

    prctl(2), PR_SET_PDEATHSIG. Elsewhere it does nothing.
    """
    if sys.platform == "linux":
        _libc.prctl(_PARENT_DEATH_SIGNAL, int(signal.SIGKILL))
        if os.getppid() != parent:  # it died before the call above
            os._exit(1)
