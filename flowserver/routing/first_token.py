"""A request's wait for its first token: withholding, deadline, and hedge. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..errors import EndReason, RelayError, upstream_error
from ..http.messages import ResponseHead
from ..relay.content_watch import ContentWatch
from ..relay.interfaces import Clock, Timer, Timers, UpstreamEvents
from ..relay.request_reading import RequestReading
from .attempt import Attempt, AttemptState
from .first_token_times import TimesOfModel
from .hedge_budget import HedgeBudget
from .routes import FirstTokenPolicy
from .upstream_host import ExtraAttempt, UpstreamHost
from .withheld_answer import WithheldAnswer, WithheldFigures, WithheldState

LATE = 0.95
"""The quantile of a provider's first tokens beyond which one is late."""


@dataclass(frozen=True, slots=True)
class FirstTokenContext:
    """What requests that wait for first tokens share in a process."""

    clock: Clock
    timers: Timers
    figures: WithheldFigures


class FirstTokenOwner(Protocol):
    """The dispatcher, which makes the attempts."""

    def on_first_token(self, answer: WithheldAnswer) -> None:
        """Pass on the answer of the current attempt."""

    def on_first_token_timeout(self, error: RelayError) -> bool:
        """Try another provider instead of the current one. Returns False if no other is available now."""

    def on_first_token_late(self) -> bool:
        """Begin a hedge, in addition to the current attempt. Returns False if that is not possible."""

    def on_hedge_failed(self, host: UpstreamHost, head: ResponseHead | None) -> None:
        """The hedge at `host` got an error answer, or none (`head` None): do not try this host again."""

    def take_over(self, hedge: Hedge) -> None:
        """Make the hedge the current attempt; cancel the previous one, unless it is over."""


class Hedge:
    """The second attempt of a request."""

    __slots__ = ("answer", "asks_usage", "attempt")

    def __init__(self, answer: WithheldAnswer, attempt: Attempt, *, asks_usage: bool) -> None:
        self.answer = answer
        self.attempt = attempt
        self.asks_usage = asks_usage
        """See `Account.asks_usage`."""


class FirstToken:
    """The wait of one request, until its answer is passed on. It is the `attempt.AttemptOwner` of the hedge."""

    __slots__ = (
        "_answer",
        "_context",
        "_events",
        "_hedge",
        "_hedge_at",
        "_is_sent",
        "_owner",
        "_policy",
        "_request",
        "_timer",
        "uncounted",
    )

    def __init__(
        self,
        owner: FirstTokenOwner,
        policy: FirstTokenPolicy,
        events: UpstreamEvents,
        *,
        request: RequestReading,
        context: FirstTokenContext,
    ) -> None:
        """`events` gets the answer. `request`: what the request asks for."""
        self._owner = owner
        self._policy = policy
        self._events = events
        self._request = request
        self._context = context
        self._timer: Timer | None = None
        self._answer: WithheldAnswer | None = None
        """The answer of the current attempt; None before the first."""
        self._hedge: Hedge | None = None
        self._hedge_at: float | None = None
        """When to begin a hedge; None: there will be none, or it has begun."""
        self._is_sent = False
        """Whether the request has been sent completely."""
        self.uncounted: HedgeBudget | None = None
        """The budget that the request's tokens must still be added to; None: there is none, or this was done. They need
        not be known until the answer is over, and estimating them costs as much as a third of a small answer."""

    def __repr__(self) -> str:
        return f"<FirstToken {self._answer}{' hedged' if self._hedge is not None else ''}>"

    # --- the dispatcher's side --------------------------------------------------------------------------------------

    def answer_of(self, host: UpstreamHost) -> WithheldAnswer:
        """The receiver of the answer of an attempt at `host`."""
        request, context = self._request, self._context
        return WithheldAnswer(
            self._events,
            self,
            ContentWatch(request.format, request.params, host.settings.quirks),
            self._times(host),
            figures=context.figures,
            clock=context.clock,
        )

    def begin(self, answer: WithheldAnswer, attempt: Attempt) -> None:
        """`attempt`, with the receiver `answer`, is the current one now."""
        self._stop()
        if self._answer is not None:
            self._answer.drop()
        answer.attempt = attempt
        self._answer = answer
        if self._is_sent:
            self._start(answer)

    def sent(self) -> None:
        """The request has been sent completely. Call this once."""
        self._is_sent = True
        if self._policy.hedge is not None:
            self._policy.hedge.note_request()
            self.uncounted = self._policy.hedge
        answer = self._answer
        if answer is not None and answer.state is WithheldState.WITHHOLDING:
            self._start(answer)

    def receive_head(self, head: ResponseHead) -> None:
        """The current attempt has answered, and no other one is needed."""
        answer = self._answer
        assert answer is not None
        answer.on_upstream_head(head)
        if answer.state is not WithheldState.WITHHOLDING or not 200 <= head.status < 300:
            self._pass_on(answer)

    @property
    def tokens(self) -> int:
        """Estimated input tokens of the request so far, computed at the first call."""
        return self._request.input_estimate

    @property
    def is_hedged(self) -> bool:
        """Whether two attempts are under way."""
        return self._hedge is not None

    @property
    def may_hedge(self) -> bool:
        """Whether there is a budget for a hedge, to which this request adds its own part."""
        budget = self._policy.hedge
        if budget is None or not self._is_sent or self._hedge is not None:
            return False
        if self.uncounted is not None:
            self.uncounted.note_tokens(self.tokens)
            self.uncounted = None
        return budget.allows(self.tokens)

    def hedge(self, answer: WithheldAnswer, attempt: Attempt, *, asks_usage: bool) -> None:
        """`attempt`, with the receiver `answer`, is the hedge, and has the whole request."""
        host, tokens = attempt.host, self.tokens
        if self._policy.hedge is not None:
            self._policy.hedge.spend(tokens)
        host.hedges += 1
        host.extra_tokens[ExtraAttempt.HEDGE] += tokens
        answer.asked_at = self._context.clock()
        self._hedge = Hedge(answer, attempt, asks_usage=asks_usage)

    def replace(self) -> bool:
        """The current attempt has failed: let the hedge take its place. Returns False if there is none."""
        if self._hedge is None:
            return False
        answer = self._promote(self._hedge)
        timeout = self._policy.timeout
        if timeout is not None and answer.asked_at is not None:
            self._set_timer(answer.asked_at + timeout)
        else:
            self._give_up(answer)
        return True

    def close(self) -> None:
        """The request is over."""
        self._stop()
        self._drop_hedge()
        if self._answer is not None:
            self._answer.drop()

    # --- withheld_answer.WithheldOwner ------------------------------------------------------------------------------

    def on_content(self, answer: WithheldAnswer) -> None:
        hedge = self._hedge
        if hedge is not None and hedge.answer is answer:
            hedge.attempt.host.hedges_won += 1
            if self._answer is not None:
                self._answer.note_wait()
            self._promote(hedge)
        self._pass_on(answer)

    # --- attempt.AttemptOwner, for the hedge ------------------------------------------------------------------------

    def on_attempt_head(self, attempt: Attempt, head: ResponseHead) -> None:
        hedge = self._hedge
        if hedge is None:
            return
        if 200 <= head.status < 300:
            hedge.answer.on_upstream_head(head)
        else:
            self._owner.on_hedge_failed(attempt.host, head)
            self._drop_hedge()

    def on_attempt_failed(self, attempt: Attempt, error: RelayError) -> None:
        self._owner.on_hedge_failed(attempt.host, None)
        self._drop_hedge()

    def on_attempt_full(self) -> None:
        """The request is complete: there is no upload to stop."""

    def on_attempt_drained(self) -> None: ...

    def _promote(self, hedge: Hedge) -> WithheldAnswer:
        """Make the hedge the current attempt, whose answer counts."""
        self._hedge = None
        self._stop()
        if self._answer is not None:
            self._answer.drop()
        self._answer = hedge.answer
        self._owner.take_over(hedge)
        return hedge.answer

    def _times(self, host: UpstreamHost) -> TimesOfModel:
        return host.first_token_times.of(self._request.params.model)

    # --- time -------------------------------------------------------------------------------------------------------

    def _start(self, answer: WithheldAnswer) -> None:
        """The provider has the whole request: its time begins."""
        answer.asked_at = now = self._context.clock()
        timeout, attempt = self._policy.timeout, answer.attempt
        assert attempt is not None
        hedges = self._policy.hedge is not None and self._hedge is None
        after = self._times(attempt.host).quantile(LATE, now) if hedges else None
        self._hedge_at = None if after is None or (timeout is not None and after >= timeout) else now + after
        if self._hedge_at is not None:
            self._set_timer(self._hedge_at)
        elif timeout is not None:
            self._set_timer(now + timeout)
        elif self._hedge is None:
            self._give_up(answer)

    def _set_timer(self, due: float) -> None:
        self._timer = self._context.timers(max(0.0, due - self._context.clock()), self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        answer = self._answer
        if answer is None or answer.attempt is None or answer.attempt.state is not AttemptState.ASKED:
            return
        if self._hedge_at is None:
            self._time_out(answer)
            return
        self._hedge_at = None
        begun = self._owner.on_first_token_late()
        if self._policy.timeout is not None and answer.asked_at is not None:
            self._set_timer(answer.asked_at + self._policy.timeout)
        elif not begun:
            self._give_up(answer)

    def _time_out(self, answer: WithheldAnswer) -> None:
        attempt, timeout = answer.attempt, self._policy.timeout
        assert attempt is not None
        assert timeout is not None
        message = f"The provider showed no content for {timeout:g} s (first_token_timeout)."
        end = EndReason.FIRST_TOKEN_TIMEOUT
        error = upstream_error(end.value, message, end, status=504)
        if self._owner.on_first_token_timeout(error):
            answer.note_wait()
            answer.drop()
        else:
            self._give_up(answer)

    def _give_up(self, answer: WithheldAnswer) -> None:
        """No other provider will be tried: stop withholding."""
        if answer.head is None:
            answer.see_through()
        else:
            self._pass_on(answer)

    def _pass_on(self, answer: WithheldAnswer) -> None:
        self._stop()
        self._drop_hedge()
        self._owner.on_first_token(answer)

    def _stop(self) -> None:
        self._hedge_at = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _drop_hedge(self) -> None:
        hedge, self._hedge = self._hedge, None
        if hedge is not None:
            hedge.answer.drop()
            if hedge.attempt.state is not AttemptState.OVER:
                hedge.attempt.cancel()
