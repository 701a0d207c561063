"""The span of one exchange, made of its record and of what its trace remembers.

Names are those of OpenTelemetry's conventions for HTTP servers and for generative AI (semantic-conventions-genai 0.1.0)
where they have some, else begin with `flow.`. Bodies, queries and credentials are not in it.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import EndReason, Party
from ..names import PATH_BYTES, bounded
from ..quota.traffic_class import BATCH
from ..relay.record import MOMENT, ExchangeRecord
from ..relay.request_trace import AttemptTrace, RequestTrace
from . import otlp
from .gen_ai import FETCH, OPERATIONS, provider_name
from .otlp import EVENT_ATTRIBUTE, SPAN_ATTRIBUTE, integer, real, repeated_text, text, true

MOST_EVENTS = 100
"""Of one span; further ones are counted."""
AGENT_BYTES = 128

Event = tuple[float, str, list[bytes]]
"""When it happened, in seconds of the exchange's clock, its name, and its attributes."""


def span(exchange: ExchangeRecord, trace: RequestTrace, *, epoch: float, scheme: str) -> bytes:
    """As a field of its scope. `epoch`: what to add to the exchange's clock for seconds since the epoch. `scheme`: by
    which clients connect."""
    assert exchange.ended_at is not None
    parent = trace.parent
    fields = [
        otlp.ids(trace.context.trace_id, trace.context.span_id, parent and parent.span_id, trace.state),
        otlp.name(_name(exchange, trace)),
        otlp.SERVER,
        otlp.times(_nanoseconds(exchange.started_at + epoch), _nanoseconds(exchange.ended_at + epoch)),
        *_http(exchange, scheme),
        *_relay(exchange),
        *_gen_ai(exchange, trace),
    ]
    failure = _error_type(exchange)
    if failure is not None:
        fields.append(repeated_text(SPAN_ATTRIBUTE, "error.type", failure))
        if _is_failed(exchange):
            fields.append(otlp.failed(exchange.error.message if exchange.error is not None else ""))
    events = sorted(_events(exchange, trace), key=_moment)
    for at, name, attributes in events[:MOST_EVENTS]:
        fields.append(otlp.event(_nanoseconds(at + epoch), name, attributes))
    left_out = 2 * trace.pauses_left_out + len(events[MOST_EVENTS:])
    if left_out:
        fields.append(otlp.left_out_events(left_out))
    fields.append(otlp.flags(trace.context.flags, has_parent=parent is not None))
    return otlp.span(fields)


def _name(exchange: ExchangeRecord, trace: RequestTrace) -> str:
    """Few names, as they are grouped by: an unknown path is none."""
    operation, model = _operation(exchange), trace.asked_for.model
    if operation is None:
        return _method(exchange)
    return operation if model is None else f"{operation} {model}"


def _operation(exchange: ExchangeRecord) -> str | None:
    """None: the request is to no API that is known."""
    dialect = exchange.account.dialect
    if dialect is None:
        return None
    return FETCH if exchange.request.method == b"GET" else OPERATIONS.get(dialect, "chat")


_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))


def _method(exchange: ExchangeRecord) -> str:
    method = exchange.request.method.decode("ascii")
    return method if method in _METHODS else "HTTP"


def _http(exchange: ExchangeRecord, scheme: str) -> Iterator[bytes]:
    request = exchange.request
    method = _method(exchange)
    yield repeated_text(SPAN_ATTRIBUTE, "http.request.method", method if method != "HTTP" else "_OTHER")
    yield repeated_text(SPAN_ATTRIBUTE, "url.path", bounded(request.path.decode("latin-1"), PATH_BYTES))
    yield repeated_text(SPAN_ATTRIBUTE, "url.scheme", scheme)
    version = "2" if exchange.protocol == "h2" else request.http_version.decode("ascii")
    yield repeated_text(SPAN_ATTRIBUTE, "network.protocol.version", version)
    if exchange.status:
        yield integer(SPAN_ATTRIBUTE, "http.response.status_code", exchange.status)
    if exchange.client is not None:
        yield repeated_text(SPAN_ATTRIBUTE, "client.address", exchange.client)
    agent = request.find(b"user-agent")
    if agent is not None:
        agent_text = agent[:AGENT_BYTES].decode("latin-1")
        yield repeated_text(SPAN_ATTRIBUTE, "user_agent.original", agent_text)
    yield integer(SPAN_ATTRIBUTE, "http.request.body.size", exchange.bytes_up)
    yield integer(SPAN_ATTRIBUTE, "http.response.body.size", exchange.bytes_down)


def _relay(exchange: ExchangeRecord) -> Iterator[bytes]:
    account = exchange.account
    yield text(SPAN_ATTRIBUTE, "flow.request_id", exchange.request_id.decode("ascii"))
    assert exchange.end is not None
    yield repeated_text(SPAN_ATTRIBUTE, "flow.end", exchange.end.value)
    if exchange.upstream is not None:
        yield repeated_text(SPAN_ATTRIBUTE, "flow.upstream", exchange.upstream)
        yield integer(SPAN_ATTRIBUTE, "flow.attempts", exchange.attempts)
    if exchange.upstream_request_id is not None:
        yield text(SPAN_ATTRIBUTE, "flow.upstream_request_id", exchange.upstream_request_id.decode("ascii"))
    if exchange.first_byte_at is not None:
        slow = max(exchange.limited, key=exchange.limited.__getitem__)
        yield repeated_text(SPAN_ATTRIBUTE, "flow.slow", slow.value)
    if exchange.queued >= MOMENT:
        yield real(SPAN_ATTRIBUTE, "flow.queued_seconds", exchange.queued)
    if exchange.pauses:
        yield integer(SPAN_ATTRIBUTE, "flow.pauses", exchange.pauses)
        yield real(SPAN_ATTRIBUTE, "flow.paused_seconds", exchange.paused_seconds)
    if account.tenant is not None:
        yield repeated_text(SPAN_ATTRIBUTE, "flow.tenant", account.tenant)
    if account.user is not None:
        yield repeated_text(SPAN_ATTRIBUTE, "user.id", account.user)
    if account.traffic_class is BATCH:
        yield repeated_text(SPAN_ATTRIBUTE, "flow.class", BATCH.value)


def _gen_ai(exchange: ExchangeRecord, trace: RequestTrace) -> Iterator[bytes]:
    operation, account = _operation(exchange), exchange.account
    if operation is None or account.dialect is None:
        return
    asked = trace.asked_for
    yield repeated_text(SPAN_ATTRIBUTE, "gen_ai.operation.name", operation)
    yield repeated_text(SPAN_ATTRIBUTE, "gen_ai.provider.name", provider_name(_profile(trace), account.dialect))
    if asked.model is not None:
        yield repeated_text(SPAN_ATTRIBUTE, "gen_ai.request.model", asked.model)
    if asked.stream:
        yield true(SPAN_ATTRIBUTE, "gen_ai.request.stream")
    if asked.max_tokens is not None:
        yield integer(SPAN_ATTRIBUTE, "gen_ai.request.max_tokens", asked.max_tokens)
    if asked.choices != 1:
        yield integer(SPAN_ATTRIBUTE, "gen_ai.request.choice.count", asked.choices)
    if account.session is not None:
        yield text(SPAN_ATTRIBUTE, "gen_ai.conversation.id", account.session)
    tokens = exchange.tokens
    if tokens is None or not 200 <= exchange.status < 300:
        return
    if account.model is not None:
        yield repeated_text(SPAN_ATTRIBUTE, "gen_ai.response.model", account.model)
    first = exchange.first_token_at or exchange.first_byte_at
    if asked.stream and first is not None:
        yield real(SPAN_ATTRIBUTE, "gen_ai.response.time_to_first_chunk", first - exchange.started_at)
    if tokens.finish is not None:
        yield otlp.texts(SPAN_ATTRIBUTE, "gen_ai.response.finish_reasons", [tokens.finish])
    if operation != FETCH:
        yield from _usage(exchange)


def _usage(exchange: ExchangeRecord) -> Iterator[bytes]:
    tokens = exchange.tokens
    assert tokens is not None
    yield integer(SPAN_ATTRIBUTE, "gen_ai.usage.input_tokens", tokens.input)
    yield integer(SPAN_ATTRIBUTE, "gen_ai.usage.output_tokens", exchange.account.output)
    usage = tokens.usage
    if usage.cached:
        yield integer(SPAN_ATTRIBUTE, "gen_ai.usage.cache_read.input_tokens", usage.cached)
    if usage.cache_written:
        yield integer(SPAN_ATTRIBUTE, "gen_ai.usage.cache_write.input_tokens", usage.cache_written)
    if usage.reasoning:
        yield integer(SPAN_ATTRIBUTE, "gen_ai.usage.reasoning.output_tokens", usage.reasoning)
    if tokens.is_estimate:
        yield true(SPAN_ATTRIBUTE, "flow.estimated")


def _profile(trace: RequestTrace) -> str:
    """Of the provider whose answer was passed on, else of the last one that was asked."""
    chosen: AttemptTrace | None = None
    for attempt in trace.attempts:
        if chosen is None or not chosen.is_passed_on:
            chosen = attempt
    return "openai-compatible" if chosen is None else chosen.provider.settings.quirks.name


def _error_type(exchange: ExchangeRecord) -> str | None:
    """A word of few. None: nothing went wrong."""
    if exchange.error is not None:
        return exchange.error.code
    if exchange.status >= 400:
        return str(exchange.status)
    if exchange.tokens is not None and exchange.tokens.failure is not None:
        return "error_in_answer"
    return exchange.end.value if exchange.end is EndReason.CLIENT_STALLED else None


def _is_failed(exchange: ExchangeRecord) -> bool:
    """Whether the relay or its provider failed. What clients do wrong is no error of a server's span."""
    error, tokens = exchange.error, exchange.tokens
    if exchange.status >= 500 or (error is not None and error.party is not Party.CLIENT):
        return True
    return tokens is not None and tokens.failure is not None


# --- events ----------------------------------------------------------------------------------------------------------


def _events(exchange: ExchangeRecord, trace: RequestTrace) -> Iterator[Event]:
    for number, attempt in enumerate(trace.attempts, 1):
        yield _attempt(attempt, number)
    if exchange.first_token_at is not None:
        yield exchange.first_token_at, "flow.first_token", []
    elif exchange.first_byte_at is not None:
        yield exchange.first_byte_at, "flow.first_byte", []
    for pause in trace.pauses:
        reason = repeated_text(EVENT_ATTRIBUTE, "flow.pause.reason", (pause.reason.name or "").lower())
        yield pause.since, "flow.paused", [reason]
        seconds = real(EVENT_ATTRIBUTE, "flow.pause.seconds", pause.until - pause.since)
        yield pause.until, "flow.resumed", [reason, seconds]
    if exchange.end is EndReason.BUDGET or exchange.end is EndReason.QUOTA:
        yield _cut(exchange, trace)


def _attempt(attempt: AttemptTrace, number: int) -> Event:
    provider = attempt.provider
    attributes = [
        integer(EVENT_ATTRIBUTE, "flow.attempt.number", number),
        repeated_text(EVENT_ATTRIBUTE, "flow.upstream", provider.name),
        repeated_text(EVENT_ATTRIBUTE, "server.address", provider.settings.url.place),
        repeated_text(EVENT_ATTRIBUTE, "flow.attempt.outcome", attempt.outcome),
    ]
    if not provider.settings.url.socket:
        attributes.append(integer(EVENT_ATTRIBUTE, "server.port", provider.settings.url.port))
    if attempt.status is not None:
        attributes.append(integer(EVENT_ATTRIBUTE, "http.response.status_code", attempt.status))
    over = attempt.head_at or attempt.ended_at
    if over is not None:
        attributes.append(real(EVENT_ATTRIBUTE, "flow.attempt.seconds", over - attempt.began_at))
    return attempt.began_at, "flow.hedge" if attempt.is_hedge else "flow.attempt", attributes


def _cut(exchange: ExchangeRecord, trace: RequestTrace) -> Event:
    """The relay ended the answer: the provider was let go of at that moment."""
    assert exchange.ended_at is not None
    assert exchange.end is not None
    over = [attempt.ended_at for attempt in trace.attempts if attempt.is_passed_on and attempt.ended_at is not None]
    attributes = [
        repeated_text(EVENT_ATTRIBUTE, "flow.cut.reason", exchange.end.value),
        integer(EVENT_ATTRIBUTE, "gen_ai.usage.output_tokens", exchange.account.output),
    ]
    return over[-1] if over else exchange.ended_at, "flow.cut", attributes


def _moment(event: Event) -> float:
    return event[0]


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
