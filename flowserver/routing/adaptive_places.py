"""`max_concurrent = "auto"`: the number of a provider's places follows a learned limit. No I/O.

Observations of the provider go to an `AdaptiveLimit`: of this process, or with several workers of the parent, which
grants the places. Signs that a provider is overloaded:

- A late first token.
- 503 and 529: its servers are overloaded.
- 429 where the relay's own key was sent, and nothing says that a limit of so many requests or tokens in a span of time
  is used up. Such a limit is the account's; fewer requests at a time do not help, and the key's cooldown (`cooldowns`)
  keeps to it. Where the client's own key passes, 429 is about that client.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol
from zlib import crc32

from ..dialects import TABLE
from ..http.messages import ResponseHead
from ..relay.account import Account
from .adaptive_limit import FIRST, REFUSED, SLOW, AdaptiveLimit
from .attempt import Attempt
from .places import LocalPlaces
from .upstream_host import UpstreamHost

_LONGEST_PAUSE = 10.0
"""Seconds: a busy provider does not ask for more, so a longer `retry-after` concerns a rate limit."""
_AT_ONCE = 16
"""Samples that a worker reports together ..."""
_OFTEN = 0.1
"""... unless the first of them is older than this many seconds."""

_FAR = 0.25
"""Below this part of its limit, a provider is far from it: first tokens only show the usual times ..."""
_SELDOM = 0.005
"""... and one in so many seconds is enough for that."""

Sample = tuple[int, float, float]
"""The kind of request, the time of its first token, and the seconds until then."""


class LocalAdaptation:
    """The `upstream_host.Adaptation` of a single process."""

    __slots__ = ("_learned", "_places", "_queue", "_seen_at")

    def __init__(self, places: LocalPlaces) -> None:
        self._places = places
        self._queue: int | None = None
        self._learned = AdaptiveLimit()
        self._seen_at = -math.inf
        """When the last first token came that was evaluated."""

    def __repr__(self) -> str:
        return f"<LocalAdaptation: {self._learned}>"

    @property
    def limit(self) -> int:
        return self._learned.limit

    @property
    def decreases(self) -> Mapping[str, int]:
        return self._learned.decreases

    def begin(self, queue: int | None) -> None:
        self._queue = queue
        self._places.watch(self._learned.count)
        self._set()

    def wants(self, now: float) -> bool:
        is_far = self._places.open < _FAR * self._learned.limit
        return not is_far or now - self._seen_at >= _SELDOM or self._learned.is_cautious

    def first_token(self, now: float, kind: int, seconds: float) -> None:
        self._seen_at = now
        before = self._learned.limit
        self._learned.first_token(now, kind, seconds)
        if self._learned.limit != before:
            self._set()

    def refused(self, now: float, began_at: float) -> None:
        before = self._learned.limit
        self._learned.refused(now, began_at, self._places.open - 1)
        if self._learned.limit != before:
            self._set()

    def sweep(self, now: float) -> None:
        """There is nothing to report."""

    def _set(self) -> None:
        limit = self._learned.limit
        self._places.limit(limit, limit if self._queue is None else self._queue)


class SharedPart(Protocol):
    """The places of one worker: the part that the parent's decisions concern."""

    def adopt(self, most: int | None, queue: int) -> None: ...


class SharedAdaptation:
    """The `upstream_host.Adaptation` of one of several workers: it reports to the parent, whose limit applies to all.

    Samples are reported in batches, refusals at once. Until the parent has answered, the initial limit applies."""

    __slots__ = ("_places", "_samples", "_tell", "decreases", "limit")

    def __init__(self, tell: Callable[..., None], places: SharedPart) -> None:
        self._tell = tell
        self._places = places
        self._samples: list[Sample] = []
        self.limit = FIRST
        self.decreases: dict[str, int] = {SLOW: 0, REFUSED: 0}
        """Decreases caused by this worker's reports."""

    def __repr__(self) -> str:
        return f"<SharedAdaptation: {self.limit}, {len(self._samples)} samples to tell>"

    def begin(self, queue: int | None) -> None:
        self._places.adopt(self.limit, self.limit if queue is None else queue)
        self._tell("adapt", queue)

    def wants(self, now: float) -> bool:
        return True

    def first_token(self, now: float, kind: int, seconds: float) -> None:
        self._samples.append((kind, now, seconds))
        if len(self._samples) >= _AT_ONCE or now - self._samples[0][1] >= _OFTEN:
            self._flush()

    def refused(self, now: float, began_at: float) -> None:
        self._flush()
        self._tell("overloaded", now, began_at)

    def sweep(self, now: float) -> None:
        self._flush()

    def on_adapted(self, limit: int, queue: int, slow: int, refused: int) -> None:
        """The parent has set the limit."""
        self.limit = limit
        self.decreases = {SLOW: slow, REFUSED: refused}
        self._places.adopt(limit, queue)

    def _flush(self) -> None:
        if self._samples:
            self._tell("first_tokens", self._samples)
            self._samples = []


def kind_of(account: Account, size: int, *, reused: bool) -> int:
    """A number for requests with a similar time to the first token: the same API and model, a prompt of about the same
    `size` in bytes, a stream or a whole answer, over a new or a kept connection."""
    model, known = account.params.model or "", account.format
    name = f"{known.name if known is not None else ''} {model}"
    flags = account.awaits_whole << 1 | reused
    return crc32(name.encode("utf-8", "surrogatepass")) << 8 | min(size, 1 << 30).bit_length() << 2 | flags


def note_first_content(attempt: Attempt, account: Account, size: int, now: float) -> None:
    """The first content of an answer has come; `size`: bytes of its request."""
    adaptive = attempt.host.adaptive
    if adaptive is not None and adaptive.wants(now):
        adaptive.first_token(now, kind_of(account, size, reused=attempt.reused), now - attempt.asked_at)


def is_overload(host: UpstreamHost, head: ResponseHead, after: float | None, tokens: int) -> bool:
    """Whether a status means that the provider is overloaded. `after`: the seconds it asks to wait; `tokens`: those of
    the request."""
    if head.status in (503, 529):
        return True
    if head.status != 429 or not host.settings.holds_key:
        return False
    return (after is None or after <= _LONGEST_PAUSE) and not _has_used_up(head, tokens)


def _has_used_up(head: ResponseHead, tokens: int) -> bool:
    """Whether a head reports a rate limit that leaves too little for a request of `tokens` tokens."""
    for name, value in head.headers:
        if name.startswith(TABLE.limit_prefixes) and (kind := TABLE.remaining_kind(name)) is not None:
            needed = 1 if kind == "requests" else max(1, tokens)
            if value.isdigit() and len(value) < 16 and int(value) < needed:
                return True
    return False
