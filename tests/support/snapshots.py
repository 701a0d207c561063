"""Snapshots of metrics, read at once."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from flowserver.telemetry.snapshot import Tables, decoded

T = TypeVar("T")


def finished(work: Generator[bytes, None, T]) -> T:
    """What sliced work returns in the end."""
    while True:
        try:
            assert next(work) == b""
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


def read_snapshot(snapshot: bytes) -> Tables:
    return finished(decoded(snapshot))
