"""The log: events, and a line for each exchange."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

from ..config.access_log import EVERY_EXCHANGE, AccessLog, Logged
from ..errors import Party, RelayError
from ..quota.money import usd_number
from ..quota.traffic_class import BATCH
from ..relay.limited_time import Holder
from ..relay.record import MOMENT, ExchangeRecord
from ..routing.overload import GIVE_WAY, OverloadChange
from .line_format import LineFormat, json_line
from .line_writer import LineWriter, ThreadWriter
from .sink import DescriptorSink, Sink, StreamSink

MOST_REFUSED = 10
"""Most lines a second about refused connections: anyone who can connect can cause any number of them."""

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Which lines are written, and how. `fields`: added to every line. `chance` returns numbers from 0 to below 1."""

    line_format: LineFormat = json_line
    access: AccessLog = EVERY_EXCHANGE
    fields: Mapping[str, Any] = field(default_factory=dict)
    chance: Callable[[], float] = random.random


class Log:
    """Writes a line for each event, to a sink or stream, else to standard output. `level` is the lowest level that is
    written; `log.level = ...` changes it while the relay runs."""

    def __init__(
        self,
        level: str,
        stream: BinaryIO | None = None,
        *,
        sink: Sink | None = None,
        writer: LineWriter | None = None,
        options: LogOptions = LogOptions(),
    ) -> None:
        """`writer`: used in place of a thread and `sink`."""
        self._level = level
        self._least = LEVELS[level]
        self._writer = writer or ThreadWriter(sink or (DescriptorSink(1) if stream is None else StreamSink(stream)))
        self._options = options
        self._second = 0
        self._refused = 0
        """Connections refused in this second."""
        self._unwritten = 0
        """How many of these, and of earlier ones, have no line."""

    @property
    def level(self) -> str:
        """The lowest level that is written."""
        return self._level

    @level.setter
    def level(self, level: str) -> None:
        self._level, self._least = level, LEVELS[level]

    def writes(self, level: str) -> bool:
        """Whether lines of this level are written."""
        return LEVELS[level] >= self._least

    def write(self, level: str, event: str, **fields: Any) -> None:
        if self.writes(level):
            self._put({"time": time.time(), "level": level, "event": event, **fields})

    def access(self, exchange: ExchangeRecord) -> None:
        """Write the line of an exchange, without queries, bodies and credentials."""
        error = exchange.error
        has_failed = exchange.status >= 500 or (error is not None and error.party is not _CLIENT)
        level = "warning" if has_failed else "info"  # clients' errors, and clients that leave, are normal
        if self._least > LEVELS[level] or not self._is_wanted(exchange):
            return
        assert exchange.ended_at is not None
        first = exchange.first_byte_at
        fields: dict[str, Any] = {
            "time": time.time(),
            "level": level,
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
        if exchange.tunnel_seconds is not None:
            fields["tunnel_ms"] = _ms(exchange.tunnel_seconds)
        if first is not None:
            limited = exchange.limited
            fields["slow"] = _PROVIDER if len(limited) == 1 else max(limited, key=limited.__getitem__)
        if exchange.queued >= MOMENT:
            fields["queued_ms"] = _ms(exchange.queued)
        if exchange.account.traffic_class is BATCH:
            fields["class"] = BATCH
        fields |= _limits(exchange)
        if exchange.upstream_request_id is not None:
            fields["upstream_request_id"] = exchange.upstream_request_id.decode("ascii")
        trace = exchange.account.trace
        if trace is not None and trace.is_sampled:
            fields["trace_id"] = trace.context.trace_id.hex()
        fields |= _tokens(exchange)
        if error is not None:
            fields["error"] = error.message
        self._put(fields)

    def _is_wanted(self, exchange: ExchangeRecord) -> bool:
        logged, share = self._options.access.logged, self._options.access.share
        if logged is Logged.ON:
            return True
        if logged is Logged.OFF:
            return False
        return exchange.error is not None or exchange.status >= 400 or (share > 0 and self._options.chance() < share)

    def state_changed(self, request_id: bytes, before: str, now: str) -> None:
        """An exchange changed its state."""
        self.write("debug", "state", request_id=request_id.decode("ascii"), before=before.lower(), now=now.lower())

    def refused(self, error: RelayError, protocol: str) -> None:
        """A request was refused before it became an exchange."""
        self.write("info", "refused", protocol=protocol, status=error.status, end=error.end, error=error.message)

    def connection_refused(self, peer: str | None, why: str) -> None:
        """A connection broke a rule before its first request. If there are many, only some are logged."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._refused = second, 0
        self._refused += 1
        if self._refused > MOST_REFUSED:
            self._unwritten += 1
            return
        fields: dict[str, Any] = {"client": peer, "error": f"The connection was closed: {why}."}
        if self._unwritten:
            fields["unwritten"] = self._unwritten
            self._unwritten = 0
        self.write("info", "connection_refused", **fields)

    @property
    def dropped(self) -> int:
        """Lines lost because the reader of the log was too slow, or gone."""
        return self._writer.dropped

    def dns_failed(self, host: str, reason: str, *, has_answer: bool) -> None:
        """A name can no longer be resolved; logged once until it can be again. `has_answer`: an old answer is used."""
        self.write("warning", "dns_failed", host=host, reason=reason, old_answer=has_answer)

    def dns_recovered(self, host: str) -> None:
        self.write("info", "dns_recovered", host=host)

    def overload_changed(self, change: OverloadChange) -> None:
        if change.begins:
            self.write("warning", "overloaded", delay_ms=_ms(change.delay))
        else:
            shares = {name: round(share, 3) for name, share in zip(GIVE_WAY, change.most, strict=True)}
            seconds = round(change.seconds, 3)
            self.write("warning", "overload_over", seconds=seconds, refused=change.refused, refused_at_most=shares)

    def close(self) -> None:
        """Write the remaining lines, for a second at most."""
        self._writer.close()

    def _put(self, fields: dict[str, Any]) -> None:
        options = self._options
        if options.fields:
            fields |= options.fields
        line_format = options.line_format
        self._writer.put(line_format(fields))


_CLIENT: Final = Party.CLIENT
_PROVIDER: Final = Holder.PROVIDER
_HOLDERS = {holder: f"{holder}_ms" for holder in Holder}


def _limits(exchange: ExchangeRecord) -> dict[str, int]:
    """How long each party held the answer up, without parties that did not."""
    return {_HOLDERS[holder]: ms for holder, seconds in exchange.limited.items() if (ms := round(seconds * 1000)) > 0}


def _tokens(exchange: ExchangeRecord) -> dict[str, Any]:
    """The token fields of an exchange: none if its API is not counted."""
    account, tokens = exchange.account, exchange.tokens
    fields: dict[str, Any] = {}
    if account.tenant is not None:
        fields |= {"tenant": account.tenant, "user": account.user, "session": account.session}
    if account.dialect is None:
        return fields if account.cost is None else fields | {"cost_usd": usd_number(account.cost)}
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
    if account.cost is not None:
        fields["cost_usd"] = usd_number(account.cost)
    elif tokens.is_unpriced:
        fields["cost_usd"] = None
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
    """Milliseconds, to the microsecond. Rounding to a whole number takes a third of the time of rounding to digits."""
    return round(seconds * 1e6) / 1000
