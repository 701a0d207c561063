"""One scan of all open streams, for the live feed: totals, and which streams each view shows. No I/O."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter

from ..relay.limited_time import Holder
from ..relay.record import ExchangeRecord, RecordedExchange
from .live_views import Look, SortKey, View

AT_A_TIME = 10
"""Streams per piece of work."""
SPARE = 500
"""Streams that a choice holds beyond those that its view shows, until it is sorted."""
SOONEST = 0.5
"""Least seconds between two scans of a stream for a new rate."""
SMOOTHING = 0.5
"""The weight of the latest rate."""


class _Seen:
    """A stream at an earlier scan."""

    __slots__ = ("at", "rate", "started_at", "tokens")

    def __init__(self, started_at: float, tokens: int, at: float, rate: float) -> None:
        self.started_at = started_at
        self.tokens = tokens
        self.at = at
        self.rate = rate


class Rates:
    """Tokens per second of the open streams: since the previous scan, slightly smoothed; for a new stream, since its
    first token."""

    __slots__ = ("_ended", "_fresh", "_gone", "_seen", "_total_at", "_total_rate")

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}
        """By `id()`, so that no stream is kept alive. A stream that reuses an id began later."""
        self._fresh = 0
        """Tokens that open streams have emitted since `_total_at`."""
        self._gone = 0
        """Tokens, at their last scan, of the streams that have ended since then."""
        self._ended = 0
        self._total_at: float | None = None
        self._total_rate: float | None = None

    def of(self, exchange: RecordedExchange, record: ExchangeRecord, now: float) -> float:
        tokens, key = record.account.output, id(exchange)
        seen = self._seen.get(key)
        if seen is None or seen.started_at != record.started_at:
            first = record.first_token_at
            rate = 0.0 if first is None else tokens / max(now - first, 1.0)
            self._fresh += tokens
            self._seen[key] = _Seen(record.started_at, tokens, now, rate)
            return rate
        elapsed = now - seen.at
        if elapsed >= SOONEST:
            self._fresh += max(0, tokens - seen.tokens)
            seen.rate += SMOOTHING * ((tokens - seen.tokens) / elapsed - seen.rate)
            seen.tokens, seen.at = tokens, now
        return seen.rate

    def last(self, exchange: RecordedExchange) -> float:
        """The last computed rate; 0 for a stream that was never scanned."""
        seen = self._seen.get(id(exchange))
        return 0.0 if seen is None else seen.rate

    def keep(self, alive: set[int]) -> None:
        """Forget all streams but these."""
        for key in self._seen.keys() - alive:
            self._gone += self._seen.pop(key).tokens

    def total(self, ended: int, now: float) -> float | None:
        """The rate of all streams, after a scan. `ended`: total tokens of ended streams, which never falls, but may be
        less than was last seen of them if providers reported fewer than estimated. None: this is the first scan."""
        elapsed = None if self._total_at is None else now - self._total_at
        if elapsed is not None and elapsed < SOONEST:
            return self._total_rate
        if elapsed is not None:
            self._total_rate = (self._fresh + max(0, ended - self._ended - self._gone)) / elapsed
        self._fresh = self._gone = 0
        self._ended, self._total_at = ended, now
        return self._total_rate


class Choice:
    """Chooses the streams that a view shows, of those that were offered."""

    __slots__ = ("_found", "followed", "matching", "view")

    def __init__(self, view: View) -> None:
        self.view = view
        self.matching = 0
        """How many streams match, shown or not."""
        self.followed: RecordedExchange | None = None
        self._found: list[tuple[SortKey, RecordedExchange]] = []

    def offer(self, exchange: RecordedExchange, look: Look) -> None:
        view = self.view
        if view.follow and look.record.request_id == view.follow.encode("utf-8", "replace"):
            self.followed = exchange
        if view.words and not view.fits(look.record):
            return
        self.matching += 1
        self._found.append((view.key(look), exchange))
        if len(self._found) >= view.limit + SPARE:
            self.chosen()

    def chosen(self) -> list[tuple[SortKey, RecordedExchange]]:
        """The first streams, in order, with their sort keys."""
        self._found.sort(key=itemgetter(0), reverse=self.view.descending)
        del self._found[self.view.limit :]
        return self._found


class Share:
    """The totals of the streams of one provider or one tenant."""

    __slots__ = ("held", "paused", "streams", "tokens_per_second")

    def __init__(self) -> None:
        self.streams = 0
        self.paused = 0
        self.held = 0
        self.tokens_per_second = 0.0

    def add(self, record: ExchangeRecord, rate: float) -> None:
        self.streams += 1
        self.paused += record.state == "paused"
        self.held += record.held
        self.tokens_per_second += rate

    def figures(self) -> dict[str, float]:
        return {
            "streams": self.streams,
            "paused": self.paused,
            "held_bytes": self.held,
            "tokens_per_second": round(self.tokens_per_second, 1),
        }


class Census:
    """The result of one scan of all streams that were open when it began."""

    __slots__ = ("all", "choices", "slow", "states", "tenants", "upstreams")

    def __init__(self, views: list[View]) -> None:
        self.choices = [Choice(view) for view in views]
        self.all = Share()
        self.states: Counter[str] = Counter()
        self.slow: Counter[Holder] = Counter()
        """Streams by who holds them up now."""
        self.upstreams: defaultdict[str, Share] = defaultdict(Share)
        self.tenants: defaultdict[str, Share] = defaultdict(Share)

    def look(self, open_now: set[RecordedExchange], rates: Rates, clock: Callable[[], float]) -> Iterator[bytes]:
        """Yields empty pieces in between."""
        alive: set[int] = set()
        for number, exchange in enumerate(list(open_now), 1):
            if exchange in open_now:
                alive.add(id(exchange))
                self._add(exchange, rates, clock())
            if number % AT_A_TIME == 0:
                yield b""
        rates.keep(alive)

    def _add(self, exchange: RecordedExchange, rates: Rates, now: float) -> None:
        record = exchange.record()
        rate = rates.of(exchange, record, now)
        self.all.add(record, rate)
        self.states[record.state] += 1
        if record.slow is not None:
            self.slow[record.slow] += 1
        if record.upstream is not None:
            self.upstreams[record.upstream].add(record, rate)
        if record.account.tenant is not None:
            self.tenants[record.account.tenant].add(record, rate)
        if self.choices:
            look = Look(record, rate, now - record.started_at)
            for choice in self.choices:
                choice.offer(exchange, look)

    def totals(self, rate: float | None) -> Mapping[str, object]:
        """`rate`: tokens per second of all streams; None: the sum over open ones is used."""
        return {
            **self.all.figures(),
            "tokens_per_second": round(self.all.tokens_per_second if rate is None else rate, 1),
            "states": dict(self.states),
            "slow": {str(holder): count for holder, count in self.slow.items()},
        }
