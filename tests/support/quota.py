"""A limiter that a test answers for, and tenants for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flowserver.http.messages import RequestHead
from flowserver.quota.identify import Directory, QuotaContext
from flowserver.quota.limits import Cause, Decision, Limit, LimitState
from flowserver.quota.tenants import Tenant, TenantKey, Tenants, digest_of

from .clock import FakeClock

KEY = b"flow-" + b"k" * 43
NOW = 1_700_000_000.0
"""2023-11-14T22:13:20Z."""


class FakeLimiter:
    """A `quota.lease.Limiter` over `left` tokens. `delayed`: it answers when `answer` is called, first asked first."""

    renewal = 20.0

    def __init__(self, *, left: int = 1_000_000, lease: int = 100, delayed: bool = False) -> None:
        self.left = left
        self.lease = lease
        self.delayed = delayed
        self.most: int | None = None
        """Tokens of one answer to `extend` at most; None: as many as are left."""
        self.refuses: Cause | None = None
        self.log: list[tuple[str | int, ...]] = []
        self.ids: set[str] = set()
        self.limits: list[Limit] = []
        self._pending: list[Callable[[], None]] = []

    def admit(
        self, stream_id: str, limits: Sequence[Limit], *, need: int, want: int, done: Callable[[Decision], None]
    ) -> None:
        self.ids.add(stream_id)
        self.limits = list(limits)
        self.log.append(("admit", need))
        self._later(lambda: done(self._decide(want)))

    def extend(self, stream_id: str, used: int, want: int, done: Callable[[int], None]) -> None:
        self.ids.add(stream_id)
        self.log.append(("extend", used, want))
        self._later(lambda: done(self._take(want if self.most is None else min(want, self.most))))

    def settle(self, stream_id: str, used: int) -> None:
        self.ids.add(stream_id)
        self.log.append(("settle", used))

    @property
    def waiting(self) -> int:
        """Calls that are not answered."""
        return len(self._pending)

    @property
    def settled(self) -> list[int]:
        return [int(call[1]) for call in self.log if call[0] == "settle"]

    def answer(self) -> None:
        self._pending.pop(0)()

    def _later(self, answer: Callable[[], None]) -> None:
        if self.delayed:
            self._pending.append(answer)
        else:
            answer()

    def _decide(self, want: int) -> Decision:
        if self.refuses is not None:
            return Decision(False, 0, (), self.refuses, self.limits[0], 2.5)
        granted = self._take(want)
        states = [LimitState(limit, self.left, 60.0) for limit in self.limits]
        return Decision(True, granted, tuple(states))

    def _take(self, want: int) -> int:
        got = min(want, self.left)
        self.left -= got
        return got


def tenant(name: str = "acme", *, key: bytes = KEY, **options: object) -> Tenant:
    return Tenant(name, (TenantKey(digest_of(key)),), **options)  # type: ignore[arg-type]


def quota(
    *tenants: Tenant, limiter: FakeLimiter | None = None, directory: Directory | None = None, now: float = NOW
) -> QuotaContext:
    return QuotaContext(Tenants(tenants), limiter or FakeLimiter(), FakeClock(now), directory)


def asking(
    *headers: tuple[bytes, bytes], key: bytes | None = KEY, target: bytes = b"/v1/chat/completions"
) -> RequestHead:
    """A request that shows `key`."""
    shown = [(b"authorization", b"Bearer " + key)] if key is not None else []
    return RequestHead(b"POST", target, [*shown, *headers], has_body=True)
