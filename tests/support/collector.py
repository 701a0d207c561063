"""A collector of traces: takes what relays export, read with the official definitions of OTLP."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from .lab import eventually
from .provider import Caller
from .wire import Message, response

TAKEN = response(b"")


class Collector:
    """The script of a provider (`Lab.provider`) that takes spans; `answers` come first, one for each request, then it
    takes all. In place of an empty one it hangs up."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = list(answers)
        self.requests: list[Message] = []
        self.taken: list[ExportTraceServiceRequest] = []
        """What was answered with 200."""

    async def __call__(self, caller: Caller) -> None:
        with contextlib.suppress(EOFError, OSError):
            while await self.take(caller):
                pass

    async def take(self, caller: Caller) -> bool:
        """One request. Returns whether there may be another one."""
        message = await caller.request()
        self.requests.append(message)
        answer = self._answers.pop(0) if self._answers else TAKEN
        if not answer:
            caller.close()
            return False
        if answer.startswith(b"HTTP/1.1 200"):
            self.taken.append(decoded(message.body))
        await caller.send(answer)
        return True

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for export in self.taken
            for resource in export.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    async def some(self, count: int = 1) -> list[Span]:
        """The spans, when there are so many."""
        await eventually(lambda: len(self.spans) >= count, f"{count} spans")
        spans = self.spans
        assert len(spans) == count, spans
        return spans

    async def one(self) -> Span:
        [span] = await self.some()
        return span


def decoded(body: bytes) -> ExportTraceServiceRequest:
    """Raises an error where there is a field that the definitions do not have."""
    export = ExportTraceServiceRequest.FromString(body)
    again = ExportTraceServiceRequest.FromString(body)
    again.DiscardUnknownFields()
    assert export == again
    return export


def values(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for attribute in attributes:
        assert attribute.key not in found, attribute.key
        found[attribute.key] = _value(attribute.value)
    return found


def events(span: Span) -> list[tuple[str, dict[str, Any]]]:
    return [(event.name, values(event.attributes)) for event in span.events]


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    assert kind is not None
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)
