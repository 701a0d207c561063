"""What is measured of an event loop."""

from __future__ import annotations

import asyncio
import time

from flowserver.flow.loop_delay import Found, LoopDelay

from ..support.clock import FakeClock
from ..support.later import Later


def test_it_measures_the_rest_of_a_turn_and_the_next_one() -> None:
    clock, loop, found = FakeClock(0.0), Later(), list[tuple[float, float]]()
    delay = LoopDelay(clock, loop, lambda seconds, call: None)
    delay.measure(lambda *measured: found.append(measured))
    clock.advance(0.25)
    loop.run_once()
    clock.advance(0.5)
    assert not found
    loop.run_once()
    assert found == [(0.75, 0.75)]
    assert loop.is_idle


def test_one_measurement_at_a_time() -> None:
    clock, loop, found = FakeClock(0.0), Later(), list[str]()
    delay = LoopDelay(clock, loop, lambda seconds, call: None)
    delay.measure(lambda *measured: found.append("first"))
    delay.measure(lambda *measured: found.append("second"))
    loop.run()
    delay.measure(lambda *measured: found.append("third"))
    loop.run()
    assert found == ["first", "third"]


def test_a_later_one_begins_later() -> None:
    clock, loop, found = FakeClock(0.0), Later(), list[tuple[float, float]]()
    timers: list[tuple[float, object]] = []
    delay = LoopDelay(clock, loop, lambda seconds, call: timers.append((seconds, call)))
    delay.measure(lambda *measured: found.append(measured), after=0.5)
    assert loop.is_idle
    [(seconds, call)] = timers
    clock.advance(seconds)
    assert callable(call)
    call()
    loop.run()
    assert found == [(0.0, 0.5)]


async def test_of_a_real_loop() -> None:
    loop = asyncio.get_running_loop()
    delay = LoopDelay(time.monotonic, loop.call_soon, loop.call_later)
    for busy in (0.0, 0.05):
        found: asyncio.Future[tuple[float, float]] = loop.create_future()
        delay.measure(_sets(found))
        loop.call_soon(time.sleep, busy)  # the next turn
        seconds, _ = await found
        assert seconds >= busy


def _sets(found: asyncio.Future[tuple[float, float]]) -> Found:
    return lambda seconds, now: found.set_result((seconds, now))
