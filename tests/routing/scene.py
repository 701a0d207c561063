"""A scene for tests of dispatchers: providers that a test speaks for, a clock, and an event loop's end of an event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowserver.errors import EndReason, Party, RelayError, upstream_error
from flowserver.http.messages import RequestHead, ResponseHead
from flowserver.quota.traffic_class import INTERACTIVE, TrafficClass
from flowserver.relay.account import Account
from flowserver.relay.interfaces import Clock, UpstreamEvents
from flowserver.routing.circuit_breaker import BreakerState, CircuitBreaker
from flowserver.routing.context import RetryPolicy
from flowserver.routing.dispatcher import Dispatcher
from flowserver.routing.provider_share import ProviderShare
from flowserver.routing.routes import FirstTokenPolicy, Route
from flowserver.routing.upstream_host import UpstreamHost

from ..support.clock import FakeClock
from ..support.later import Later
from ..support.recording import RecordingUpstream, RecordingUpstreamEvents, Uncounted, account, routing, target
from ..support.timers import FakeTimers

UNREACHABLE = upstream_error("connect_failed", "Not there.", EndReason.CONNECT_FAILED, not_processed=True)
REFUSED = upstream_error("upstream_failed", "Refused.", EndReason.UPSTREAM_FAILED, not_processed=True)
BROKEN = upstream_error("upstream_failed", "Broke off.", EndReason.UPSTREAM_FAILED)
NO_CONNECTION = RelayError(503, "no_capacity", "All in use.", Party.RELAY, EndReason.REFUSED, not_processed=True)
TIMEOUT = upstream_error("first_byte_timeout", "Silent.", EndReason.FIRST_BYTE_TIMEOUT, status=504)


class Stream(RecordingUpstream):
    """One request at a provider. What the provider does is told by these methods."""

    def __init__(self, events: UpstreamEvents, *, probes: int | None) -> None:
        super().__init__()
        self.events = events
        self.probes = probes
        """How often the breaker had opened when this began as a probe; None: it is none."""
        self.is_answered = False
        self.is_full = False
        self.is_over = False

    def cancel(self, error: RelayError | None = None) -> None:
        assert not self.is_over, "a stream is never cancelled twice, nor after its failure"
        self.is_over = True
        super().cancel(error)

    def answer(self, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
        self.is_answered = True
        self.events.on_upstream_head(ResponseHead(status, list(headers)))

    def fail(self, error: RelayError) -> None:
        self.is_over = True
        self.events.on_upstream_failed(error)

    def stop_upload(self, *, full: bool) -> None:
        self.is_full = full
        if full:
            self.events.on_upstream_full()
        else:
            self.events.on_upstream_drained()


class Provider:
    """A `Connector` whose streams a test speaks for."""

    def __init__(self, health: CircuitBreaker, clock: Clock) -> None:
        self.requests: list[RequestHead] = []
        self.streams: list[Stream] = []
        self._health = health
        self._clock = clock

    def open(self, request: RequestHead, events: UpstreamEvents) -> Stream:
        is_probe = self._health.state(self._clock()) is BreakerState.HALF_OPEN
        self.requests.append(request)
        self.streams.append(Stream(events, probes=self._health.opened if is_probe else None))
        return self.streams[-1]

    @property
    def under_way(self) -> list[Stream]:
        return [stream for stream in self.streams if not stream.is_over]


class Held(Uncounted):
    """An `UploadCount` that a test reads."""

    def __init__(self) -> None:
        self.held = 0
        self.upload_waits = False
        self.overdue = False

    def hold_upload(self, size: int, announced: int | None) -> None:
        self.held += size

    def end_upload(self) -> None:
        self.held = 0

    def upload_is_overdue(self, now: float) -> bool:
        return self.overdue


class Events(RecordingUpstreamEvents):
    """As the exchange does: the end and a failure cancel the dispatcher."""

    dispatcher: Dispatcher

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        """Names of the providers."""
        self.upload = Held()

    def on_provider(self, provider: UpstreamHost, now: float) -> None:
        self.asked.append(provider.name)

    def on_more_tokens(self) -> None:
        raise AssertionError("there are no limits here")

    def on_upstream_end(self) -> None:
        super().on_upstream_end()
        self.dispatcher.cancel()

    def on_upstream_failed(self, error: RelayError) -> None:
        super().on_upstream_failed(error)
        self.dispatcher.cancel(error)


class Scene:
    """Providers, and requests to them."""

    upload: Held
    """Of the last request."""
    account: Account
    """The same."""

    def __init__(
        self,
        *tiers: tuple[str, ...],
        attempts: int = 3,
        time: float = 10.0,
        replay: int = 100,
        unanswered: bool = True,
        failures: int = 5,
        routes: dict[str, tuple[str, ...]] | None = None,
        renames: dict[str, dict[str, str]] | None = None,
        shares: Mapping[str, ProviderShare] | None = None,
        clock: FakeClock | None = None,
        later: Later | None = None,
        first_token: FirstTokenPolicy | None = None,
        **settings: Any,
    ) -> None:
        """`routes` by the provider that serves them, `renames` by the provider that names models otherwise, `shares` by
        the provider that several scenes share."""
        self.clock = clock or FakeClock()
        self.later = later or Later()
        self.timers = FakeTimers(self.clock)
        self.providers: dict[str, Provider] = {}
        self.hosts: dict[str, UpstreamHost] = {}
        tiers = tiers or (("a",),)
        for name in (name for tier in tiers for name in tier):
            share = (shares or {}).get(name)
            health = share.health if share else CircuitBreaker(failures=failures, cooldown=10.0)
            self.providers[name] = Provider(health, self.clock)
            models = (renames or {}).get(name, {})
            self.hosts[name] = target(
                self.providers[name],
                name=name,
                health=health,
                later=self.later,
                clock=self.clock,
                places=share.places if share else None,
                models=models,
                **settings,
            )
        self.context = routing(
            *(tuple(self.hosts[name] for name in tier) for tier in tiers),
            clock=self.clock,
            policy=RetryPolicy(attempts, time, replay, unanswered),
            routes=[Route("*", models, ((self.hosts[name],),)) for name, models in routes.items()]
            if routes is not None
            else None,
            first_token=first_token,
            timers=self.timers,
        )

    def ask(
        self,
        body: bytes | None = None,
        *,
        whole: bool = True,
        path: str = "/v1/models",
        traffic_class: TrafficClass = INTERACTIVE,
    ) -> tuple[Dispatcher, Events]:
        """`path` is what the account goes by: no API that is counted."""
        events = Events()
        self.upload = events.upload
        request = RequestHead(b"POST", b"/v1/chat", [(b"host", b"relay")], has_body=body is not None)
        self.account = account(path)
        self.account.lower_class(traffic_class)
        events.dispatcher = dispatcher = Dispatcher(
            request, self.context, events, request_id=b"id-1", account=self.account, upload=events.upload
        )
        dispatcher.start()
        if body:
            dispatcher.send_data(body)
        if whole:
            dispatcher.send_end()
        return dispatcher, events

    def fail(self, name: str, error: RelayError) -> None:
        """The last request at the provider fails, and what follows from it is done."""
        self.providers[name].streams[-1].fail(error)
        self.later.run()

    def answer(self, name: str, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
        self.providers[name].streams[-1].answer(status, *headers)
        self.later.run()

    def show(self, name: str, data: bytes = b"content") -> None:
        """The last request at the provider gets body bytes: blanks are no content."""
        self.providers[name].streams[-1].events.on_upstream_data(data)
        self.later.run()

    def wait(self, seconds: float) -> None:
        """Time passes, and what follows from it is done."""
        self.timers.advance(seconds)
        self.later.run()

    def leave(self, dispatcher: Dispatcher) -> None:
        """The client leaves, and what follows from it is done."""
        dispatcher.cancel()
        self.later.run()

    def asked(self, name: str) -> int:
        return len(self.providers[name].requests)

    @property
    def open(self) -> int:
        return sum(each.open for each in self.hosts.values())
