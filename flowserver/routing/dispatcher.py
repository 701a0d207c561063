"""Which provider serves a request, and when to give up: attempts at providers until an answer is passed on. No I/O.

To the exchange the `Dispatcher` is its upstream stream. Each `Attempt` tells it how the request went at one provider.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import cast

from ..errors import EndReason, RelayError, bad_request
from ..flow.drain_rate import DrainRate
from ..http.messages import RequestHead, ResponseHead
from ..names import PATH_BYTES, bounded
from ..relay.account import Account
from ..relay.failures import busy, is_passing, retry_after
from ..relay.interfaces import Clock, UploadCount
from ..relay.uploads import UNCOUNTED, UPLOADS_FULL
from .adaptive_places import is_overload, kind_of
from .attempt import Attempt
from .candidates import next_candidate, subjects, unavailable
from .dispatch_events import NOBODY, DispatchEvents
from .outgoing import outgoing_head
from .replay_buffer import ReplayBuffer
from .routes import Route, RouteTable
from .upstream_host import UpstreamHost

_REFUSALS = (400, 422)
"""Statuses that say: there is something in the request that should not be."""
UNHEALTHY = frozenset((429, 502, 503, 504, 529))
"""Statuses that say: not now. Another provider is asked, if there is one."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`attempts` for one request, within `time` seconds of its start; bodies up to `replay` bytes can be sent again.

    `unanswered`: another provider is asked also when one broke off that may have begun with the request."""

    attempts: int
    time: float
    replay: int
    unanswered: bool


@dataclass(frozen=True, slots=True)
class RoutingContext:
    """What the dispatchers of a process share."""

    routes: RouteTable
    policy: RetryPolicy
    clock: Clock
    random: Callable[[], float]
    pseudonym: bytes
    wall_clock: Clock = lambda: 0.0
    """Seconds since the epoch."""


class DispatchState(Enum):
    PREPARING = "preparing"
    """It is not known yet whose request it is, what it asks for, or whether its limits admit it."""
    QUEUED = "queued"
    """Waits for a place at the host tried last."""
    BACKING_OFF = "backing off"
    """Waits before it asks the host tried last again."""
    ASKING = "asking"
    """An attempt is under way, and another one may follow."""
    ANSWERED = "answered"
    """The attempt's answer is passed on."""
    ENDED = "ended"


_ASKING, _ANSWERED, _ENDED = DispatchState.ASKING, DispatchState.ANSWERED, DispatchState.ENDED
"""Python 3.11 takes 75 ns to look up a member of an enumeration."""


class Dispatcher:
    """A `relay.interfaces.RoutedStream` over one or more attempts."""

    __slots__ = (
        "_account",
        "_asked",
        "_attempt",
        "_context",
        "_events",
        "_is_collecting",
        "_is_identified",
        "_is_paused",
        "_is_upload_stopped",
        "_omits_usage_option",
        "_queued_at",
        "_replay",
        "_request",
        "_request_id",
        "_retry_at",
        "_route",
        "_started_at",
        "_tried",
        "_upload",
        "_was_reused",
        "attempts",
        "state",
        "times_content",
    )

    def __init__(
        self,
        request: RequestHead,
        context: RoutingContext,
        events: DispatchEvents,
        *,
        request_id: bytes,
        account: Account,
        upload: UploadCount = UNCOUNTED,
    ) -> None:
        """`upload` counts what is held here of a body that is not yet whole."""
        self._context = context
        self._account = account
        self._upload = upload
        self._request = request
        self._request_id = request_id
        self._events = events
        self._route: Route | None = None
        self._replay = ReplayBuffer(context.policy.replay, request.content_length, upload)
        self._attempt: Attempt | None = None
        """The one under way."""
        self._tried: list[UpstreamHost] = []
        self._asked: UpstreamHost | None = None
        """Who was asked last."""
        """The hosts asked so far, the present one last."""
        self.attempts = 0
        self.state = DispatchState.PREPARING
        self.times_content = False
        """Whether the answer's first content is to be told of."""
        self._is_identified = False
        """Whether the client is known to be allowed to use this relay."""
        self._is_collecting = False
        """Whether the body has yet to tell what the request asks for."""
        self._is_upload_stopped = False
        """By an attempt, or for lack of one."""
        self._is_paused = False
        """Whether the exchange has stopped the answer."""
        self._was_reused = False
        """Whether the last attempt that is over had a kept connection."""
        self._omits_usage_option = False
        """Whether the attempt repeats one that may have been refused for the option that the relay had added."""
        self._started_at = context.clock()
        self._queued_at = 0.0
        """Since when it is queued."""
        self._retry_at = 0.0
        """When backing off ends."""

    def __repr__(self) -> str:
        return f"<Dispatcher {self.state.value}: {self._attempt or self.upstream}, {self.attempts} attempts>"

    # --- relay.interfaces.RoutedStream ------------------------------------------------------------------------------

    def start(self) -> None:
        """Choose a provider, at once or when the body has told what is asked for."""
        reads_body = self._context.routes.needs_model or self._account.wants_body
        if reads_body:
            self._account.request.open()
        self._is_collecting = reads_body and self._request.has_body
        if self._account.is_limited:
            self._account.identify(self._request, self._on_identified)
        else:
            self._on_identified(None)

    @property
    def upstream(self) -> str:
        return self._tried[-1].name if self._tried else "-"

    @property
    def drain_on_disconnect(self) -> bool:
        return self.state is _ANSWERED and self._route is not None and self._route.drain_on_disconnect

    @property
    def reused(self) -> bool:
        return self._was_reused if self._attempt is None else self._attempt.reused

    def send_data(self, data: bytes) -> None:
        if self.state is _ENDED:
            return
        error = self._account.request.feed(data)
        if error is not None:
            self._fail(error)
        elif self._attempt is not None:
            self._replay.copy(data)
            self._attempt.send_data(data)
        else:
            self._hold(data)

    def _hold(self, data: bytes) -> None:
        """More of the body, while no provider is asked yet."""
        self._replay.hold(data)
        if self._is_collecting and self._account.request.is_known:
            self._is_collecting = False
            self._proceed()
        if self._is_collecting or self._replay.is_replayable:
            return
        if self._attempt is None and self.state is not _ENDED:
            self._stop_upload()

    def send_end(self) -> None:
        if self.state is _ENDED:
            return
        self._replay.finish()
        self._account.request.finish()
        if self._is_collecting:
            self._is_collecting = False
            self._proceed()
        elif self._attempt is not None:
            self._attempt.send_end()

    def cancel(self, error: RelayError | None = None) -> None:
        if self.state is not _ENDED:
            self._end(error)

    def pause_reading(self) -> None:
        self._is_paused = True
        if self._attempt is not None:
            self._attempt.pause_reading()

    def resume_reading(self) -> None:
        self._is_paused = False
        if self._attempt is not None:
            self._attempt.resume_reading()

    def keep_pace(self, pace: DrainRate) -> None:
        if self._attempt is not None:
            self._attempt.keep_pace(pace)

    def sweep(self, now: float) -> None:
        """Look at the waits: for memory, for a place, for a provider to be ready again."""
        state = self.state
        if self._upload.upload_is_overdue(now):
            self._fail(UPLOADS_FULL)
        elif state is DispatchState.BACKING_OFF and now >= self._retry_at:
            self._ask_if_healthy(self._tried[-1])
        elif state is DispatchState.QUEUED and now - self._queued_at >= self._tried[-1].settings.queue_timeout:
            self._give_up_waiting(self._tried[-1])

    def on_first_content(self) -> None:
        self.times_content = False
        attempt = self._attempt
        if attempt is not None and attempt.host.adaptive is not None:
            now, size = self._context.clock(), self._request.content_length or 0
            kind = kind_of(self._account, size, reused=attempt.reused)
            attempt.host.adaptive.first_token(now, kind, now - attempt.asked_at)

    # --- places.Waiter ----------------------------------------------------------------------------------------------

    def on_place(self) -> None:
        host, now = self._tried[-1], self._context.clock()
        host.queued_seconds += now - self._queued_at
        if host.health.admits(now):
            self._begin(host)
        else:  # its breaker opened meanwhile
            host.places.release()
            self._choose_host()

    def on_no_place(self) -> None:
        self._choose_host()

    def on_busy(self) -> None:
        """Choose again, now that this host is known to be full: another one may have a free place."""
        self._tried.pop()
        self._choose_host()

    # --- attempt.AttemptOwner ---------------------------------------------------------------------------------------

    def on_attempt_head(self, attempt: Attempt, head: ResponseHead) -> None:
        host = attempt.host
        if self._is_refused_for_usage(host, head):
            self._repeat_without_usage(attempt)
            return
        if head.status in UNHEALTHY:
            retry = self._next_attempt(self._note_refusal(host, head))
            if retry is not None:
                self._cancel_attempt()
                self._retry(*retry)
                return
        elif host.cooldowns:
            host.cooldowns.served(*self._subjects(host))
        self.state = _ANSWERED
        self.times_content = host.adaptive is not None and head.status < 300
        self._replay.release()
        attempt.accept()
        self._events.on_upstream_head(head)

    def on_attempt_failed(self, attempt: Attempt, error: RelayError) -> None:
        self._was_reused = attempt.reused
        self._attempt = None
        if self.state is _ASKING and self._may_repeat(error):
            retry = self._next_attempt(0.0 if is_passing(error) else None)
            if retry is not None:
                self._retry(*retry)
                return
        self._fail(error)

    def on_attempt_full(self) -> None:
        self._stop_upload()

    def on_attempt_drained(self) -> None:
        self._resume_upload()

    def _is_refused_for_usage(self, host: UpstreamHost, head: ResponseHead) -> bool:
        """Whether this provider may have refused the option that asks it for a usage report; notes what is certain."""
        option, model = host.usage_option, self._account.params.model
        asks_usage, success = self._account.asks_usage, head.status < 300
        if asks_usage and success:
            option.accepted(model)
        elif self._omits_usage_option and success:
            option.refused(model)
        may_repeat = (
            asks_usage and head.status in _REFUSALS and self._replay.is_replayable and not self._omits_usage_option
        )
        return may_repeat and option.may_be_refused(model)

    def _repeat_without_usage(self, attempt: Attempt) -> None:
        """Send the request again in the same place, without that option."""
        self._omits_usage_option = True
        attempt.host.retries += 1
        attempt.cancel_request()
        self._begin(attempt.host)

    # --- the upload -------------------------------------------------------------------------------------------------

    def _stop_upload(self) -> None:
        if not self._is_upload_stopped:
            self._is_upload_stopped = True
            self._events.on_upstream_full()

    def _resume_upload(self) -> None:
        if self._is_upload_stopped:
            self._is_upload_stopped = False
            self._events.on_upstream_drained()

    # --- may it start? ----------------------------------------------------------------------------------------------

    def _on_identified(self, error: RelayError | None) -> None:
        if error is not None:
            self._fail(error)
            return
        self._is_identified = True
        self._proceed()

    def _proceed(self) -> None:
        """Choose a route, once it is known whose request it is and what it asks for."""
        if not self._is_identified or self._is_collecting or self.state is _ENDED:
            return
        error = self._account.request_error()
        if error is not None:
            self._fail(error)
        else:
            self._choose_route()

    def _choose_route(self) -> None:
        path, model = self._request.path, self._account.params.model
        needs_none = model is None and not self._request.has_body
        self._route = route = self._context.routes.find(path, model, any_model=needs_none)
        error = self._no_route() if route is None else self._route_error(route)
        if error is not None:
            self._fail(error)
        elif self._account.is_limited:
            self._account.request_permit(self._request, self._on_admitted, self._events.on_more_tokens)
        else:
            self._choose_host()

    def _no_route(self) -> RelayError:
        if (unread := self._account.request.unread) is not None:
            return unread
        model = self._account.params.model
        named = f" for the model {model!r}" if model is not None else ""
        path = bounded(self._request.path.decode("ascii"), PATH_BYTES)
        return bad_request(f"No route leads on from {path}{named}.", status=404, code="no_route")

    def _route_error(self, route: Route) -> RelayError | None:
        """Why none of the route's providers may get the request."""
        account = self._account
        if account.is_signed and (error := account.signature_error(route.hosts)) is not None:
            return error
        account.bound(route.max_tokens)
        account.lower_class(route.traffic_class)
        return account.request_error() if account.request.unread is not None else None

    def _on_admitted(self, error: RelayError | None) -> None:
        if error is not None:
            self._fail(error)
        elif self.state is not _ENDED:
            self._choose_host()

    # --- choosing ---------------------------------------------------------------------------------------------------

    def _choose_host(self) -> None:
        """Where nobody else could serve, a provider is asked that has refused the like: its own status is worth more
        than one of the relay's."""
        host = self._candidate() or self._candidate(refused_too=True)
        if host is not None:
            self._ask(host)
        elif self._route is not None:
            self._fail(unavailable(self._route, self._context.clock()))

    def _candidate(self, *, refused_too: bool = False) -> UpstreamHost | None:
        """The next provider in the order of fallback that may be asked; None when there is none. `refused_too`: also
        where this key or model was refused of late."""
        assert self._route is not None
        now = self._context.clock()

        def is_welcome(host: UpstreamHost) -> bool:
            if self._account.is_signed and self._account.signature_error((host,)) is not None:
                return False
            cooldowns = host.cooldowns
            return refused_too or not cooldowns or cooldowns.allows(now, *self._subjects(host))

        return next_candidate(self._route, self._tried, now=now, random=self._context.random, is_welcome=is_welcome)

    def _subjects(self, host: UpstreamHost) -> tuple[tuple[str, bytes], tuple[str, str | None]]:
        return subjects(host, self._request, self._account.params.model)

    def _ask_if_healthy(self, host: UpstreamHost) -> None:
        if host.health.allows(self._context.clock()):
            self._ask(host)
        else:
            self._choose_host()

    def _ask(self, host: UpstreamHost) -> None:
        """Reserve a place at `host` or join its queue."""
        if host not in self._tried:
            self._tried.append(host)
        if host.places.reserve():
            self._begin(host)
        elif host.places.wait(self):
            self.state = DispatchState.QUEUED
            self._queued_at = self._context.clock()
        else:
            self._fail(busy("The provider has no free place and its queue is full."))

    def _give_up_waiting(self, host: UpstreamHost) -> None:
        host.places.leave(self)
        other = self._candidate()
        if other is not None:
            self._ask(other)
        else:
            self._fail(busy(f"No place at the provider came free within {host.settings.queue_timeout:g} s."))

    # --- one attempt ------------------------------------------------------------------------------------------------

    def _begin(self, host: UpstreamHost) -> None:
        """Start an attempt in the place that is reserved at `host`."""
        self.state = _ASKING
        self.attempts += 1
        if host is not self._asked:
            self._asked = host
            host.fallbacks += len(self._tried) > 1
        attempt = Attempt(host, owner=self, events=self._events, clock=self._context.clock)
        self._attempt = cast("Attempt | None", attempt)  # what follows may end it
        self._events.on_provider(host, attempt.began_at)
        request, body = self._prepare(host)
        attempt.open(request)
        if self._is_paused:
            attempt.pause_reading()
        if body:
            for data in body:
                attempt.send_data(data)
            body = ()  # the bytes are not to outlive the next lines
            self._replay.taken()
        if self._is_upload_stopped and not attempt.is_full:
            self._resume_upload()
        if self._replay.is_whole and self._attempt is attempt:
            attempt.send_end()

    def _prepare(self, host: UpstreamHost) -> tuple[RequestHead, Sequence[bytes]]:
        """The head, and the body as far as it came, changed where this provider or the budget requires it."""
        replay, body, longer = self._replay, self._replay.pieces, None
        repeatable = replay.is_replayable and replay.is_whole and not self._omits_usage_option
        changed = self._account.ask(host, body, repeatable=repeatable)
        if changed is not None:
            body, longer = changed
        head = outgoing_head(
            self._request, host, self._account, request_id=self._request_id, pseudonym=self._context.pseudonym
        )
        if longer is not None:
            head.has_body = True
            head.content_length = self._length(body, longer)
        head.body_follows = bool(body)
        head.awaits_whole = self._account.awaits_whole
        return head, body

    def _length(self, body: Sequence[bytes], longer: int) -> int | None:
        """Of a body that was changed, of which `body` is there; None: not known yet."""
        if self._replay.is_whole:
            return sum(map(len, body))
        length = self._request.content_length
        return length + longer if length is not None else None

    # --- another attempt --------------------------------------------------------------------------------------------

    def _next_attempt(self, after: float | None) -> tuple[UpstreamHost, float] | None:
        """Whom to ask next, and in how many seconds: another provider, or the same one in `after` seconds (None: not
        that one). None when the policy or the size of the body forbids another attempt, or no provider is left."""
        policy, now = self._context.policy, self._context.clock()
        if not self._replay.is_replayable or self.attempts >= policy.attempts or now - self._started_at >= policy.time:
            return None
        other = self._candidate()
        if other is not None:
            return other, 0.0
        if after is None or now + after - self._started_at >= policy.time:
            return None
        same = self._tried[-1]
        same.retries += 1
        return same, after

    def _retry(self, host: UpstreamHost, after: float) -> None:
        if after:
            self.state = DispatchState.BACKING_OFF
            self._retry_at = self._context.clock() + after
        else:
            self._ask_if_healthy(host)

    def _may_repeat(self, error: RelayError) -> bool:
        """Whether a failure before the answer leaves room for another attempt. A provider that may have begun with the
        request is not asked again, but another one may be: what the client's own library would do next."""
        return error.not_processed or (self._context.policy.unanswered and error.end is EndReason.UPSTREAM_FAILED)

    def _note_refusal(self, host: UpstreamHost, head: ResponseHead) -> float | None:
        """Account for a status that says: not now. Returns the seconds that the provider asks for, or None."""
        now = self._context.clock()
        after = retry_after(head, self._context.wall_clock)
        host.failures[f"status_{head.status}"] += 1
        key, model = self._subjects(host)
        if head.status == 429:
            host.cooldowns.limited(now, key, after)
        else:
            host.cooldowns.failed(now, model, after)
        if host.adaptive is not None and is_overload(host, head, after, self._account.input):
            assert self._attempt is not None
            host.adaptive.refused(now, self._attempt.began_at)
        return after

    # --- its end ----------------------------------------------------------------------------------------------------

    def _cancel_attempt(self, error: RelayError | None = None) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.cancel(error)
            self._was_reused = attempt.reused

    def _fail(self, error: RelayError) -> None:
        if self.state is not _ENDED:
            events = self._events
            self._end(None)
            events.on_upstream_failed(error)

    def _end(self, error: RelayError | None) -> None:
        """Drop all that is under way. No reference leads back to the exchange, which holds this: no cycle is left for
        the garbage collector. `error` is what the provider did wrong; None: nothing."""
        if self.state is DispatchState.QUEUED:
            self._tried[-1].places.leave(self)
        self.state = _ENDED
        self._replay.release()
        self._cancel_attempt(error)
        self._events = NOBODY
        self._upload = UNCOUNTED
