"""The fields that carry a trace from one program to the next (W3C Trace Context). No I/O."""

from __future__ import annotations

import re
from typing import NamedTuple

from .messages import RequestHead, is_traceparent

TRACEPARENT = b"traceparent"
TRACESTATE = b"tracestate"

SAMPLED = 0x01
_KEPT_FLAGS = 0x03
"""Sampled, and random trace id (Level 2 section 3.2.2.5.2); the others are unknown and sent as zero."""
_MOST_STATE = 512
"""Most bytes of tracestate: what every program must be able to pass on (section 3.3.1.5)."""
_MEMBER = re.compile(rb"[ -~]*")


class TraceParent(NamedTuple):
    """The parent of a span. Ids are bytes, as in OTLP."""

    trace_id: bytes
    span_id: bytes
    flags: int

    @property
    def is_sampled(self) -> bool:
        return self.flags & SAMPLED != 0

    def field(self) -> bytes:
        """The value of traceparent."""
        return b"00-%b-%b-%02x" % (self.trace_id.hex().encode(), self.span_id.hex().encode(), self.flags)


def trace_parent(request: RequestHead) -> TraceParent | None:
    """The span that `request` came from; None: traceparent is missing or malformed."""
    value = request.find(TRACEPARENT)
    if value is None or not is_traceparent(value):
        return None
    if sum(name == TRACEPARENT for name, _ in request.headers) > 1:
        return None
    _, trace_id, span_id, flags, *_ = value.split(b"-")
    return TraceParent(bytes.fromhex(trace_id.decode()), bytes.fromhex(span_id.decode()), int(flags, 16) & _KEPT_FLAGS)


def trace_state(request: RequestHead) -> bytes:
    """The tracestate of `request`, all its fields joined; empty if missing, malformed or too long."""
    if request.find(TRACESTATE) is None:
        return b""
    state = b",".join(value for name, value in request.headers if name == TRACESTATE)
    return state if len(state) <= _MOST_STATE and _MEMBER.fullmatch(state) else b""
