"""What is written by hand, read with the official definitions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from flowserver.telemetry import otlp
from flowserver.telemetry.otlp import EVENT_ATTRIBUTE, SPAN_ATTRIBUTE

from ..support.collector import decoded, values

TEXT = st.text("aé€😀 \n\0", max_size=40) | st.text("ab", min_size=90, max_size=300)
NAMES = st.text("abc._", min_size=1, max_size=20) | st.text("a", min_size=100, max_size=200)


def read(*fields: bytes) -> Span:
    """The span with these fields."""
    export = otlp.export_request(otlp.resource([]), otlp.scope("s", "1"), [otlp.span(fields)])
    [resource] = decoded(export).resource_spans
    [scope] = resource.scope_spans
    [span] = scope.spans
    return span


@given(NAMES, TEXT)
def test_text(name: str, value: str) -> None:
    assert values(read(otlp.text(SPAN_ATTRIBUTE, name, value)).attributes) == {name: value}


@given(NAMES, st.integers(-(2**63), 2**63 - 1))
def test_integers(name: str, value: int) -> None:
    assert values(read(otlp.integer(SPAN_ATTRIBUTE, name, value)).attributes) == {name: value}


@given(NAMES, st.floats(allow_nan=False))
def test_reals(name: str, value: float) -> None:
    assert values(read(otlp.real(SPAN_ATTRIBUTE, name, value)).attributes) == {name: value}


@given(NAMES, st.lists(TEXT, max_size=4))
def test_lists(name: str, listed: list[str]) -> None:
    fields = otlp.texts(SPAN_ATTRIBUTE, name, listed), otlp.true(SPAN_ATTRIBUTE, f"{name}2")
    assert values(read(*fields).attributes) == {name: listed, f"{name}2": True}


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=8, max_size=8), st.integers(0, 255), TEXT)
def test_all_else_of_a_span(trace_id: bytes, span_id: bytes, flags: int, name: str) -> None:
    event = otlp.event(2**62, "happened", otlp.text(EVENT_ATTRIBUTE, "why", name))
    span = read(
        otlp.ids(trace_id, span_id, span_id[::-1], b"a=1"),
        otlp.name(name),
        otlp.SERVER,
        otlp.times(1, 2**63),
        event,
        event,
        otlp.left_out_events(300),
        otlp.failed(name),
        otlp.flags(flags, has_parent=True),
    )
    assert (span.trace_id, span.span_id, span.parent_span_id, span.trace_state) == (
        trace_id,
        span_id,
        span_id[::-1],
        "a=1",
    )
    assert (span.name, span.kind, span.start_time_unix_nano, span.end_time_unix_nano) == (name, 2, 1, 2**63)
    assert [(each.time_unix_nano, each.name, values(each.attributes)) for each in span.events] == [
        (2**62, "happened", {"why": name})
    ] * 2
    assert (span.dropped_events_count, span.status.code, span.status.message) == (300, 2, name)
    assert span.flags == flags | 0x300


def test_a_root_has_no_parent() -> None:
    span = read(otlp.ids(b"t" * 16, b"s" * 8, None, b""), otlp.flags(1, has_parent=False))
    assert (span.parent_span_id, span.trace_state, span.flags) == (b"", "", 0x101)


def test_what_utf_8_can_not_carry_is_replaced() -> None:
    fields = otlp.text(SPAN_ATTRIBUTE, "a", "\ud800"), otlp.texts(SPAN_ATTRIBUTE, "b", ["\ud800"]), otlp.name("\ud800")
    assert values(read(*fields).attributes) == {"a": "?", "b": ["?"]}


@given(st.dictionaries(NAMES, TEXT, max_size=4), st.integers(0, 300))
def test_a_request(attributes: dict[str, str], spans: int) -> None:
    span = otlp.span([otlp.name("x" * 10)])
    export = decoded(
        otlp.export_request(otlp.resource(attributes.items()), otlp.scope("flowserver", "1.2"), [span] * spans)
    )
    [resource] = export.resource_spans
    [scope] = resource.scope_spans
    assert values(resource.resource.attributes) == attributes
    assert (scope.scope.name, scope.scope.version) == ("flowserver", "1.2")
    assert [each.name for each in scope.spans] == ["x" * 10] * spans


@given(st.integers(0, 2**62), TEXT)
def test_what_a_collector_refuses_is_read(number: int, message: str) -> None:
    reply = ExportTraceServiceResponse()
    reply.partial_success.rejected_spans = number
    reply.partial_success.error_message = message
    assert otlp.rejected(reply.SerializeToString()) == number


@given(st.binary(max_size=40))
def test_nonsense_refuses_nothing_that_can_be_told(reply: bytes) -> None:
    assert otlp.rejected(reply) >= 0


@pytest.mark.parametrize("reply", [b"", b"\x0a", b"\x0a\x80", b"\x0a\x02\x08", b"\x0d\x00", b"{}"])
def test_a_reply_that_ends_early_refuses_nothing(reply: bytes) -> None:
    assert otlp.rejected(reply) == 0
