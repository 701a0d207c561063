"""Which CPU cores do what: the relay has one of its own, as far as the machine has two."""

from __future__ import annotations

import os


def _split() -> tuple[frozenset[int], frozenset[int]]:
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        return frozenset(usable), frozenset(usable)
    return frozenset(usable[-1:]), frozenset(usable[:-1])


RELAY_CORES, LOAD_CORES = _split()
"""The relay under test is pinned to the first set, load client and provider to the second."""
