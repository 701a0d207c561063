"""The span of one exchange, made from its record and its trace.

Names are those of OpenTelemetry's conventions for HTTP servers and for generative AI (semantic-conventions-genai 0.1.0)
if they exist, else they begin with `flow.`. Bodies, queries and credentials are not in it.
"""

from __future__ import annotations

from functools import lru_cache

from ..dialects.base import RequestParams
from ..errors import EndReason, Party
from ..names import PATH_BYTES, bounded
from ..quota.money import usd_number
from ..quota.traffic_class import BATCH, TrafficClass
from ..relay.limited_time import Holder
from ..relay.record import MOMENT, AccountRecord, ExchangeRecord, TokenRecord
from ..relay.request_trace import AttemptTrace, RequestTrace
from . import otlp
from .gen_ai import FETCH, OPERATIONS, provider_name
from .otlp import EVENT_ATTRIBUTE, SPAN_ATTRIBUTE, integer, real, text, true

MOST_EVENTS = 100
"""Most events of one span; further ones are only counted."""
AGENT_BYTES = 128

KEPT = 1024
"""Most groups of encoded attributes that are cached: most requests share them with others, and encoding one attribute
takes as long as looking up ten."""

Event = tuple[float, str, bytes]
"""Time in seconds of the exchange's clock, name, and attributes."""


def span(exchange: ExchangeRecord, trace: RequestTrace, *, epoch: float, scheme: str) -> bytes:
    """The span as a field of its scope. `epoch`: offset from the exchange's clock to seconds since the epoch. `scheme`:
    of clients' URLs."""
    assert exchange.ended_at is not None
    parent = trace.parent
    operation = _operation(exchange)
    fields = [
        otlp.ids(trace.context.trace_id, trace.context.span_id, parent and parent.span_id, trace.state),
        _name(operation, trace.asked_for.model) if operation is not None else otlp.name(_method(exchange)),
        otlp.SERVER,
        otlp.times(_nanoseconds(exchange.started_at + epoch), _nanoseconds(exchange.ended_at + epoch)),
    ]
    _add_http(fields, exchange, scheme)
    _add_relay(fields, exchange)
    if operation is not None:
        _add_gen_ai(fields, exchange, trace, operation)
    failure = _error_type(exchange)
    if failure is not None:
        fields.append(text(SPAN_ATTRIBUTE, "error.type", failure))
        if _is_failed(exchange):
            fields.append(otlp.failed(exchange.error.message if exchange.error is not None else ""))
    events = _events(exchange, trace)
    for at, name, attributes in events[:MOST_EVENTS]:
        fields.append(otlp.event(_nanoseconds(at + epoch), name, attributes))
    left_out = 2 * trace.pauses_left_out + len(events[MOST_EVENTS:])
    if left_out:
        fields.append(otlp.left_out_events(left_out))
    fields.append(otlp.flags(trace.context.flags, has_parent=parent is not None))
    return otlp.span(fields)


def _operation(exchange: ExchangeRecord) -> str | None:
    """The operation; None: the API is unknown."""
    dialect = exchange.account.dialect
    if dialect is None:
        return None
    return FETCH if exchange.request.method == b"GET" else OPERATIONS.get(dialect, "chat")


@lru_cache(maxsize=KEPT)
def _name(operation: str, model: str | None) -> bytes:
    return otlp.name(operation if model is None else f"{operation} {model}")


_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))


def _method(exchange: ExchangeRecord) -> str:
    """The method, from a fixed set, as spans are grouped by it."""
    method = exchange.request.method.decode("ascii")
    return method if method in _METHODS else "HTTP"


def _add_http(fields: list[bytes], exchange: ExchangeRecord, scheme: str) -> None:
    request = exchange.request
    version = "2" if exchange.protocol == "h2" else request.http_version.decode("ascii")
    path = bounded(request.path.decode("latin-1"), PATH_BYTES)
    agent = request.find(b"user-agent")
    agent_text = None if agent is None else agent[:AGENT_BYTES].decode("latin-1")
    fields.append(_request(_method(exchange), path, scheme, version, agent_text))
    fields.append(_outcome(exchange.status, exchange.end, exchange.client))
    fields.append(integer(SPAN_ATTRIBUTE, "http.request.body.size", exchange.bytes_up))
    fields.append(integer(SPAN_ATTRIBUTE, "http.response.body.size", exchange.bytes_down))


@lru_cache(maxsize=KEPT)
def _request(method: str, path: str, scheme: str, version: str, agent: str | None) -> bytes:
    return _texts(
        SPAN_ATTRIBUTE,
        ("http.request.method", "_OTHER" if method == "HTTP" else method),
        ("url.path", path),
        ("url.scheme", scheme),
        ("network.protocol.version", version),
        ("user_agent.original", agent),
    )


@lru_cache(maxsize=KEPT)
def _outcome(status: int, end: EndReason, client: str | None) -> bytes:
    status_code = integer(SPAN_ATTRIBUTE, "http.response.status_code", status) if status else b""
    return status_code + _texts(SPAN_ATTRIBUTE, ("flow.end", end.value), ("client.address", client))


def _add_relay(fields: list[bytes], exchange: ExchangeRecord) -> None:
    account, first = exchange.account, exchange.first_byte_at
    slow = None if first is None else max(exchange.limited, key=exchange.limited.__getitem__)
    fields.append(_service(exchange.upstream, exchange.attempts, slow, account.tenant, account.traffic_class))
    fields.append(text(SPAN_ATTRIBUTE, "flow.request_id", exchange.request_id.decode("ascii")))
    if exchange.upstream_request_id is not None:
        fields.append(text(SPAN_ATTRIBUTE, "flow.upstream_request_id", exchange.upstream_request_id.decode("ascii")))
    if exchange.queued >= MOMENT:
        fields.append(real(SPAN_ATTRIBUTE, "flow.queued_seconds", exchange.queued))
    if exchange.pauses:
        fields.append(integer(SPAN_ATTRIBUTE, "flow.pauses", exchange.pauses))
        fields.append(real(SPAN_ATTRIBUTE, "flow.paused_seconds", exchange.paused_seconds))
    if account.user is not None:
        fields.append(text(SPAN_ATTRIBUTE, "user.id", account.user))
    if account.session is not None:
        fields.append(text(SPAN_ATTRIBUTE, "gen_ai.conversation.id", account.session))


@lru_cache(maxsize=KEPT)
def _service(
    upstream: str | None, attempts: int, slow: Holder | None, tenant: str | None, traffic_class: TrafficClass
) -> bytes:
    tried = b"" if upstream is None else integer(SPAN_ATTRIBUTE, "flow.attempts", attempts)
    return tried + _texts(
        SPAN_ATTRIBUTE,
        ("flow.upstream", upstream),
        ("flow.slow", slow),
        ("flow.tenant", tenant),
        ("flow.class", BATCH if traffic_class is BATCH else None),
    )


def _add_gen_ai(fields: list[bytes], exchange: ExchangeRecord, trace: RequestTrace, operation: str) -> None:
    account, tokens, asked = exchange.account, exchange.tokens, trace.asked_for
    fields.append(_asked(operation, provider_name(_profile(trace), account.dialect or ""), asked))
    if tokens is None or not 200 <= exchange.status < 300:
        return
    fields.append(_answer(account.model, tokens.finish, tokens.is_estimate))
    first = exchange.first_token_at or exchange.first_byte_at
    if asked.stream and first is not None:
        fields.append(real(SPAN_ATTRIBUTE, "gen_ai.response.time_to_first_chunk", first - exchange.started_at))
    if operation != FETCH:
        _add_usage(fields, tokens, account)


@lru_cache(maxsize=KEPT)
def _asked(operation: str, provider: str, params: RequestParams) -> bytes:
    fields = [
        _texts(
            SPAN_ATTRIBUTE,
            ("gen_ai.operation.name", operation),
            ("gen_ai.provider.name", provider),
            ("gen_ai.request.model", params.model),
        )
    ]
    if params.stream:
        fields.append(true(SPAN_ATTRIBUTE, "gen_ai.request.stream"))
    if params.max_tokens is not None:
        fields.append(integer(SPAN_ATTRIBUTE, "gen_ai.request.max_tokens", params.max_tokens))
    if params.choices != 1:
        fields.append(integer(SPAN_ATTRIBUTE, "gen_ai.request.choice.count", params.choices))
    return b"".join(fields)


@lru_cache(maxsize=KEPT)
def _answer(model: str | None, finish: str | None, is_estimate: bool) -> bytes:
    reasons = b"" if finish is None else otlp.texts(SPAN_ATTRIBUTE, "gen_ai.response.finish_reasons", [finish])
    estimate = true(SPAN_ATTRIBUTE, "flow.estimated") if is_estimate else b""
    return _texts(SPAN_ATTRIBUTE, ("gen_ai.response.model", model)) + reasons + estimate


def _add_usage(fields: list[bytes], tokens: TokenRecord, account: AccountRecord) -> None:
    usage = tokens.usage
    fields.append(integer(SPAN_ATTRIBUTE, "gen_ai.usage.input_tokens", tokens.input))
    fields.append(integer(SPAN_ATTRIBUTE, "gen_ai.usage.output_tokens", account.output))
    if usage.cached:
        fields.append(integer(SPAN_ATTRIBUTE, "gen_ai.usage.cache_read.input_tokens", usage.cached))
    if usage.cache_written:
        fields.append(integer(SPAN_ATTRIBUTE, "gen_ai.usage.cache_write.input_tokens", usage.cache_written))
    if usage.reasoning:
        fields.append(integer(SPAN_ATTRIBUTE, "gen_ai.usage.reasoning.output_tokens", usage.reasoning))
    if account.cost is not None:
        fields.append(real(SPAN_ATTRIBUTE, "flow.cost_usd", usd_number(account.cost)))


def _texts(tag: int, *attributes: tuple[str, str | None]) -> bytes:
    """The attributes that have a value."""
    return b"".join([text(tag, name, value) for name, value in attributes if value is not None])


def _profile(trace: RequestTrace) -> str:
    """The profile of the provider whose answer was passed on, else of the last one tried."""
    chosen: AttemptTrace | None = None
    for attempt in trace.attempts:
        if chosen is None or not chosen.is_passed_on:
            chosen = attempt
    return "openai-compatible" if chosen is None else chosen.provider.settings.quirks.name


def _error_type(exchange: ExchangeRecord) -> str | None:
    """The error, from a fixed set; None: there was none."""
    if exchange.error is not None:
        return exchange.error.code
    if exchange.status >= 400:
        return str(exchange.status)
    if exchange.tokens is not None and exchange.tokens.failure is not None:
        return "error_in_answer"
    return exchange.end.value if exchange.end is EndReason.CLIENT_STALLED else None


def _is_failed(exchange: ExchangeRecord) -> bool:
    """Whether the relay or its provider failed. Client errors are not errors of a server's span."""
    error, tokens = exchange.error, exchange.tokens
    if exchange.status >= 500 or (error is not None and error.party is not Party.CLIENT):
        return True
    return tokens is not None and tokens.failure is not None


# --- events ----------------------------------------------------------------------------------------------------------


def _events(exchange: ExchangeRecord, trace: RequestTrace) -> list[Event]:
    """The events in order."""
    events = [_attempt(attempt, number) for number, attempt in enumerate(trace.attempts, 1)]
    if exchange.first_token_at is not None:
        events.append((exchange.first_token_at, "flow.first_token", b""))
    elif exchange.first_byte_at is not None:
        events.append((exchange.first_byte_at, "flow.first_byte", b""))
    for pause in trace.pauses:
        reason = text(EVENT_ATTRIBUTE, "flow.pause.reason", (pause.reason.name or "").lower())
        seconds = real(EVENT_ATTRIBUTE, "flow.pause.seconds", pause.until - pause.since)
        events.append((pause.since, "flow.paused", reason))
        events.append((pause.until, "flow.resumed", reason + seconds))
    if exchange.end is EndReason.BUDGET or exchange.end is EndReason.QUOTA:
        events.append(_cut(exchange, trace))
    if len(events) > 2:
        events.sort(key=_moment)
    return events


def _attempt(attempt: AttemptTrace, number: int) -> Event:
    over, settings = attempt.head_at or attempt.ended_at, attempt.provider.settings
    port = 0 if settings.url.socket else settings.url.port
    attributes = _try(settings.name, settings.url.place, port, number, attempt.status, attempt.outcome)
    if over is not None:
        attributes += real(EVENT_ATTRIBUTE, "flow.attempt.seconds", over - attempt.began_at)
    return attempt.began_at, "flow.hedge" if attempt.is_hedge else "flow.attempt", attributes


@lru_cache(maxsize=KEPT)
def _try(name: str, place: str, port: int, number: int, status: int | None, outcome: str) -> bytes:
    """An attempt's event. `port` 0: a Unix socket."""
    attributes = _texts(
        EVENT_ATTRIBUTE, ("flow.upstream", name), ("server.address", place), ("flow.attempt.outcome", outcome)
    )
    attributes += integer(EVENT_ATTRIBUTE, "flow.attempt.number", number)
    if port:
        attributes += integer(EVENT_ATTRIBUTE, "server.port", port)
    if status is not None:
        attributes += integer(EVENT_ATTRIBUTE, "http.response.status_code", status)
    return attributes


def _cut(exchange: ExchangeRecord, trace: RequestTrace) -> Event:
    """The event of the relay ending the answer, at which moment the provider was released."""
    assert exchange.ended_at is not None
    assert exchange.end is not None
    over = [attempt.ended_at for attempt in trace.attempts if attempt.is_passed_on and attempt.ended_at is not None]
    attributes = text(EVENT_ATTRIBUTE, "flow.cut.reason", exchange.end.value)
    attributes += integer(EVENT_ATTRIBUTE, "gen_ai.usage.output_tokens", exchange.account.output)
    return over[-1] if over else exchange.ended_at, "flow.cut", attributes


def _moment(event: Event) -> float:
    return event[0]


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
