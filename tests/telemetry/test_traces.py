"""Which requests are sampled."""

from __future__ import annotations

import random

import pytest

from flowserver.flow.read_gate import Reason
from flowserver.http.messages import Headers, RequestHead
from flowserver.telemetry.traces import SpanTracer

PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-%b"


class Queue:
    """A `telemetry.traces.SpanQueue`."""

    exported = 0
    dropped: dict[str, int] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.spans: list[bytes] = []

    def put(self, span: bytes) -> None:
        self.spans.append(span)


def tracer(ratio: float, seed: int = 1) -> SpanTracer:
    return SpanTracer(
        Queue(), ratio=ratio, random=random.Random(seed).getrandbits, clocks=(lambda: 0.0, lambda: 0.0), scheme="http"
    )


def asking(*headers: tuple[bytes, bytes]) -> RequestHead:
    listed: Headers = list(headers)
    return RequestHead(b"GET", b"/", listed)


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.5, 1.0])
def test_so_many_are_sampled(ratio: float) -> None:
    made = tracer(ratio)
    sampled = sum(made.begin(asking()).is_sampled for _ in range(20_000))
    assert sampled == pytest.approx(20_000 * ratio, abs=300 * (0 < ratio < 1))


@pytest.mark.parametrize("ratio", [0.0, 1.0])
@pytest.mark.parametrize(("flags", "sampled"), [(b"00", False), (b"01", True), (b"02", False), (b"03", True)])
def test_the_parent_decides(ratio: float, flags: bytes, sampled: bool) -> None:
    trace = tracer(ratio).begin(asking((b"traceparent", PARENT % flags)))
    assert trace.is_sampled is sampled
    assert trace.context.flags == int(flags, 16)


def test_those_with_the_same_ratio_agree() -> None:
    """The trace id decides, and a larger ratio samples whatever a smaller one does."""
    few, many = tracer(0.2), tracer(0.4)
    both = [(few.begin(asking()), many.begin(asking())) for _ in range(2000)]
    assert all(one.context.trace_id == two.context.trace_id for one, two in both)
    assert all(two.is_sampled for one, two in both if one.is_sampled)


def test_ids_are_never_zero() -> None:
    made = SpanTracer(Queue(), ratio=1.0, random=lambda bits: 0, clocks=(lambda: 0.0, lambda: 0.0), scheme="http")
    context = made.begin(asking()).context
    assert any(context.trace_id)
    assert any(context.span_id)


def test_of_what_is_not_sampled_nothing_is_remembered() -> None:
    trace = tracer(0.0).begin(asking())
    for _ in range(3):
        trace.paused(Reason.DOWNSTREAM, 0.0, 1.0)
    assert trace.pauses == []
    assert trace.attempts == []
