"""Recordings taken apart into events, without any code of the relay."""

from __future__ import annotations

import re

from tests.support.corpus import Recording

_BLOCK = re.compile(rb"(?:[^\r\n]+(?:\r\n|\n|\r))+(?:\r\n|\n|\r)|(?:\r\n|\n|\r)")

Read = tuple[bytes, bytes, bytes]
"""An event's name, its data, and all bytes since the end of the event before."""


def events(recording: Recording) -> list[Read]:
    """Of server-sent events; a tail that no blank line ends is none."""
    return sse_events(recording.body)


def sse_events(body: bytes) -> list[Read]:
    found: list[Read] = []
    start = 0
    for block in _BLOCK.finditer(body):
        fields = [line.partition(b":") for line in block[0].splitlines()]
        data = [_value(value) for name, _, value in fields if name == b"data"]
        if data:
            names = [_value(value) for name, _, value in fields if name == b"event"]
            found.append((names[-1] if names else b"", b"\n".join(data), body[start : block.end()]))
            start = block.end()
    return found


def _value(value: bytes) -> bytes:
    return value.removeprefix(b" ")
