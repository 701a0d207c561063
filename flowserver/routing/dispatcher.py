"""Makes attempts at providers until an answer is passed on, or gives up. No I/O.

The `Dispatcher` is the exchange's upstream stream. Each `Attempt` reports to it how the request went at one provider.
"""

from __future__ import annotations

from typing import Final, cast

from ..errors import FAULT, NO_WEBSOCKET, EndReason, RelayError
from ..flow.drain_rate import DrainRate
from ..http.messages import RequestHead, ResponseHead
from ..quota.traffic_class import BATCH
from ..relay.account import Account
from ..relay.failures import is_passing
from ..relay.interfaces import UploadCount, UpstreamEvents
from ..relay.uploads import UNCOUNTED, UPLOADS_FULL
from .adaptive_places import is_overload, note_first_content
from .attempt import Attempt, AttemptOwner
from .claim import Claim, LoneClaim
from .context import DispatchState, RoutingContext
from .dispatch_events import NOBODY, DispatchEvents
from .first_token import FirstToken, Hedge
from .hedge_budget import HedgeBudget
from .host_choice import HostChoice
from .outgoing import outgoing_request
from .overload import LARGE
from .refusals import REFUSALS, UNHEALTHY, no_route, note_refusal
from .replay_buffer import ReplayBuffer, ReplayState
from .routes import FirstTokenPolicy, Route
from .upstream_host import ExtraAttempt, UpstreamHost
from .withheld_answer import WithheldAnswer

_ASKING: Final = DispatchState.ASKING
_ANSWERED: Final = DispatchState.ANSWERED
_ENDED: Final = DispatchState.ENDED
_RELEASED: Final = ReplayState.RELEASED
"""Python 3.11 takes 75 ns to look up an enum member."""


class Dispatcher(HostChoice):
    """A `relay.interfaces.RoutedStream` over one or more attempts, and a `flow.turns.Turn`."""

    __slots__ = (
        "_asked",
        "_attempt",
        "_events",
        "_first_token",
        "_is_collecting",
        "_is_identified",
        "_is_paused",
        "_is_upload_stopped",
        "_omits_usage_option",
        "_replay",
        "_request_id",
        "_retry_at",
        "_started_at",
        "_uncounted",
        "_upload",
        "_was_reused",
        "attempts",
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
        """`upload` counts what is held here of an incomplete body."""
        super().__init__(request, context, account)
        self._upload = upload
        self._request_id = request_id
        self._events = events
        self._replay = ReplayBuffer(context.policy.replay, request.content_length, upload)
        self._attempt: Attempt | None = None
        """The attempt under way; with a hedge, the first of the two."""
        self._first_token: FirstToken | None = None
        """None: the route has no such policy, or the first token has come."""
        self._uncounted: HedgeBudget | None = None
        """The budget for hedges to which the request's tokens are added once they are known; None: there is none."""
        self._asked: UpstreamHost | None = None
        """The host of the last attempt."""
        self.attempts = 0
        self.times_content = False
        """Whether the exchange must report the answer's first content."""
        self._is_identified = False
        """Whether the client is identified and allowed to use this relay."""
        self._is_collecting = False
        """Whether the body must still be read to know what the request asks for."""
        self._is_upload_stopped = False
        """Stopped by an attempt, or because there is none."""
        self._is_paused = False
        """Whether the exchange has stopped the answer."""
        self._was_reused = False
        """Whether the last finished attempt used a kept connection."""
        self._omits_usage_option = False
        """Whether the attempt repeats one that may have been refused because of the option that the relay added."""
        self._started_at = context.clock()
        """The start of FLOW_RETRY_TIME."""
        self._retry_at = 0.0
        """When the back-off ends."""

    def __repr__(self) -> str:
        return f"<Dispatcher {self.state.value}: {self._attempt or self.upstream}, {self.attempts} attempts>"

    # --- relay.interfaces.RoutedStream ------------------------------------------------------------------------------

    def start(self) -> None:
        """Choose a provider, at once or when enough of the body is known."""
        reads_body = self._context.routes.needs_body or self._account.wants_body
        self._is_collecting = reads_body and self._request.has_body
        if reads_body and not self._is_collecting:
            self._open_reading()
        if self._account.is_limited:
            self._account.identify(self._request, self._on_identified)
        else:
            self._on_identified(None)
        if self._is_collecting and self.state is not _ENDED:  # not earlier: under overload many are refused before
            self._open_reading()

    def _open_reading(self) -> None:
        routes = self._context.routes
        finds = routes.has_affinity and routes.finds_conversation(self._request)
        self._account.request.open(finds_conversation=finds)

    @property
    def upstream(self) -> str:
        return self._tried[-1].name if self._tried else "-"

    @property
    def held(self) -> int:
        """An estimate: what an attempt may not have sent counts in full, since its provider may accept nothing."""
        is_kept = self._replay.state is not _RELEASED or (self._attempt is not None and self._attempt.is_full)
        return self._replay.size if is_kept else 0

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
        """Keep more of the body while there is no attempt yet."""
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
        if self._first_token is not None:
            self._first_token.sent()
        if self._is_collecting:
            self._is_collecting = False
            self._proceed()
        elif self._attempt is not None:
            self._attempt.send_end()
            self._account.request.sent()

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
        """Check the waits: for memory, for a place, for the end of a back-off."""
        state = self.state
        if self._context.memory.level and self._attempt is not None:
            self._replay.release()  # when memory is short, nothing is kept for another attempt
        if self._upload.upload_is_overdue(now):
            self._fail(UPLOADS_FULL)
        elif state is _ANSWERED and self._attempt is not None:
            self._attempt.sweep()
        elif state is DispatchState.BACKING_OFF and now >= self._retry_at:
            self._ask_if_healthy(self._tried[-1])
        elif state is DispatchState.QUEUED and now - self._queued_at >= self._tried[-1].settings.queue_timeout:
            self._give_up_waiting(self._tried[-1])

    def on_first_content(self) -> None:
        self.times_content = False
        if self._attempt is not None:
            note_first_content(self._attempt, self._account, self._request.content_length or 0, self._context.clock())

    # --- attempt.AttemptOwner ---------------------------------------------------------------------------------------

    def on_attempt_head(self, attempt: Attempt, head: ResponseHead) -> None:
        host = attempt.host
        if self._is_refused_for_usage(host, head):
            self._repeat_without_usage(attempt)
            return
        if head.status in UNHEALTHY:
            after = self._note_refusal(host, head)
            if self._first_token is not None and self._first_token.replace():
                return
            retry = self._next_attempt(after)
            if retry is not None:
                self._cancel_attempt()
                self._retry(*retry)
                return
        elif host.cooldowns:
            host.cooldowns.served(*self._subjects(host))
        if self._first_token is not None:
            self._first_token.receive_head(head)
            return
        self.state = _ANSWERED
        self.times_content = host.adaptive is not None and head.status < 300
        self._replay.release()
        attempt.accept()
        self._events.on_upstream_head(head)

    def on_attempt_failed(self, attempt: Attempt, error: RelayError) -> None:
        self._was_reused = attempt.reused
        self._attempt = None
        if self._first_token is not None and self._first_token.replace():
            return
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
        """Whether this provider may have refused the option for a usage report; records what is certain."""
        option, model = host.usage_option, self._account.params.model
        asks_usage, success = self._account.asks_usage, head.status < 300
        if asks_usage and success:
            option.accepted(model)
        elif self._omits_usage_option and success:
            option.refused(model)
        if not asks_usage or self._omits_usage_option or head.status not in REFUSALS:
            return False
        return self._replay.is_replayable and option.may_be_refused(model)

    def _repeat_without_usage(self, attempt: Attempt) -> None:
        """Send the request again, in the same place, without that option."""
        self._omits_usage_option = True
        attempt.host.retries += 1
        attempt.cancel_request()
        self._begin(attempt.host)

    # --- first_token.FirstTokenOwner --------------------------------------------------------------------------------

    def on_first_token(self, answer: WithheldAnswer) -> None:
        self._leave_first_token()
        self.state = _ANSWERED
        self._replay.release()
        if self._attempt is not None:
            good = answer.head is not None and answer.head.status < 300
            self.times_content = good and self._attempt.host.adaptive is not None
            self._attempt.accept(answer.head_at)
            answer.pass_on()

    def on_first_token_timeout(self, error: RelayError) -> bool:
        waiting, attempt, now = self._first_token, self._attempt, self._context.clock()
        if waiting is None or attempt is None:
            return False
        other = None
        if not waiting.is_hedged:
            other = self._candidate(free_only=True) if self._may_repeat_now() else None
            if other is None:
                return False
        attempt.host.first_token_timeouts += 1
        attempt.host.extra_tokens[ExtraAttempt.FIRST_TOKEN_TIMEOUT] += waiting.tokens
        self._cancel_attempt(error)
        if other is not None:
            self._started_at += now - attempt.began_at  # this attempt's time was bounded by its own deadline
            self._retry(other, 0.0)
        else:
            waiting.replace()
        return True

    def on_first_token_late(self) -> bool:
        waiting, route = self._first_token, self._route
        if waiting is None or route is None or self._attempt is None or not self._may_repeat_now():
            return False
        host = self._candidate(free_only=True)
        if host is None and sum(1 for _ in route.hosts) == 1:
            host = self._attempt.host
        claimant = LoneClaim(self._new_claim())
        if host is None or not waiting.may_hedge or not host.places.reserve(claimant):
            return False
        self.attempts += 1
        before, asked_usage = self._account.upstream, self._account.asks_usage
        answer = waiting.answer_of(host)
        answer.attempt = attempt = self._new_attempt(host, waiting, answer, claimant.claim)
        self._send(attempt)
        attempt.send_end()
        waiting.hedge(answer, attempt, asks_usage=self._account.asks_usage)
        if before is not None:
            self._account.sent_to(before, asks_usage=asked_usage)
        return True

    def on_hedge_failed(self, host: UpstreamHost, head: ResponseHead | None) -> None:
        if host not in self._tried:
            self._tried = (*self._tried[:-1], host, *self._tried[-1:])
        if head is not None and head.status in UNHEALTHY:
            self._note_refusal(host, head)

    def take_over(self, hedge: Hedge) -> None:
        self._cancel_attempt()
        self._attempt = attempt = hedge.attempt
        attempt.belong_to(self)
        self._asked = host = attempt.host
        if host not in self._tried:
            self._tried = (*self._tried, host)
        self._account.sent_to(host, asks_usage=hedge.asks_usage)
        self._events.on_provider(host, attempt.began_at)
        if hedge.answer.head is not None:  # a good one
            if host.cooldowns:
                host.cooldowns.served(*self._subjects(host))
            if hedge.asks_usage:
                host.usage_option.accepted(self._account.params.model)
        if self._is_paused:
            attempt.pause_reading()

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
        """Go on now, or in turn. Batch is refused before it waits, not behind others that are served."""
        turns, clock = self._context.turns, self._context.clock
        if error is None and not turns.is_free and self._account.traffic_class is BATCH:
            error = self._overload_error()
        if error is not None:
            self._fail(error)
        elif turns.is_free:
            began = clock()
            self._admit()
            turns.spend(clock() - began)
        else:
            turns.wait(self)

    def take_turn(self) -> bool:
        if self.state is not _ENDED:
            self._admit(is_again=True)
        return False

    def abort(self) -> None:
        self._fail(FAULT)

    def _admit(self, *, is_again: bool = False) -> None:
        error = self._overload_error(is_again=is_again)
        if error is not None:
            self._fail(error)
            return
        self._is_identified = True
        self._proceed()

    def _overload_error(self, *, is_again: bool = False) -> RelayError | None:
        """Why it may not start now; `is_again`: after its wait."""
        gate, account = self._context.overload, self._account
        if gate is None or account.is_preflight:
            return None
        is_large, now = (self._request.content_length or 0) > LARGE, self._context.clock()
        return gate.refusal(account.traffic_class, account.tenant, now, is_large=is_large, is_again=is_again)

    def _proceed(self) -> None:
        """Choose a route, once the tenant and the content of the request are known."""
        if not self._is_identified or self._is_collecting or self.state is _ENDED:
            return
        error = self._account.request_error()
        if error is not None:
            self._fail(error)
        else:
            self._choose_route()

    def _choose_route(self) -> None:
        path, model = self._request.path, self._account.params.model
        is_tunnel = self._request.is_tunnel
        needs_none = model is None and not self._request.has_body and not is_tunnel
        self._route = route = self._context.routes.find(path, model, any_model=needs_none)
        if route is not None and route.first_token is not None and not is_tunnel:
            self._wait_for_first_token(route.first_token)
        error = no_route(self._request, self._account) if route is None else self._route_error(route)
        if error is not None:
            self._fail(error)
        elif self._account.is_limited and route is not None:
            admitted, resume = self._on_admitted, self._events.on_more_tokens
            self._account.request_permit(self._request, admitted, resume, providers=route.hosts)
        else:
            self._choose_host()

    def _wait_for_first_token(self, policy: FirstTokenPolicy) -> None:
        request, context = self._account.request, self._context.first_token
        self._first_token = waiting = FirstToken(self, policy, self._events, request=request, context=context)
        if self._replay.is_whole:
            waiting.sent()

    def _leave_first_token(self) -> None:
        if self._first_token is not None:
            self._uncounted, self._first_token = self._first_token.uncounted, None

    def _route_error(self, route: Route) -> RelayError | None:
        """Why no provider of the route may get the request."""
        account = self._account
        if self._request.is_tunnel and not route.websocket:
            return NO_WEBSOCKET
        if account.is_signed and (error := account.signature_error(route.hosts)) is not None:
            return error
        account.bound(route.max_tokens)
        if route.traffic_class is BATCH is not account.traffic_class:
            account.lower_class(BATCH)
            gate = self._context.overload
            if gate is not None and (error := gate.refusal_as_batch(self._context.clock())) is not None:
                return error
        if route.affinity is not None:
            self._preference = route.affinity.preference(self._request, account, self._replay.pieces)
        return account.request_error() if account.request.unread is not None else None

    def _on_admitted(self, error: RelayError | None) -> None:
        if error is not None:
            self._fail(error)
        elif self.state is not _ENDED:
            self._choose_host()

    # --- one attempt ------------------------------------------------------------------------------------------------

    def _begin(self, host: UpstreamHost) -> None:
        """Start an attempt in the place reserved at `host`."""
        self.state = _ASKING
        self.attempts += 1
        if host is not self._asked:
            self._asked = host
            host.fallbacks += len(self._tried) > 1
            if self._preference is not None:
                self._preference.count(host)
        waiting = self._first_token
        answer = waiting.answer_of(host) if waiting is not None else None
        attempt = self._new_attempt(host, self, answer or self._events, self._claim)
        if waiting is not None and answer is not None:
            waiting.begin(answer, attempt)
        self._attempt = cast("Attempt | None", attempt)  # the following calls may end it
        self._events.on_provider(host, attempt.began_at)
        if self._send(attempt):
            self._replay.taken()
        if self._is_upload_stopped and not attempt.is_full:
            self._resume_upload()
        if self._replay.is_whole and self._attempt is attempt:
            attempt.send_end()
            self._account.request.sent()

    def _new_attempt(
        self, host: UpstreamHost, owner: AttemptOwner, events: UpstreamEvents, claim: Claim | None
    ) -> Attempt:
        outliers, clock = None if self._route is None else self._route.outliers, self._context.clock
        return Attempt(host, owner=owner, events=events, clock=clock, outliers=outliers, claim=claim)

    def _send(self, attempt: Attempt) -> bool:
        """Send what is available of the request. Returns whether that includes any of its body."""
        request, body = outgoing_request(
            attempt.host,
            self._request,
            self._account,
            self._replay,
            (self._request_id, self._context.pseudonym),
            repeatable=not self._omits_usage_option,
        )
        trace = self._account.trace
        if trace is not None:
            is_hedge = attempt is not self._attempt
            attempt.trace = trace.begin_attempt(attempt.host, attempt.began_at, is_hedge=is_hedge)
        attempt.open(request)
        if self._is_paused:
            attempt.pause_reading()
        for data in body:
            attempt.send_data(data)
        return bool(body)

    # --- another attempt --------------------------------------------------------------------------------------------

    def _may_repeat_now(self) -> bool:
        """Whether the policy and the size of the body permit another attempt, regardless of time."""
        return self._replay.is_replayable and self.attempts < self._context.policy.attempts

    def _next_attempt(self, after: float | None) -> tuple[UpstreamHost, float] | None:
        """The next host to try, and in how many seconds: another provider, or the same one in `after` seconds (None:
        not the same one). None if the policy or the size of the body forbids another attempt, or no provider is
        left."""
        policy, now = self._context.policy, self._context.clock()
        if not self._may_repeat_now() or now - self._started_at >= policy.time:
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
        """Whether another attempt may follow a failure before the answer. A provider that may have begun with the
        request is not tried again, but another one may be, as the client's own library would do next."""
        return error.not_processed or (self._context.policy.unanswered and error.end is EndReason.UPSTREAM_FAILED)

    def _note_refusal(self, host: UpstreamHost, head: ResponseHead) -> float | None:
        after = note_refusal(host, head, self._subjects(host), self._context)
        if host.adaptive is not None and is_overload(host, head, after, self._account.input):
            began_at = self._started_at if self._attempt is None else self._attempt.began_at
            host.adaptive.refused(self._context.clock(), began_at)
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
        """Drop everything under way, and all references back to the exchange, so that no reference cycle is left.
        `error`: the provider's fault; None: it has none."""
        if self.state is DispatchState.QUEUED:
            self._stop_waiting(self._tried[-1])
        self.state = _ENDED
        self._replay.release()
        self._cancel_attempt(error)
        if self._first_token is not None:
            self._first_token.close()
            self._leave_first_token()
        if self._uncounted is not None:
            self._uncounted.note_tokens(self._account.input)
            self._uncounted = None
        self._events = NOBODY
        self._upload = UNCOUNTED
