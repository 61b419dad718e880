"""Programs that begin as one process, which has imported what all of them need, and then part (pre-forking).

What both services import alike, torch and transformers above all, is most of the memory of one of them, and
most of the time that a start takes. So it is there once, and is imported once, by a process that is called a
zygote where others do this (Chromium, Android): `python -m launcher.prefork SOCKET LAUNCHER`. It begins
before the launcher has imported and prepared what it needs itself, which goes on beside it. Told of the
programs, it forks a process for each, answers with their process ids and ends. Linux then makes them children
of the launcher, which has asked for its orphaned descendants (prctl(2), PR_SET_CHILD_SUBREAPER): it sees how
each one ends, and they die with it, as those do that it has started itself.

A program that has to be started again later has everything for itself; nothing else is different.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from setproctitle import setproctitle

from launcher.children import Child, Children, die_with
from shared import allocator

_ALIKE = ("shared.service", "shared.checkpoint", "transformers.models.bert.modeling_bert")
"""Nothing of one service alone: importing the other's would register its metrics."""
_UNUSED = ("accelerate", "scipy")
"""What transformers imports wherever it is installed, for training and for what is seen in pictures: a fifth
of what is imported here. A service trains in processes of their own."""
_CHILD_SUBREAPER = 36
_STEP_S = 0.02


class Zygote:
    """A process that imports what programs share. There is none but on Linux."""

    def __init__(self) -> None:
        """It begins to import. Must be made in the main thread, as `Child.start`."""
        self._environ = dict(os.environ)
        self._child: Child | None = None
        if sys.platform != "linux":
            return
        self._wire, its = socket.socketpair()
        with its:
            argv = [sys.executable, "-m", "launcher.prefork", str(its.fileno()), str(os.getpid())]
            self._child = Child("what the services share", argv, keep_open=[its.fileno()], watched=False)
            self._child.start()

    def start(self, programs: Sequence[Child], children: Children) -> None:
        """Start `programs`, each of them `python -m MODULE`, among `children`, in the present environment.

        One by one where they cannot be forked. Raises what `Children.pause` raises. To be called once.
        """
        modules = [program.argv[-1] for program in programs]
        pids = self._forked(self._child, modules, children) if self._child else []
        for program, pid in zip_longest(programs, pids):
            children.start(program, pid)

    def _forked(self, zygote: Child, modules: Sequence[str], children: Children) -> list[int]:
        """Process ids of new children that run the modules; none or too few if something went wrong."""
        children.start(zygote)
        new = {name: value for name, value in os.environ.items() if self._environ.get(name) != value}
        order = json.dumps({"modules": modules, "environ": new}) + "\n"
        pids: list[int] = []
        with self._wire, self._wire.makefile(encoding="utf-8") as answers, _subreaper():
            with contextlib.suppress(ConnectionError):  # it has ended and did not read that
                self._wire.sendall(order.encode())
                while not zygote.ended:
                    children.pause(_STEP_S)
                pids += map(int, answers)
            return pids if all(map(_is_child, pids)) else []


def _is_child(pid: int) -> bool:
    """False where Linux is imitated without subreapers; what was forked has then ended, see `die_with`."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


@contextlib.contextmanager
def _subreaper() -> Iterator[None]:
    prctl = ctypes.CDLL(None).prctl
    prctl(_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        prctl(_CHILD_SUBREAPER, 0)


def main(wire: socket.socket, launcher: int) -> None:
    """Returns only in the processes that are forked, when their program ends."""
    gc.disable()  # nothing that is imported here is given up again, and to look for it takes its time
    allocator.settle()
    with _hidden(_UNUSED):
        for module in _ALIKE:
            with contextlib.suppress(ImportError):  # who needs it will say so
                importlib.import_module(module)
    gc.collect()
    allocator.give_back()
    gc.freeze()  # a collection writes to what it looks through, which would then be there twice
    gc.enable()
    with wire.makefile(encoding="utf-8") as orders:
        line = orders.readline()
    if not line:  # the launcher has ended before it came so far
        return
    order = json.loads(line)
    os.environ.update(order["environ"])
    parent = os.getpid()
    for module in order["modules"]:
        if (pid := os.fork()) == 0:
            wire.close()
            _become(module, parent, launcher)
            return
        wire.sendall(f"{pid}\n".encode())
    os._exit(0)


@contextlib.contextmanager
def _hidden(packages: Sequence[str]) -> Iterator[None]:
    """As if they were not installed; transformers asks that once and remembers the answer."""
    modules: dict[str, Any] = sys.modules
    modules.update(dict.fromkeys(packages))
    try:
        yield
    finally:
        for package in packages:
            del modules[package]


def _become(module: str, parent: int, launcher: int) -> None:
    os.setsid()
    while os.getppid() == parent:  # which ends in a moment
        time.sleep(_STEP_S / 10)
    die_with(launcher)
    setproctitle(f"{sys.executable} -m {module}")
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
