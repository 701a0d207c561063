"""Forks a worker, and makes its process one of its own.

A fork after all imports shares their memory, and takes milliseconds. It is only safe where no other thread runs and no
event loop does: whoever calls `fork` has left its loop, with its signals blocked (`HANDLED`), and has no thread.
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
"""What the parent handles. Of these a worker handles SIGTERM; a terminal's Ctrl-C, or a signal to the whole group, is
the parent's business."""
CRASHED = os.EX_SOFTWARE
"""Exit status of a worker that failed."""
_MOST_DESCRIPTORS = 1 << 20

_inherited: list[object] = []
"""What a worker keeps for its whole life: were the parent's event loop and sockets freed in it, they would take
descriptors out of the epoll set that it shares with the parent, or close others that have the same numbers now."""


def fork(run: Callable[[], int], *, keep: Collection[int], holds: object) -> int:
    """Returns the pid in the parent. The child calls `run`, and ends with the status that it returns. It has SIGTERM
    blocked, and of the descriptors `keep` and the standard ones. `holds`: the parent's objects, see `_inherited`."""
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
        os._exit(status)  # without the interpreter's end, which would free what is inherited


def _begin(keep: Collection[int]) -> None:
    signal.set_wakeup_fd(-1)
    for number in HANDLED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*HANDLED} - {signal.SIGTERM})
    for before, after in pairwise((2, *sorted(keep), _MOST_DESCRIPTORS)):
        os.closerange(before + 1, after)
    faulthandler.enable()  # a stuck worker tells where when it gets SIGABRT
