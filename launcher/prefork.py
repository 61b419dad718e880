"""Programs that begin as one process, which has imported what all of them need, and then part (pre-forking).

What both services import alike, torch and transformers above all, is most of the memory of one of them. So it
is there once, and is imported once. `python -m launcher.prefork PIPE LAUNCHER MODULE...` imports, forks a
process for each module, writes their process ids to PIPE and ends. Linux then makes them children of the
launcher, which has asked for its orphaned descendants (prctl(2), PR_SET_CHILD_SUBREAPER): it sees how each
one ends, and they die with it, as those do that it has started itself.

A program that has to be started again later has everything for itself; nothing else is different.
"""

import contextlib
import ctypes
import gc
import importlib
import os
import runpy
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from setproctitle import setproctitle

from launcher.children import Child, Children, die_with
from shared import allocator

_ALIKE = ("shared.service", "shared.checkpoint", "transformers.models.bert.modeling_bert")
"""Nothing of one service alone: importing the other's would register its metrics."""
_CHILD_SUBREAPER = 36
_STEP_S = 0.02


def start(programs: Sequence[Child], children: Children) -> None:
    """Start `programs`, each of them `python -m MODULE`, among `children`.

    One by one where they cannot be forked. Raises what `Children.pause` raises.
    """
    pids = _forked([program.argv[-1] for program in programs], children) if sys.platform == "linux" else []
    for program, pid in zip_longest(programs, pids):
        children.start(program, pid)


def _forked(modules: Sequence[str], children: Children) -> list[int]:
    """Process ids of new children that run the modules; none or too few if something went wrong."""
    out, into = os.pipe()
    with os.fdopen(out) as written, _subreaper():
        command = [sys.executable, "-m", "launcher.prefork", str(into), str(os.getpid()), *modules]
        common = Child("what the services share", command, keep_open=[into], watched=False)
        children.start(common)
        os.close(into)
        while not common.ended:
            children.pause(_STEP_S)
        pids = [int(line) for line in written]
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


def main(pipe: int, launcher: int, modules: Sequence[str]) -> None:
    """Returns only in the processes that are forked, when their program ends."""
    allocator.settle()
    for module in _ALIKE:
        with contextlib.suppress(ImportError):  # who needs it will say so
            importlib.import_module(module)
    gc.collect()
    allocator.give_back()
    gc.freeze()  # a collection writes to what it looks through, which would then be there twice
    parent = os.getpid()
    for module in modules:
        if (pid := os.fork()) == 0:
            os.close(pipe)
            _become(module, parent, launcher)
            return
        os.write(pipe, f"{pid}\n".encode())
    os._exit(0)


def _become(module: str, parent: int, launcher: int) -> None:
    os.setsid()
    while os.getppid() == parent:  # which ends in a moment
        time.sleep(_STEP_S / 10)
    die_with(launcher)
    setproctitle(f"{sys.executable} -m {module}")
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
