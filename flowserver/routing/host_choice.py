"""The part of a dispatcher that chooses a host, and waits for a place there. No I/O."""

from __future__ import annotations

from ..errors import RelayError
from ..http.messages import RequestHead
from ..quota.traffic_class import BATCH
from ..relay.account import Account
from .affinity import Preference
from .candidates import Search, next_candidate, subjects, unavailable
from .claim import Claim, Refusal
from .context import DispatchState, RoutingContext
from .queue_refusal import queue_is_full, waited_in_vain
from .routes import Route
from .upstream_host import UpstreamHost


class HostChoice:
    """A `places.Waiter`. The dispatcher implements what follows from the choice: `_begin` and `_fail`."""

    __slots__ = (
        "_account",
        "_claim",
        "_context",
        "_preference",
        "_queued_at",
        "_refusal",
        "_request",
        "_route",
        "_tried",
        "queued",
        "state",
    )

    def __init__(self, request: RequestHead, context: RoutingContext, account: Account) -> None:
        self._request = request
        self._context = context
        self._account = account
        self.state = DispatchState.PREPARING
        self._route: Route | None = None
        self._preference: Preference | None = None
        """The preference among equal providers; None: it has none."""
        self._tried: tuple[UpstreamHost, ...] = ()
        """The hosts tried so far, the current one last."""
        self._claim: Claim | None = None
        """None: no provider with limited places was considered."""
        self._refusal: Refusal | None = None
        """Why a provider had no place for it; None: none has refused it."""
        self._queued_at = 0.0
        """Since when it is queued."""
        self.queued = 0.0
        """Seconds that it has waited, at all providers together."""

    def _begin(self, host: UpstreamHost) -> None:
        """Start an attempt in the place reserved at `host`."""
        raise NotImplementedError

    def _fail(self, error: RelayError) -> None:
        """Give up with an error."""
        raise NotImplementedError

    # --- choosing ---------------------------------------------------------------------------------------------------

    def _choose_host(self) -> None:
        """Choose the next host. If no other is available, it may be one that recently refused this key or model: its
        own status is worth more than the relay's."""
        host = self._candidate() or self._candidate(refused_too=True)
        if host is not None:
            self._ask(host)
        elif self._route is not None:
            self._fail(unavailable(self._route, self, self._context.clock(), self._refusal))

    def _candidate(self, *, refused_too: bool = False, free_only: bool = False) -> UpstreamHost | None:
        """The next available provider in the order of fallback; None if there is none. `refused_too`: including those
        that recently refused this key or model; `free_only`: only those with a free place, as far as is known."""
        assert self._route is not None
        now = self._context.clock()

        def is_welcome(host: UpstreamHost) -> bool:
            if free_only and host.places.is_full(self):
                return False
            if self._account.is_signed and self._account.signature_error((host,)) is not None:
                return False
            cooldowns = host.cooldowns
            return refused_too or not cooldowns or cooldowns.allows(now, *self._subjects(host))

        search = Search(now, self._preference or self._context.by_load, self, is_welcome)
        return next_candidate(self._route, self._tried, search)

    def _subjects(self, host: UpstreamHost) -> tuple[tuple[str, bytes], tuple[str, str | None]]:
        return subjects(host, self._request, self._account.params.model)

    def _ask_if_healthy(self, host: UpstreamHost) -> None:
        if not host.is_out and host.health.allows(self._context.clock()):
            self._ask(host)
        else:
            self._choose_host()

    def _ask(self, host: UpstreamHost) -> None:
        """Reserve a place at `host` or join its queue."""
        if host not in self._tried:
            self._tried = (*self._tried, host)
        if host.places.reserve(self):
            self._begin(host)
        elif (refusal := host.places.wait(self)) is None:
            self.state = DispatchState.QUEUED
            self._queued_at = self._context.clock()
        else:
            self._fail(queue_is_full(refusal))

    def _note_wait(self, host: UpstreamHost, now: float) -> None:
        """It waits no more at `host`, nor anywhere until it has asked the next one."""
        self.state = DispatchState.PREPARING
        host.queued_seconds += now - self._queued_at
        self.queued += now - self._queued_at

    def _stop_waiting(self, host: UpstreamHost) -> None:
        host.places.leave(self)
        self._note_wait(host, self._context.clock())

    def _give_up_waiting(self, host: UpstreamHost) -> None:
        self._stop_waiting(host)
        other = self._candidate()
        if other is not None:
            self._ask(other)
        else:
            self._fail(waited_in_vain(host.places.refusal(self), host.settings.queue_timeout))

    # --- places.Waiter ----------------------------------------------------------------------------------------------

    @property
    def claim(self) -> Claim:
        if self._claim is None:
            self._claim = self._new_claim()
        return self._claim

    def _new_claim(self) -> Claim:
        account = self._account
        tenant, is_batch = account.tenant, account.traffic_class is BATCH
        if tenant is None:
            return Claim(is_batch=is_batch)
        return Claim(tenant.name, tenant.weight, is_batch=is_batch, served=account, bound=account.params.max_tokens)

    def on_place(self) -> None:
        host, now = self._tried[-1], self._context.clock()
        self._note_wait(host, now)
        if host.health.admits(now):
            self._begin(host)
        else:  # its breaker has opened in the meantime
            host.places.release(self._claim)
            self._choose_host()

    def on_no_place(self, refusal: Refusal | None) -> None:
        self._refusal = refusal or self._refusal
        self._note_wait(self._tried[-1], self._context.clock())
        self._choose_host()

    def on_busy(self) -> None:
        """Choose again, now that this host is known to be full: another one may have a free place."""
        self._tried = self._tried[:-1]
        self.state = DispatchState.PREPARING
        self._choose_host()
