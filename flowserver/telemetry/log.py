"""JSON log lines."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, BinaryIO

import orjson

from ..errors import RelayError
from ..quota.traffic_class import BATCH
from ..relay.record import MOMENT, ExchangeRecord
from .line_writer import LineWriter, ThreadWriter
from .sink import DescriptorSink, Sink, StreamSink

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_INFO = LEVELS["info"]


class Log:
    """Writes one JSON object a line, to a sink or stream, else to standard output. `level` is the least that is
    written."""

    def __init__(
        self,
        level: str,
        stream: BinaryIO | None = None,
        *,
        sink: Sink | None = None,
        writer: LineWriter | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """`writer`: who writes, in place of a thread and `sink`. `fields`: further ones of every line."""
        self._least = LEVELS[level]
        self._writer = writer or ThreadWriter(sink or (DescriptorSink(1) if stream is None else StreamSink(stream)))
        self._fields = dict(fields or {})

    def writes(self, level: str) -> bool:
        """Whether lines of this level are written."""
        return LEVELS[level] >= self._least

    def write(self, level: str, event: str, **fields: Any) -> None:
        if self.writes(level):
            self._put({"time": time.time(), "level": level, "event": event, **fields})

    def access(self, exchange: ExchangeRecord) -> None:
        """The one line of an exchange. Queries, bodies and credentials are not in it."""
        if self._least > _INFO:
            return
        assert exchange.ended_at is not None
        first = exchange.first_byte_at
        fields: dict[str, Any] = {
            "time": time.time(),
            "level": "info",
            "event": "access",
            "request_id": exchange.request_id.decode("ascii"),
            "method": exchange.request.method.decode("ascii"),
            "path": exchange.request.path.decode("latin-1"),
            "protocol": exchange.protocol,
            "client": exchange.client,
            "status": exchange.status,
            "end": exchange.end,
            "upstream": exchange.upstream,
            "attempts": exchange.attempts,
            "reused": exchange.reused,
            "bytes_up": exchange.bytes_up,
            "bytes_down": exchange.bytes_down,
            "first_byte_ms": None if first is None else _ms(first - exchange.started_at),
            "duration_ms": _ms(exchange.ended_at - exchange.started_at),
            "pauses": exchange.pauses,
            "paused_ms": _ms(exchange.paused_seconds),
            "full_writes": round(exchange.writes_full / exchange.writes, 4) if exchange.writes else 0.0,
        }
        if exchange.queued >= MOMENT:
            fields["queued_ms"] = _ms(exchange.queued)
        if exchange.account.traffic_class is BATCH:
            fields["class"] = BATCH
        fields |= _limits(exchange)
        if exchange.upstream_request_id is not None:
            fields["upstream_request_id"] = exchange.upstream_request_id.decode("ascii")
        fields |= _tokens(exchange)
        if exchange.error is not None:
            fields["error"] = exchange.error.message
        self._put(fields)

    def state_changed(self, request_id: bytes, before: str, now: str) -> None:
        """An exchange went on to another state."""
        self.write("debug", "state", request_id=request_id.decode("ascii"), before=before.lower(), now=now.lower())

    def refused(self, error: RelayError, protocol: str) -> None:
        """A request that never became an exchange."""
        self.write("info", "refused", protocol=protocol, status=error.status, end=error.end, error=error.message)

    def connection_refused(self, peer: str | None, why: str) -> None:
        """A connection that broke a rule before its first request."""
        self.write("info", "connection_refused", client=peer, error=f"The connection was closed: {why}.")

    @property
    def dropped(self) -> int:
        """Lines lost because the reader of the log was too slow, or gone."""
        return self._writer.dropped

    def dns_failed(self, host: str, reason: str, *, has_answer: bool) -> None:
        """A name is not resolved any more; written once until it is again. `has_answer`: the old answer is used."""
        self.write("warning", "dns_failed", host=host, reason=reason, old_answer=has_answer)

    def dns_recovered(self, host: str) -> None:
        self.write("info", "dns_recovered", host=host)

    def close(self) -> None:
        """Write what waits, for a second at most."""
        self._writer.close()

    def _put(self, fields: dict[str, Any]) -> None:
        if self._fields:
            fields |= self._fields
        self._writer.put(orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE))


def _limits(exchange: ExchangeRecord) -> dict[str, int]:
    """How long each party held the answer, of those that did."""
    return {f"{holder}_ms": ms for holder, seconds in exchange.limited.items() if (ms := round(seconds * 1000)) > 0}


def _tokens(exchange: ExchangeRecord) -> dict[str, Any]:
    """What is known of the tokens of an exchange: nothing where the API is not one that is counted."""
    account, tokens = exchange.account, exchange.tokens
    fields: dict[str, Any] = {}
    if account.tenant is not None:
        fields |= {"tenant": account.tenant, "user": account.user, "session": account.session}
    if account.dialect is None:
        return fields
    fields |= {"dialect": account.dialect, "model": account.model}
    if tokens is None:
        return fields
    usage, output = tokens.usage, account.output
    fields |= {
        "input_tokens": tokens.input,
        "output_tokens": output,
        "cached_tokens": usage.cached,
        "cache_written_tokens": usage.cache_written,
        "reasoning_tokens": usage.reasoning,
        "estimated": tokens.is_estimate,
        "finish": tokens.finish,
    }
    if tokens.uncounted:
        fields["uncounted"] = dict(tokens.uncounted)
    if tokens.is_disbelieved:
        fields["disbelieved_report"] = {"input_tokens": usage.input, "output_tokens": usage.output}
    if tokens.failure is not None:
        fields["failed"] = tokens.failure
    if exchange.first_token_at is not None and exchange.ended_at is not None:
        since = exchange.ended_at - exchange.first_token_at
        fields["first_token_ms"] = _ms(exchange.first_token_at - exchange.started_at)
        fields["tokens_per_second"] = round((output - 1) / since, 1) if since > 0 and output > 1 else None
    return fields


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
