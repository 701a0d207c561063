"""One request on its way to a provider: which one is asked, again or another one, until an answer is passed on. No I/O.

To the exchange it is its upstream stream; to the stream of each attempt it is the exchange. Once an answer is committed
to, body bytes go past it: its `on_upstream_data` is the exchange's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import EndReason, Party, RelayError, bad_request
from ..http.messages import RequestHead, ResponseHead
from ..names import PATH_BYTES, bounded
from ..relay.account import Account
from ..relay.failures import busy, is_passing, is_unhealthy, retry_after
from ..relay.fast_path import FastPath
from ..relay.interfaces import Clock, UploadCount, UpstreamStream
from ..relay.request_body import BodyPieces
from ..relay.uploads import UNCOUNTED, UPLOADS_FULL
from .candidates import next_candidate, subjects, unavailable
from .dispatch_events import NOBODY, DispatchEvents
from .outgoing import outgoing_head
from .routes import Route, RouteTable
from .upstream_host import UpstreamHost

_REFUSALS = (400, 422)
"""Statuses that say: there is something in the request that should not be."""
UNWELL = frozenset((429, 502, 503, 504, 529))
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
    """What the dispatches of a process share."""

    routes: RouteTable
    policy: RetryPolicy
    clock: Clock
    random: Callable[[], float]
    pseudonym: bytes
    wall_clock: Clock = lambda: 0.0
    """Seconds since the epoch."""


class Dispatcher:
    """A `relay.ports.UpstreamStream` over one or more attempts."""

    __slots__ = (
        "_account",
        "_asks_plainly",
        "_attempt",
        "_attempt_full",
        "_begun_at",
        "_body",
        "_body_size",
        "_collecting",
        "_committed",
        "_context",
        "_ended",
        "_events",
        "_identified",
        "_paused",
        "_probing",
        "_queued_at",
        "_replayable",
        "_request",
        "_request_id",
        "_retry_at",
        "_reused",
        "_route",
        "_started_at",
        "_stopped",
        "_target",
        "_tried",
        "_upload",
        "_whole",
        "attempts",
        "on_upstream_data",
    )

    def __init__(
        self,
        request: RequestHead,
        request_id: bytes,
        context: RoutingContext,
        events: DispatchEvents,
        *,
        account: Account,
        upload: UploadCount = UNCOUNTED,
    ) -> None:
        """`upload` is told what is held here of a body that is not yet whole."""
        self._context = context
        self._account = account
        self._upload = upload
        self._request = request
        self._request_id = request_id
        self._identified = False
        """Whether it is known that the client may use this relay."""
        self._events = events
        self.on_upstream_data = events.on_upstream_data
        """Straight through: no bytes come before an answer is committed to."""
        self._route: Route | None = None
        self._target: UpstreamHost | None = None
        """Where a place is held."""
        self._attempt: UpstreamStream | None = None
        self._attempt_full = False
        """Whether the present attempt has stopped the upload."""
        self._stopped = False
        """Whether the upload is stopped, by an attempt or for want of one."""
        self._probing = False
        """Whether the present attempt is its target's probe."""
        self._reused = False
        """Whether the last attempt that is over had a kept connection."""
        self._tried: list[UpstreamHost] = []
        self.attempts = 0
        self._started_at = self._begun_at = context.clock()
        self._queued_at: float | None = None
        self._retry_at: float | None = None
        self._body = BodyPieces()
        self._body_size = 0
        self._replayable = True
        self._collecting = False
        """Whether nobody is asked before what matters of the body is there."""
        self._asks_plainly = False
        """Whether this attempt repeats one that may have been refused for what the relay had added."""
        self._whole = False
        self._paused = False
        self._committed = False
        self._ended = False

    # --- relay.ports.UpstreamStream --------------------------------------------------------------------------------

    def start(self) -> None:
        """Choose a provider, at once or when the body has told what is asked for."""
        wanted = self._context.routes.needs_model or self._account.wants_body
        if wanted:
            self._account.request.open()
        self._collecting = wanted and self._request.has_body
        if self._account.is_limited:
            self._account.identify(self._request, self._on_identified)
        else:
            self._on_identified(None)

    @property
    def upstream(self) -> str:
        return self._tried[-1].name if self._tried else "-"

    @property
    def drain_on_disconnect(self) -> bool:
        return self._committed and self._route is not None and self._route.drain_on_disconnect

    @property
    def reused(self) -> bool:
        return self._reused if self._attempt is None else self._attempt.reused

    def send_data(self, data: bytes) -> None:
        if self._ended:
            return
        self._body_size += len(data)
        if self._replayable and self._body_size > self._context.policy.replay:
            self._replayable = False  # too large to be sent twice
        error = self._account.request.feed(data)
        if error is not None:
            self._drop_attempt()
            self._fail(error)
        elif self._attempt is not None:
            if self._replayable and not self._committed:
                self._hold(data)
            if self._committed or not self._replayable or self._upload.upload_waits:
                self._replayable = False  # rather than to hold the client up for it
                self._forget_body()
            self._attempt.send_data(data)
        else:
            self._keep(data)

    def _keep(self, data: bytes) -> None:
        """More of the body, while nobody is asked yet."""
        self._hold(data)
        if self._collecting and self._account.request.is_known:
            self._collecting = False
            self._proceed()
        if not self._replayable and not self._collecting and self._attempt is None and not self._ended:
            self._stop_upload()

    def _hold(self, data: bytes) -> None:
        self._body.append(data)
        if self._body_size != self._request.content_length:  # the rest is to come
            self._upload.hold_upload(len(data))

    def _forget_body(self) -> None:
        self._body.clear()
        self._upload.end_upload()

    def send_end(self) -> None:
        if self._ended:
            return
        self._whole = True
        self._upload.end_upload()
        self._account.request.finish()
        if self._collecting:
            self._collecting = False
            self._proceed()
        elif self._attempt is not None:
            self._attempt.send_end()

    def cancel(self, error: RelayError | None = None) -> None:
        if self._ended:
            return
        self._ended = True
        self._forget_body()
        if self._queued_at is not None:
            self._tried[-1].leave(self)
        self._queued_at = self._retry_at = None
        self._drop_attempt(error)
        self._let_go()

    def pause_reading(self) -> None:
        self._paused = True
        if self._attempt is not None:
            self._attempt.pause_reading()

    def resume_reading(self) -> None:
        self._paused = False
        if self._attempt is not None:
            self._attempt.resume_reading()

    def sweep(self, now: float) -> None:
        """Waits that take their time: for room, for a place, for a provider to be ready again."""
        if self._upload.upload_is_overdue(now):
            self._fail(UPLOADS_FULL)
        elif self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            self._ask_if_well(self._tried[-1])
        elif self._queued_at is not None and now - self._queued_at >= self._tried[-1].settings.queue_timeout:
            self._give_up_waiting(self._tried[-1])

    # --- relay.target.Waiter ---------------------------------------------------------------------------------------

    def on_place(self) -> None:
        self._target = target = self._tried[-1]
        now = self._context.clock()
        if self._queued_at is not None:
            target.queued_seconds += now - self._queued_at
        self._queued_at = None
        if target.health.allows(now):
            self._begin(target)
        else:  # its breaker opened meanwhile
            self._leave_target(None)
            self._choose_again()

    def on_no_place(self) -> None:
        self._queued_at = None
        self._choose_again()

    # --- relay.ports.UpstreamEvents --------------------------------------------------------------------------------

    def on_upstream_interim(self, head: ResponseHead) -> None:
        self._events.on_upstream_interim(head)

    def on_upstream_head(self, head: ResponseHead) -> None:
        target = self._target
        assert target is not None
        target.note_limits(head.headers)
        target.health.succeeded()  # whatever it says, it answers
        if self._is_refused_for_usage(target, head):
            return
        if head.status not in UNWELL:
            if target.standing:
                target.standing.served(*self._subjects(target))
        else:
            after = self._note_refusal(target, head)
            again = self._again(after)
            if again is not None:
                self._drop_attempt()
                again()
                return
        self._committed = True
        self._probing = False
        self._forget_body()
        target.answers += 1
        target.head_seconds += self._context.clock() - self._begun_at
        self._events.on_upstream_head(head)

    def _is_refused_for_usage(self, target: UpstreamHost, head: ResponseHead) -> bool:
        """Whether the request is sent again, in the same place, without the question for a usage report, which this
        provider may not take."""
        option, model = target.usage_option, self._account.params.model
        asks_usage, success = self._account.asks_usage, head.status < 300
        if asks_usage and success:
            option.taken(model)
        elif self._asks_plainly and success:
            option.refused(model)
        may_repeat = asks_usage and head.status in _REFUSALS and self._replayable and not self._asks_plainly
        if not may_repeat or not option.may_be_refused(model):
            return False
        self._asks_plainly = True
        target.retries += 1
        self._cancel_attempt()
        self._begin(target)
        return True

    def fast_path(self) -> FastPath | None:
        return self._events.fast_path()

    def on_upstream_end(self) -> None:
        self._events.on_upstream_end()

    def on_upstream_failed(self, error: RelayError) -> None:
        if self._attempt is not None:
            self._reused = self._attempt.reused
        self._attempt = None
        self._leave_target(error)
        if not self._committed and self._may_repeat(error):
            again = self._again(0.0 if is_passing(error) else None)
            if again is not None:
                again()
                return
        self._fail(error)

    def on_upstream_full(self) -> None:
        self._attempt_full = True
        self._stop_upload()

    def on_upstream_drained(self) -> None:
        self._attempt_full = False
        self._resume_upload()

    # --- the upload ------------------------------------------------------------------------------------------------

    def _stop_upload(self) -> None:
        if not self._stopped:
            self._stopped = True
            self._events.on_upstream_full()

    def _resume_upload(self) -> None:
        if self._stopped and not self._ended:
            self._stopped = False
            self._events.on_upstream_drained()

    # --- may it start? ---------------------------------------------------------------------------------------------

    def _on_identified(self, error: RelayError | None) -> None:
        if error is not None:
            self._fail(error)
            return
        self._identified = True
        self._proceed()

    def _proceed(self) -> None:
        """When it is known whose request it is and what it asks for."""
        if not self._identified or self._collecting or self._ended:
            return
        error = self._account.request_error()
        if error is not None:
            self._fail(error)
        else:
            self._choose_route()

    def _on_permit(self, error: RelayError | None) -> None:
        if error is not None:
            self._fail(error)
        elif not self._ended:
            self._choose_again()

    # --- choosing --------------------------------------------------------------------------------------------------

    def _choose_route(self) -> None:
        path, model = self._request.path, self._account.params.model
        needs_none = model is None and not self._request.has_body
        self._route = self._context.routes.find(path, model, any_model=needs_none)
        if self._route is None:
            if (unread := self._account.request.unread) is not None:
                self._fail(unread)
                return
            named = f" for the model {model!r}" if model is not None else ""
            message = f"No route leads on from {bounded(path.decode('ascii'), PATH_BYTES)}{named}."
            self._fail(bad_request(message, status=404, code="no_route"))
            return
        if self._account.is_signed and (error := self._account.signature_error(self._route.targets)) is not None:
            self._fail(error)
            return
        self._account.bound(self._route.max_tokens)
        if self._account.request.unread is not None and (error := self._account.request_error()) is not None:
            self._fail(error)
            return
        if self._account.is_limited:
            self._account.request_permit(self._request, self._on_permit, self._events.on_more_tokens)
        else:
            self._choose_again()

    def _choose_again(self) -> None:
        """Where nobody else could serve, a provider is asked that has refused the like: its own status is worth more
        than one of the relay's."""
        target = self._candidate() or self._candidate(refused_too=True)
        if target is not None:
            self._ask(target)
        elif self._route is not None:
            self._fail(unavailable(self._route, self._context.clock()))

    def _ask_if_well(self, target: UpstreamHost) -> None:
        if target.health.allows(self._context.clock()):
            self._ask(target)
        else:
            self._choose_again()

    def _candidate(self, *, refused_too: bool = False) -> UpstreamHost | None:
        """The next provider in the order of fallback that may be asked; None when there is none. `refused_too`: also
        where this key or model was refused of late."""
        assert self._route is not None
        now = self._context.clock()

        def is_welcome(target: UpstreamHost) -> bool:
            if self._account.is_signed and self._account.signature_error((target,)) is not None:
                return False
            standing = target.standing
            return refused_too or not standing or standing.allows(now, *self._subjects(target))

        return next_candidate(self._route, self._tried, now=now, random=self._context.random, is_welcome=is_welcome)

    def _subjects(self, target: UpstreamHost) -> tuple[tuple[str, bytes], tuple[str, str | None]]:
        return subjects(target, self._request, self._account.params.model)

    def _ask(self, target: UpstreamHost) -> None:
        """Take a place at `target` or stand in its queue."""
        if target not in self._tried:
            if self._tried:
                target.fallbacks += 1
            self._tried.append(target)
        if target.take_place():
            self._target = target
            self._begin(target)
        elif target.wait(self):
            self._queued_at = self._context.clock()
        else:
            self._fail(busy("The provider has no free place and its queue is full."))

    def _begin(self, target: UpstreamHost) -> None:
        """One attempt: the request as this provider wants it."""
        self._begun_at = now = self._context.clock()
        target.started += 1
        self.attempts += 1
        self._probing = target.health.started(now)
        self._attempt_full = False
        self._events.on_target(target, now)
        request, body = self._prepare(target)
        self._attempt = attempt = target.connector.open(request, self)
        if self._paused:
            attempt.pause_reading()
        for data in body:
            attempt.send_data(data)
        body = ()  # the bytes are not to outlive the next lines
        if not self._replayable:
            self._forget_body()
        if not self._attempt_full:
            self._resume_upload()
        if self._whole and self._attempt is attempt:
            attempt.send_end()

    def _prepare(self, target: UpstreamHost) -> tuple[RequestHead, Sequence[bytes]]:
        """Head and what is there of the body, changed where this provider or the budget wants it otherwise."""
        request, body, longer = self._request, self._body.pieces, None
        repeatable = self._replayable and self._whole and not self._asks_plainly
        changed = self._account.ask(target, body, repeatable=repeatable)
        if changed is not None:
            body, longer = changed
        head = outgoing_head(
            request, target, self._account, request_id=self._request_id, pseudonym=self._context.pseudonym
        )
        if longer is not None:
            head.has_body = True
            head.content_length = self._length(body, longer)
        head.body_follows = bool(body)
        return head, body

    def _length(self, body: Sequence[bytes], longer: int) -> int | None:
        """Of a body that was changed, of which `body` is there; None: not known yet."""
        if self._whole:
            return sum(map(len, body))
        length = self._request.content_length
        return length + longer if length is not None else None

    # --- failing ---------------------------------------------------------------------------------------------------

    def _again(self, after: float | None) -> Callable[[], None] | None:
        """How to try again: at another provider, or in `after` seconds at the same (None: not there); None when the
        policy or the size of the body forbids it, or nobody is left."""
        policy, now = self._context.policy, self._context.clock()
        if not self._replayable or self._ended or self.attempts >= policy.attempts:
            return None
        if now - self._started_at >= policy.time:
            return None
        other = self._candidate()
        if other is not None:
            return lambda: self._ask(other)
        if after is None or now + after - self._started_at >= policy.time:
            return None
        same = self._tried[-1]
        same.retries += 1
        return lambda: self._ask_later(same, after)

    def _may_repeat(self, error: RelayError) -> bool:
        """Whether a failure before the answer leaves room for another attempt. A provider that may have begun with the
        request is not asked again, but another one may be: what the client's own library would do next."""
        return error.not_processed or (self._context.policy.unanswered and error.end is EndReason.UPSTREAM_FAILED)

    def _give_up_waiting(self, target: UpstreamHost) -> None:
        target.leave(self)
        self._queued_at = None
        other = self._candidate()
        if other is not None:
            self._ask(other)
        else:
            self._fail(busy(f"No place at the provider came free within {target.settings.queue_timeout:g} s."))

    def _ask_later(self, target: UpstreamHost, after: float) -> None:
        if after:
            self._retry_at = self._context.clock() + after
        else:
            self._ask_if_well(target)

    def _note_refusal(self, target: UpstreamHost, head: ResponseHead) -> float | None:
        """Account for a status that says: not now. Returns the seconds that the provider asks for, or None."""
        now = self._context.clock()
        after = retry_after(head, self._context.wall_clock)
        target.failures[f"status_{head.status}"] += 1
        key, model = self._subjects(target)
        if head.status == 429:
            target.standing.limited(now, key, after)
        else:
            target.standing.failed(now, model, after)
        return after

    def _drop_attempt(self, error: RelayError | None = None) -> None:
        self._cancel_attempt()
        self._leave_target(error)

    def _cancel_attempt(self) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            self._reused = attempt.reused
            attempt.cancel()

    def _leave_target(self, error: RelayError | None) -> None:
        """Give the place back. `error` is what the provider did; None when it did nothing wrong."""
        target, self._target = self._target, None
        if target is None:
            return
        probe, self._probing = self._probing, False
        if error is not None and error.party is Party.UPSTREAM:
            target.failures[error.end.value] += 1
        if error is not None and is_unhealthy(error):
            now = self._context.clock()
            target.health.failed(now, probe=probe, cause=error)
            if not target.health.allows(now):
                target.left_alone()
        else:
            target.health.abandoned(probe=probe)
        target.give_back()

    def _fail(self, error: RelayError) -> None:
        if not self._ended:
            self._ended = True
            self._forget_body()
            self._events.on_upstream_failed(error)
            self._let_go()

    def _let_go(self) -> None:
        """It is over, and the exchange, which holds it, is told nothing more: no cycle is left to be collected."""
        self._events = NOBODY
        self._upload = UNCOUNTED
        self.on_upstream_data = NOBODY.on_upstream_data
