"""The end of a process: what signals ask for."""

from __future__ import annotations

import asyncio
import io
import signal

import orjson
import pytest

from flowserver.app.ending import Ending
from flowserver.telemetry.log import Log


class Scene:
    def __init__(self) -> None:
        self._output = io.BytesIO()
        self._log = Log("info", self._output)
        self.ending = Ending(self._log)

    def lines(self) -> list[dict[str, object]]:
        """All that was logged."""
        self._log.close()
        return [orjson.loads(line) for line in self._output.getvalue().splitlines()]


async def test_the_first_signal_asks_for_the_end() -> None:
    scene = Scene()
    ending = scene.ending
    waiting = asyncio.ensure_future(ending.wanted())
    await asyncio.sleep(0)
    assert not waiting.done()
    ending.on_signal(signal.SIGTERM)
    await waiting
    assert scene.lines() == []


async def test_work_is_done_before_the_end() -> None:
    ending = Scene().ending
    done = []

    async def work() -> None:
        await asyncio.sleep(0.01)
        done.append(True)

    ending.ask()
    await ending.unless_hurried(work())
    assert done == [True]


async def test_a_second_signal_cancels_the_work_and_says_so_once() -> None:
    scene = Scene()
    ending = scene.ending
    ending.on_signal(signal.SIGTERM)
    working = asyncio.ensure_future(ending.unless_hurried(asyncio.sleep(3600)))
    await asyncio.sleep(0)
    ending.on_signal(signal.SIGINT)
    ending.on_signal(signal.SIGINT)
    await working
    [line] = scene.lines()
    assert (line["event"], line["signal"], line["level"]) == ("ending_at_once", "SIGINT", "warning")


async def test_a_mistake_in_the_work_is_seen() -> None:
    ending = Scene().ending

    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await ending.unless_hurried(work())


async def test_a_signal_after_a_drain_is_the_first_one() -> None:
    scene = Scene()
    ending = scene.ending
    ending.drain()
    await ending.wanted()
    working = asyncio.ensure_future(ending.unless_hurried(asyncio.sleep(60)))
    ending.drain()
    ending.on_signal(signal.SIGTERM)
    await asyncio.sleep(0.01)
    assert not working.done()
    ending.on_signal(signal.SIGTERM)
    await working
    [line] = scene.lines()
    assert line["event"] == "ending_at_once"


async def test_a_drain_after_a_signal_changes_nothing() -> None:
    scene = Scene()
    scene.ending.on_signal(signal.SIGTERM)
    scene.ending.drain()
    scene.ending.on_signal(signal.SIGTERM)
    assert [line["event"] for line in scene.lines()] == ["ending_at_once"]
