"""Rapid resets: requests that are reset at once, beside an honest client on its own connection.

The attacker sends HEADERS and RST_STREAM in pairs, as fast as it can, on one connection; when that is closed it opens
another one, until so many have been dealt with as it wants. All relays have their own limits. What the provider was
made to begin, and whether anything is left of it, is the simulator's to tell.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.chunks import EventChecker
from bench.client import READ_SIZE, Client
from bench.figures import CaseResult, Collector, rotated
from bench.frames import ACK, END_HEADERS, END_STREAM, HEADERS, PING, frame, header_block, reset
from bench.h2_client import H2Connection
from bench.peers import PEERS, Running, Wiring, those_that
from bench.processes import cpu_ns, wait_until_quiet
from bench.provider import Provider, simulator
from bench.stats import percentile

PATIENCE = 30.0
"""Seconds that a whole attack may take."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The attacker sends `resets` requests and resets. The honest client has `streams` of `rate` events/s, which last
    for `seconds` and are watched for `before` seconds before the attack starts."""

    resets: int = 20_000
    streams: int = 50
    rate: float = 50
    seconds: float = 12
    before: float = 3
    rounds: int = 3


QUICK = Settings(seconds=5, before=1, rounds=1)


class Honest(H2Connection):
    """Checks its streams, and takes the seconds from one event to the next."""

    __slots__ = ("_last", "checkers", "gaps")

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.checkers: dict[int, EventChecker] = {}
        self.gaps: list[float] = []
        self._last: dict[int, float] = {}

    def on_stream_data(self, stream: int, data: bytes) -> None:
        now = time.monotonic()
        if stream in self._last:
            self.gaps.append(now - self._last[stream])
        self._last[stream] = now
        self.checkers[stream].check(data)

    def on_stream_end(self, stream: int, *, whole: bool) -> None:
        self.checkers[stream].done = whole


class Attacker(H2Connection):
    """Sends `pairs` and a PING behind them; `heard` once that is answered, so that all is dealt with."""

    __slots__ = ("_pairs", "_sent", "heard")

    def __init__(self, port: int, pairs: bytes) -> None:
        self.heard = False
        self._pairs = memoryview(pairs + frame(PING, 0, 0, b"attacker"))
        self._sent = 0
        super().__init__(port)

    @property
    def is_over(self) -> bool:
        """All is dealt with, or the relay wants no more."""
        return self.heard or self.ended or self.goaway is not None

    @property
    def sent(self) -> int:
        """Pairs that the socket took."""
        return min(self._sent, len(self._pairs) - 17) // PAIR

    @property
    def seen(self) -> int:
        """Pairs that the relay has looked at, as far as it tells."""
        return (self.goaway[0] + 1) // 2 if self.goaway is not None else self.sent

    def send(self, data: bytes) -> None:
        """Nothing may come between the pairs."""
        if not self._sent:
            super().send(data)

    def push(self) -> None:
        """Send some more."""
        try:
            self._sent += self.socket.send(self._pairs[self._sent : self._sent + READ_SIZE])
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == PING and flags & ACK:
            self.heard = True
        else:
            super()._control(kind, flags, stream, payload)


_BLOCK = header_block(
    {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/v1/chat/completions",
        b":authority": b"bench",
        b"authorization": b"Bearer bench",
        b"x-simulate": b"id=attack events=0 rate=1",
    }
)


def _pair(number: int) -> bytes:
    return frame(HEADERS, END_HEADERS | END_STREAM, number, _BLOCK) + reset(number)


PAIR = len(_pair(1))
"""Bytes of a request and its reset."""


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Attacks each of `relays`, in turn, `settings.rounds` times."""
    collector = Collector()
    wiring = Wiring(client="h2")
    pairs = b"".join(_pair(2 * number + 1) for number in range(settings.resets))
    with simulator() as provider:
        for number in range(settings.rounds):
            for name in rotated(those_that(relays, wiring), number):
                wait_until_quiet()
                with PEERS[name].start(provider.port, wiring) as relay, Client[H2Connection]() as client:
                    _measure(client, relay, provider, pairs, settings, collector)
    return CaseResult(
        "h2_attack",
        f"{settings.resets} requests reset at once, beside {settings.streams} honest streams",
        {"resets": settings.resets, "streams": settings.streams, "rate": settings.rate},
        collector.figures(),
        (
            "A connection is closed by GOAWAY, which tells how many requests were looked at; if none came, all were.",
            "CPU per reset has the honest streams' part taken off, as it was before the attack, and connecting in it.",
            "A gap of the honest client's is the time between two events of a stream, during the attack.",
        ),
    )


def _measure(
    client: Client[H2Connection],
    relay: Running,
    provider: Provider,
    pairs: bytes,
    settings: Settings,
    collector: Collector,
) -> None:
    assert relay.pid is not None
    honest = Honest(relay.port)
    client.add(honest)
    events = int(settings.rate * settings.seconds)
    for _ in range(settings.streams):
        honest.checkers[honest.request(f"events={events} rate={settings.rate}")] = EventChecker()
    client.run(0.5)
    usual = _Clocks.now(relay.pid)
    honest.gaps.clear()
    client.run(settings.before)
    usual = usual.until_now(relay.pid)
    collector.add(relay.name, "honest client's gap, p99, before", "ms", percentile(honest.gaps, 99) * 1e3)
    before = provider.totals()["requests"]
    honest.gaps.clear()
    clocks = _Clocks.now(relay.pid)
    attackers = _attack(client, relay, pairs, settings.resets)
    clocks = clocks.until_now(relay.pid)
    client.run(0.1)
    collector.add(relay.name, "honest client's gap, p99, attacked", "ms", percentile(honest.gaps, 99) * 1e3)
    collector.add(relay.name, "honest client's gap, longest, attacked", "ms", max(honest.gaps) * 1e3)
    extra = clocks.relay - usual.relay * clocks.wall / usual.wall
    seen = sum(attacker.seen for attacker in attackers)
    collector.add(relay.name, "resets until the first connection was closed", "", attackers[0].seen)
    collector.add(relay.name, "connections that it took", "", len(attackers))
    collector.add(relay.name, "resets dealt with", "/s", seen / (clocks.wall / 1e9))
    collector.add(relay.name, "CPU per reset dealt with", "us", extra / 1e3 / seen)
    client.run(0.5)
    totals = provider.totals()
    collector.add(relay.name, "upstream requests begun for it", "", totals["requests"] - before)
    collector.add(relay.name, "upstream requests left of it", "", totals["open"] - len(honest.open))
    client.run(settings.seconds, lambda: not honest.open or honest.ended)
    came = sum(checker.events for checker in honest.checkers.values())
    whole = sum(checker.is_whole(events) for checker in honest.checkers.values())
    collector.add(relay.name, "honest client's events lost", "", settings.streams * events - came)
    collector.add(relay.name, "honest client's streams not whole and in order", "", settings.streams - whole)


def _attack(client: Client[H2Connection], relay: Running, pairs: bytes, resets: int) -> list[Attacker]:
    attackers: list[Attacker] = []
    left = resets
    deadline = time.monotonic() + PATIENCE
    while left > 0 and time.monotonic() < deadline:
        attacker = Attacker(relay.port, pairs[: left * PAIR])
        client.add(attacker)
        attackers.append(attacker)
        while not attacker.is_over and time.monotonic() < deadline:
            attacker.push()
            client.run(0.001)
        left -= max(1, attacker.seen)
        client.forget(attacker)
        attacker.leave(reset=True)
    return attackers


@dataclass(frozen=True, slots=True)
class _Clocks:
    """Nanoseconds: the wall clock, and the relay's CPU."""

    wall: int
    relay: int

    @staticmethod
    def now(pid: int) -> _Clocks:
        return _Clocks(time.monotonic_ns(), cpu_ns(pid))

    def until_now(self, pid: int) -> _Clocks:
        now = _Clocks.now(pid)
        return _Clocks(now.wall - self.wall, now.relay - self.relay)
