"""What systemd is told: the notices, and the socket that they go to."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowserver.app.service_manager import Notices, ServiceManager, watchdog_time
from flowserver.telemetry.log import Log
from tests.support.lab import LISTENING, Lab, RelayProcess, chat, eventually

STATUS = b"3 streams open"


def _notices(*, has_watchdog: bool = False) -> Notices:
    return Notices(STATUS.decode, has_watchdog=has_watchdog, clock=lambda: 12_345)


# --- what is said ---


def test_the_course_of_a_process() -> None:
    notices = _notices()
    assert notices.ready() == b"READY=1\nSTATUS=serving; 3 streams open"
    assert notices.reloading() == b"RELOADING=1\nMONOTONIC_USEC=12345\nSTATUS=reloading; 3 streams open"
    assert notices.ready("it failed") == b"READY=1\nSTATUS=serving; 3 streams open; it failed"
    assert notices.beat() == b"STATUS=serving; 3 streams open; it failed"
    extended = b"EXTEND_TIMEOUT_USEC=30000000\nSTATUS=ending; 3 streams open"
    assert notices.stopping() == b"STOPPING=1\n" + extended
    assert notices.beat() == extended


def test_one_that_was_relieved_says_nothing_more() -> None:
    notices = _notices(has_watchdog=True)
    notices.ready()
    assert notices.main_process(77) == b"MAINPID=77"
    assert notices.ready() == notices.reloading() == notices.stopping() == notices.beat() == b""


def test_signs_of_life_are_given_where_they_are_wanted() -> None:
    assert b"WATCHDOG=1" not in _notices().beat()
    assert b"WATCHDOG=1" in _notices(has_watchdog=True).beat().split(b"\n")


def test_a_process_that_ends_neither_reloads_nor_serves_again() -> None:
    notices = _notices(has_watchdog=True)
    notices.stopping()
    assert notices.reloading() == notices.ready() == b""
    assert b"STATUS=ending" in notices.beat()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "42"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "41"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": ""}, None),
    ],
)
def test_whose_signs_of_life_are_wanted(environ: dict[str, str], seconds: float | None) -> None:
    assert watchdog_time(environ, 42) == seconds


# --- the socket ---


class Listening:
    """A NOTIFY_SOCKET."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self._socket.setblocking(False)
        self.lines: list[str] = []

    def hear(self) -> list[str]:
        """The lines so far."""
        while True:
            try:
                self.lines += self._socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return self.lines

    def names(self) -> list[str]:
        """What was said so far, without the figures."""
        return [line.partition("=")[0] for line in self.hear() if not line.startswith("STATUS=")]

    def fill(self) -> None:
        """Have no room for more, from nobody."""
        while True:  # each speaker has a buffer of its own, which may be full first
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
                speaker.setblocking(False)
                try:
                    speaker.sendto(b"X=1", self._socket.getsockname())
                except BlockingIOError:
                    return

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listening]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@flowserver-test-{os.getpid()}"
    made = Listening(name)
    yield made
    made.close()


def _manager(environ: dict[str, str], log: io.BytesIO | None = None) -> ServiceManager:
    return ServiceManager(environ, Log("info", log or io.BytesIO()), STATUS.decode)


async def test_notices_arrive_whatever_the_kind_of_address(listening: Listening) -> None:
    manager = _manager({"NOTIFY_SOCKET": listening.name})
    manager.ready()
    manager.reloading()
    manager.ready()
    manager.stopping()
    manager.close()
    assert listening.names() == ["READY", "RELOADING", "MONOTONIC_USEC", "READY", "STOPPING", "EXTEND_TIMEOUT_USEC"]
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    [told] = [int(line.partition("=")[2]) for line in listening.lines if line.startswith("MONOTONIC_USEC=")]
    assert 0 <= now - told < 60_000_000


async def test_signs_of_life_come_while_the_loop_turns(listening: Listening) -> None:
    manager = _manager({"NOTIFY_SOCKET": listening.name, "WATCHDOG_USEC": "100000", "WATCHDOG_PID": str(os.getpid())})
    manager.ready()
    await eventually(lambda: listening.names().count("WATCHDOG") >= 4)
    before = len(listening.hear())
    time.sleep(0.3)  # noqa: ASYNC251 - the loop is to stand still
    assert len(listening.hear()) == before
    await eventually(lambda: len(listening.hear()) > before)
    manager.close()


async def test_nothing_is_lost_while_there_is_no_room(listening: Listening) -> None:
    manager = _manager({"NOTIFY_SOCKET": listening.name})
    listening.fill()
    manager.ready()
    manager.stopping()
    assert set(listening.hear()) == {"X=1"}
    await eventually(lambda: "STOPPING=1" in listening.hear())
    assert [line for line in listening.lines if line in ("READY=1", "STOPPING=1")] == ["READY=1", "STOPPING=1"]
    manager.close()


async def test_after_a_hand_over_the_successor_speaks(listening: Listening) -> None:
    manager = _manager({"NOTIFY_SOCKET": listening.name})
    manager.ready()
    manager.hand_over(4321)
    manager.stopping()
    assert listening.hear()[-1] == "MAINPID=4321"


async def test_that_another_takes_over_is_told_when_there_is_room(listening: Listening) -> None:
    manager = _manager({"NOTIFY_SOCKET": listening.name})
    listening.fill()
    manager.hand_over(4321)
    listening.hear()
    await eventually(lambda: listening.hear()[-1] == "MAINPID=4321")


async def test_one_that_cannot_be_reached_is_mentioned_once_and_tried_again(tmp_path: Path) -> None:
    log = io.BytesIO()
    path = str(tmp_path / "late")
    manager = _manager({"NOTIFY_SOCKET": path}, log)
    manager.ready()
    manager.reloading()
    await eventually(lambda: log.getvalue().count(b"service_manager_unreachable") == 1)
    listening = Listening(path)
    await eventually(lambda: listening.names() == ["READY", "RELOADING", "MONOTONIC_USEC"])
    manager.close()
    listening.close()
    assert log.getvalue().count(b"service_manager_unreachable") == 1


async def test_without_one_nothing_happens() -> None:
    for environ in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}):
        manager = _manager(environ)
        manager.ready()
        manager.stopping()
        manager.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


# --- the whole ---


async def _process(url: str, listening: Listening, **settings: str) -> RelayProcess:
    environ = {"NOTIFY_SOCKET": listening.name, "WATCHDOG_USEC": "200000", "FLOW_UPSTREAM": url}
    process = RelayProcess(LISTENING | environ | settings)
    await process.start()
    return process


async def test_a_relay_tells_its_course(lab: Lab, listening: Listening) -> None:
    simulator = await lab.simulator()
    process = await _process(simulator.url, listening)
    try:
        client = await lab.client(process.port)
        await client.send(chat(events=0, rate=100))
        await client.until(b"tok000003")
        process.signal(signal.SIGHUP)
        await eventually(lambda: listening.names().count("READY") == 2)
        await eventually(lambda: "STATUS=serving; 1 stream open" in listening.hear())
        process.signal(signal.SIGTERM)
        await eventually(lambda: listening.names().count("EXTEND_TIMEOUT_USEC") >= 3, "more time is asked for")
        assert "STATUS=ending; 1 stream open" in listening.lines
        process.signal(signal.SIGTERM)
        assert await process.exit_status() == 0
    finally:
        await process.close()
    said = [name for name in listening.names() if name not in ("WATCHDOG", "EXTEND_TIMEOUT_USEC")]
    assert said == ["READY", "RELOADING", "MONOTONIC_USEC", "READY", "STOPPING"]
    assert "WATCHDOG" in listening.names()


async def test_a_reload_that_failed_is_told(listening: Listening, tmp_path: Path) -> None:
    config = tmp_path / "flowserver.toml"
    config.write_text('[[upstreams]]\nname = "a"\nurl = "http://127.0.0.1:9"\n')
    process = RelayProcess(LISTENING | {"NOTIFY_SOCKET": listening.name, "FLOW_CONFIG": str(config)})
    await process.start()
    try:
        config.write_text("nonsense")
        process.signal(signal.SIGHUP)
        failed = "STATUS=serving; 0 streams open; the last reload failed, see the log"
        await eventually(lambda: failed in listening.hear())
    finally:
        await process.close()
