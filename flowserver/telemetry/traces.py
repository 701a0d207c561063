"""Tracing: which requests are sampled, and what happens to their spans."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from ..http.messages import RequestHead
from ..http.trace_context import SAMPLED, TraceParent, trace_parent, trace_state
from ..relay.record import ExchangeRecord
from ..relay.request_trace import RequestTrace
from .exposition import Family, counter, counters
from .spans import span

_RANDOM_BITS = 56
"""Bits of a trace id that decide its sampling, so that all programs with the same ratio agree (W3C Trace Context Level
2 section 3.2.2.3)."""


class SpanQueue(Protocol):
    """The queue for spans."""

    def put(self, span: bytes) -> None: ...

    @property
    def exported(self) -> int:
        """Spans that the collector accepted."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """Spans that were lost, by reason."""


class SpanTracer:
    """The `relay.request_trace.Tracer` of a process. It makes one span for each sampled request: the client's sampling
    decision holds if there is one, else `ratio` of all requests are sampled."""

    __slots__ = ("_clock", "_queue", "_random", "_scheme", "_threshold", "_wall_clock")

    def __init__(
        self,
        queue: SpanQueue,
        *,
        ratio: float,
        random: Callable[[int], int],
        clocks: tuple[Callable[[], float], Callable[[], float]],
        scheme: str,
    ) -> None:
        """`ratio`: from 0 to 1. `random` returns a number with the given number of bits. `clocks`: the exchanges'
        clock, and seconds since the epoch. `scheme`: of clients' URLs."""
        self._queue = queue
        self._threshold = round((1.0 - ratio) * (1 << _RANDOM_BITS))
        self._random = random
        self._clock, self._wall_clock = clocks
        self._scheme = scheme

    def families(self) -> Iterator[Family]:
        yield counter("flow_spans_exported", "Spans that the collector accepted.", self._queue.exported)
        text = (
            "Spans that were lost: the queue was full, the collector did not answer or refused them, or the relay "
            "ended."
        )
        dropped = [({"reason": reason}, number) for reason, number in self._queue.dropped.items()]
        yield counters("flow_spans_dropped", text, dropped)

    def begin(self, request: RequestHead) -> RequestTrace:
        parent = trace_parent(request)
        span_id = (self._random(64) or 1).to_bytes(8, "big")
        if parent is not None:
            context = TraceParent(parent.trace_id, span_id, parent.flags)
            return RequestTrace(context, parent, trace_state(request))
        number = self._random(128) or 1
        is_sampled = number & ((1 << _RANDOM_BITS) - 1) >= self._threshold
        context = TraceParent(number.to_bytes(16, "big"), span_id, SAMPLED if is_sampled else 0)
        return RequestTrace(context, None, b"")

    def exchange_ended(self, exchange: ExchangeRecord, trace: RequestTrace) -> None:
        epoch = self._wall_clock() - self._clock()
        self._queue.put(span(exchange, trace, epoch=epoch, scheme=self._scheme))
