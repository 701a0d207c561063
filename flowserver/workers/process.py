"""Forks a worker process.

A fork after all imports shares their memory, and takes milliseconds. It is only safe while no other thread and no event
loop runs: the caller of `fork` has left its loop, with its signals blocked (`HANDLED`), and has no threads.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Callable, Collection
from itertools import pairwise

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR2)
"""Signals that the parent handles. A worker handles only SIGTERM of these; the parent handles Ctrl-C in a terminal, or
a signal to the whole group."""
CRASHED = os.EX_SOFTWARE
"""Exit status of a worker that failed."""
_MOST_DESCRIPTORS = 1 << 20

_inherited: list[object] = []
"""Objects that a worker keeps alive: if the parent's event loop and sockets were freed in it, they would remove
descriptors from the epoll set that it shares with the parent, or close others that now have the same numbers."""


def fork(run: Callable[[], int], *, keep: Collection[int], holds: object) -> int:
    """Returns the pid in the parent. The child calls `run`, and exits with the status that it returns. It starts with
    SIGTERM blocked, and only the descriptors `keep` and the standard ones. `holds`: the parent's objects, see
    `_inherited`."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = CRASHED
    try:
        _inherited.append(holds)
        _begin(keep)
        status = run()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # skips the interpreter's shutdown, which would free inherited objects


def _begin(keep: Collection[int]) -> None:
    signal.set_wakeup_fd(-1)
    for number in HANDLED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*HANDLED} - {signal.SIGTERM})
    for before, after in pairwise((2, *sorted(keep), _MOST_DESCRIPTORS)):
        os.closerange(before + 1, after)
    faulthandler.enable()  # a stuck worker shows its stack on SIGABRT
