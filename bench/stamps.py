"""The times that the source's events carry."""

from __future__ import annotations

import time

STAMP = b'"content":"'
"""Stands before the time of sending: 20 digits, CLOCK_MONOTONIC in nanoseconds."""

STAMP_DIGITS = 20


def scan(data: bytes, times: list[int]) -> bytes:
    """Append to `times` the nanoseconds that each event in `data` took. Framing is passed over.

    Returns what may be the beginning of a stamp that the end of a read cut in two: to be put before the next read.
    """
    now = time.monotonic_ns()
    position = data.find(STAMP)
    while position >= 0:
        start = position + len(STAMP)
        if start + STAMP_DIGITS > len(data):
            return data[position:]
        times.append(now - int(data[start : start + STAMP_DIGITS]))
        position = data.find(STAMP, start)
    cut = data.rfind(b'"', -len(STAMP))
    return data[cut:] if cut >= 0 and STAMP.startswith(data[cut:]) else b""
