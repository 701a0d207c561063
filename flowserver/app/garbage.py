"""Python's collector of cycles, set for a process with thousands of long streams."""

from __future__ import annotations

import gc

YOUNG, MIDDLE, OLD = 2_000, 10, 50
"""Objects that are new since the last look at them, and how often these and those a little older are looked at before
all others are. A relay leaves no cycles behind (tests hold that), so nothing is found, and to look through the objects
of 2,500 streams stops all of them for 100 ms. These settings have that happen once in a million objects that stay, or
never; a small look takes 1 ms."""


def settle() -> None:
    """To be called once, when the process is about to serve: what is there by then stays."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)
