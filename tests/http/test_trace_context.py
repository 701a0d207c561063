"""traceparent and tracestate, as the W3C has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.http.messages import Headers, RequestHead
from flowserver.http.trace_context import TraceParent, trace_parent, trace_state

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SANE = f"00-{TRACE_ID}-{SPAN_ID}-01".encode()


def read(*values: bytes) -> TraceParent | None:
    return trace_parent(RequestHead(b"GET", b"/", [(b"traceparent", value) for value in values]))


def test_a_sane_one_is_read_and_written_alike() -> None:
    parent = read(SANE)
    assert parent == TraceParent(bytes.fromhex(TRACE_ID), bytes.fromhex(SPAN_ID), 1)
    assert parent.is_sampled
    assert parent.field() == SANE


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=8, max_size=8), st.sampled_from([0, 1, 2, 3]))
def test_whatever_is_written_is_read(trace_id: bytes, span_id: bytes, flags: int) -> None:
    parent = TraceParent(trace_id, span_id, flags)
    assert read(parent.field()) == (parent if any(trace_id) and any(span_id) else None)


@pytest.mark.parametrize(("flags", "kept"), [(b"00", 0), (b"01", 1), (b"02", 2), (b"ff", 3), (b"fc", 0)])
def test_only_the_flags_that_are_known_are_kept(flags: bytes, kept: int) -> None:
    parent = read(SANE[:-2] + flags)
    assert parent is not None
    assert parent.flags == kept


@pytest.mark.parametrize(
    "value", [b"01" + SANE[2:], b"cc" + SANE[2:] + b"-what-the.future=has", b"01" + SANE[2:] + b"-"]
)
def test_a_later_version_is_read_as_far_as_it_is_known(value: bytes) -> None:
    assert read(value) == read(SANE)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"nonsense",
        SANE.upper(),
        SANE[:-1],
        SANE + b"-more",
        SANE + b"-",
        b"01" + SANE[2:] + b".more",
        b"ff" + SANE[2:],
        SANE.replace(TRACE_ID.encode(), b"0" * 32),
        SANE.replace(SPAN_ID.encode(), b"0" * 16),
        SANE + b"\n",
    ],
)
def test_a_malformed_one_is_none(value: bytes) -> None:
    assert read(value) is None


def test_of_two_neither_is() -> None:
    assert read(SANE, SANE) is None
    assert read() is None


@pytest.mark.parametrize(
    ("values", "state"),
    [
        ([], b""),
        ([b"a=1"], b"a=1"),
        ([b"a=1", b"b=2,c=3"], b"a=1,b=2,c=3"),
        ([b"a=" + b"x" * 510], b"a=" + b"x" * 510),
        ([b"a=" + b"x" * 511], b""),
        ([b"a=\xff"], b""),
        ([b"a=\t"], b""),
    ],
)
def test_the_state_is_read_where_it_is_sane(values: list[bytes], state: bytes) -> None:
    headers: Headers = [(b"tracestate", value) for value in values]
    assert trace_state(RequestHead(b"GET", b"/", headers)) == state
