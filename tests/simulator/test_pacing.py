"""The ticker, on a clock that is turned by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

from flowserver.simulator.pacing import Ticker


class Timer:
    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """As much of an event loop as the ticker uses."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.seconds

    def call_at(self, when: float, call: Callable[[], None], *_: Any) -> Timer:
        self.timers.append(Timer(when, call))
        return self.timers[-1]

    def live(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.cancelled]

    def turn(self, seconds: float) -> None:
        self.seconds += seconds
        due = [timer for timer in self.live() if timer.when <= self.seconds]
        self.timers = [timer for timer in self.live() if timer not in due]
        for timer in due:
            timer.call()


class Beat:
    def __init__(self, interval: float, times: int) -> None:
        self.interval = interval
        self.left = times
        self.due = 0.0
        self.fired: list[float] = []

    def start(self, ticker: Ticker, due: float) -> None:
        self.due = due
        ticker.add(self, due)

    def fire(self, now: float) -> float:
        assert now >= self.due
        self.fired.append(now)
        self.left -= 1
        self.due += self.interval
        return self.due if self.left else 0.0


def made() -> tuple[Clock, Ticker]:
    clock = Clock()
    return clock, Ticker(cast(asyncio.AbstractEventLoop, clock))


def test_one_timer_serves_all() -> None:
    clock, ticker = made()
    beats = [Beat(20.0, 5) for _ in range(50)]
    for beat in beats:
        beat.start(ticker, ticker.now() + ticker.phase() * 20)
        assert len(clock.live()) == 1
    for _ in range(130):
        clock.turn(0.001)
        assert len(clock.live()) <= 1
    assert [len(beat.fired) for beat in beats] == [5] * 50
    assert clock.live() == []


def test_an_earlier_time_moves_the_timer_forward() -> None:
    clock, ticker = made()
    late, early = Beat(1, 1), Beat(1, 1)
    late.start(ticker, ticker.now() + 1000)
    early.start(ticker, ticker.now() + 10)
    clock.turn(0.02)
    assert (len(late.fired), len(early.fired)) == (0, 1)
    clock.turn(1)
    assert len(late.fired) == 1


def test_phases_are_spread_evenly() -> None:
    _, ticker = made()
    phases = sorted(ticker.phase() for _ in range(100))
    gaps = [after - before for before, after in pairwise(phases)]
    assert max(gaps) < 0.02


def test_nothing_fires_after_close() -> None:
    clock, ticker = made()
    beat = Beat(1, 9)
    beat.start(ticker, ticker.now() + 5)
    ticker.close()
    clock.turn(1)
    assert beat.fired == []
