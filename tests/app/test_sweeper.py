"""Deadlines are looked at in slices: see `app.sweeper`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import pytest

from flowserver.app.sweeper import PAUSE, Sweeper
from flowserver.telemetry.slices import SLICE


class Scene:
    """A sweeper whose steps take `step` seconds each, of a clock that only they advance."""

    def __init__(self, steps: int, step: float, interval: float = 0.01) -> None:
        self.now = 0.0
        self.steps, self.step = steps, step
        self.done: list[int] = []
        self.late: list[float] = []
        self._wanted, self._reached = 0, asyncio.Event()
        loop = asyncio.get_running_loop()
        self.sweeper = Sweeper(loop, self._look, self.late.append, interval, lambda: self.now)

    def _look(self) -> Iterator[None]:
        for number in range(self.steps):
            self.now += self.step
            self.done.append(number)
            if len(self.done) == self._wanted:
                self._reached.set()
            yield

    async def until(self, done: int) -> None:
        self._wanted = done
        await self._reached.wait()
        self._reached.clear()


async def test_a_long_look_leaves_turns_to_others() -> None:
    scene = Scene(steps=100, step=SLICE / 4, interval=0.01)
    scene.sweeper.start()
    most = before = 0
    while len(scene.done) < 100:
        await asyncio.sleep(0)
        most, before = max(most, len(scene.done) - before), len(scene.done)
    scene.sweeper.stop()
    assert most == 4


async def test_looks_follow_one_another_and_never_overlap() -> None:
    scene = Scene(steps=3, step=0)
    scene.sweeper.start()
    await scene.until(9)
    scene.sweeper.stop()
    assert scene.done[:9] == [0, 1, 2] * 3
    assert scene.late
    assert min(scene.late) >= 0


async def test_hurrying_looks_at_once_and_again_after_a_look_under_way() -> None:
    scene = Scene(steps=8, step=SLICE / 4, interval=60)
    scene.sweeper.start()
    scene.sweeper.hurry()
    assert scene.done == [0, 1, 2, 3]
    scene.sweeper.hurry()
    await scene.until(16)
    assert scene.done == [*range(8), *range(8)]
    await asyncio.sleep(0.01)
    scene.sweeper.stop()
    assert len(scene.done) == 16


async def test_nothing_is_looked_at_once_it_has_stopped() -> None:
    scene = Scene(steps=8, step=SLICE, interval=60)
    scene.sweeper.hurry()
    assert not scene.done, "it had not been started"
    scene.sweeper.start()
    scene.sweeper.hurry()
    scene.sweeper.stop()
    await asyncio.sleep(0.01)
    assert scene.done == [0]


async def test_a_look_that_fails_does_not_end_those_after_it() -> None:
    failed: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failed.append(context.get("exception")))

    looks = 0

    def look() -> Iterator[None]:
        nonlocal looks
        looks += 1
        yield
        raise ValueError("broken")

    sweeper = Sweeper(asyncio.get_running_loop(), look, lambda seconds: None, 0.005, lambda: 0.0)
    sweeper.start()
    for _ in range(1000):
        if looks >= 3:
            break
        await asyncio.sleep(0.005)
    sweeper.stop()
    assert looks >= 3
    assert all(isinstance(each, ValueError) for each in failed)


@pytest.mark.parametrize("before", [1, 5])
async def test_another_interval_holds_from_the_next_look_on(before: int) -> None:
    scene = Scene(steps=1, step=0, interval=0.001)
    scene.sweeper.start()
    await scene.until(before)
    scene.sweeper.interval = 60
    await asyncio.sleep(0.02)
    settled = len(scene.done)
    await asyncio.sleep(0.02)
    scene.sweeper.stop()
    assert len(scene.done) == settled


class Schedule:
    """The event loop of a sweeper, with what was scheduled, as (delay, callback); at once is 0."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Callable[..., object]]] = []

    def call_later(self, delay: float, callback: Callable[..., object], *arguments: object) -> None:
        self.calls.append((delay, partial(callback, *arguments)))

    def call_soon(self, callback: Callable[..., object]) -> None:
        self.calls.append((0, callback))

    def run(self) -> float:
        """Make the call that was scheduled last. Returns its delay."""
        delay, callback = self.calls.pop()
        callback()
        return delay


def test_it_pauses_between_slices_until_half_of_the_interval_is_over() -> None:
    now, interval = 0.0, 0.1

    def look() -> Iterator[None]:
        nonlocal now
        while True:
            now += 2 * SLICE
            yield

    schedule = Schedule()
    sweeper = Sweeper(cast(asyncio.AbstractEventLoop, schedule), look, lambda late: None, interval, lambda: now)
    sweeper.start()
    assert schedule.run() == interval
    while now < interval / 2:
        assert schedule.run() == PAUSE
    assert [schedule.run() for _ in range(5)] == [0] * 5


def test_it_makes_no_pauses_if_it_hurries() -> None:
    now = 0.0

    def look() -> Iterator[None]:
        nonlocal now
        for _ in range(4):
            now += 2 * SLICE
            yield

    schedule = Schedule()
    sweeper = Sweeper(cast(asyncio.AbstractEventLoop, schedule), look, lambda late: None, 60, lambda: now)
    sweeper.start()
    schedule.run()
    sweeper.hurry()
    assert schedule.run() == PAUSE, "it was scheduled before"
    assert [schedule.run() for _ in range(5)] == [0] * 5
