"""`max_concurrent = "auto"`: a provider's places follow what is learned of it. No I/O.

What is heard of the provider goes to an `AdaptiveLimit`: of this process, or with several workers of the parent, which
has the places. What says that a provider has too much to do:

- A late first token.
- 503 and 529: its servers are overloaded.
- 429 where the relay's own key was sent, and nothing says that a limit of so many requests or tokens in a span of time
  is used up. Such a limit is the account's; fewer requests at a time do not help, and the key's cooldown (`cooldowns`)
  keeps to it. Where the client's own key passes, 429 is about that client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol
from zlib import crc32

from ..dialects import TABLE
from ..http.messages import ResponseHead
from ..relay.account import Account
from .adaptive_limit import FIRST, REFUSED, SLOW, AdaptiveLimit
from .places import Places
from .upstream_host import UpstreamHost

_LONGEST_PAUSE = 10.0
"""Seconds: a provider that is busy now is not so for longer, so a longer `retry-after` is about a span of time."""
_AT_ONCE = 16
"""Samples that a worker tells together ..."""
_OFTEN = 0.1
"""... unless the first of them is older than so many seconds."""

Sample = tuple[int, float, float]
"""The kind of request, when its first token came, and after how many seconds."""


class LocalAdaptation:
    """An `upstream_host.Adaptation` of one process."""

    __slots__ = ("_learned", "_places", "_queue")

    def __init__(self, places: Places) -> None:
        self._places = places
        self._queue: int | None = None
        self._learned = AdaptiveLimit()

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
        self._set()

    def first_token(self, now: float, kind: int, seconds: float) -> None:
        before = self._learned.limit
        self._learned.first_token(now, kind, seconds, self._places.open)
        if self._learned.limit != before:
            self._set()

    def refused(self, now: float, began_at: float) -> None:
        before = self._learned.limit
        self._learned.refused(now, began_at, self._places.open - 1)
        if self._learned.limit != before:
            self._set()

    def sweep(self, now: float) -> None:
        """Nothing is held back."""

    def _set(self) -> None:
        limit = self._learned.limit
        self._places.limit(limit, limit if self._queue is None else self._queue)


class SharedPart(Protocol):
    """The places of one worker, as far as the parent's decisions concern them."""

    def adopt(self, most: int | None, queue: int) -> None: ...


class SharedAdaptation:
    """The `upstream_host.Adaptation` of one of several workers: it tells the parent, whose limit counts for all.

    Samples are told together, refusals at once. Until the parent has answered the limit is that of the beginning."""

    __slots__ = ("_places", "_samples", "_tell", "decreases", "limit")

    def __init__(self, tell: Callable[..., None], places: SharedPart) -> None:
        self._tell = tell
        self._places = places
        self._samples: list[Sample] = []
        self.limit = FIRST
        self.decreases: dict[str, int] = {SLOW: 0, REFUSED: 0}
        """That this worker has told the reason of."""

    def __repr__(self) -> str:
        return f"<SharedAdaptation: {self.limit}, {len(self._samples)} samples to tell>"

    def begin(self, queue: int | None) -> None:
        self._places.adopt(self.limit, self.limit if queue is None else queue)
        self._tell("adapt", queue)

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
    """A number for requests that take about as long to their first token: the same API and model, a prompt of about the
    same `size` in bytes, a stream or a whole answer, over a connection that was there or not."""
    model, known = account.params.model or "", account.format
    name = f"{known.name if known is not None else ''} {model}"
    flags = account.awaits_whole << 1 | reused
    return crc32(name.encode("utf-8", "surrogatepass")) << 8 | min(size, 1 << 30).bit_length() << 2 | flags


def is_overload(host: UpstreamHost, head: ResponseHead, after: float | None, tokens: int) -> bool:
    """Whether a status says that the provider has too much to do. `after`: the seconds it asks to wait; `tokens`: those
    of the request."""
    if head.status in (503, 529):
        return True
    if head.status != 429 or not host.settings.holds_key:
        return False
    return (after is None or after <= _LONGEST_PAUSE) and not _has_used_up(head, tokens)


def _has_used_up(head: ResponseHead, tokens: int) -> bool:
    """Whether a head reports a limit by time that leaves too little for a request of so many tokens."""
    for name, value in head.headers:
        if name.startswith(TABLE.limit_prefixes) and (kind := TABLE.remaining_kind(name)) is not None:
            needed = 1 if kind == "requests" else max(1, tokens)
            if value.isdigit() and len(value) < 16 and int(value) < needed:
                return True
    return False
