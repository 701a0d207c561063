"""A process starts its successor and waits for its answer. Successors are small programs that behave as told."""

from __future__ import annotations

import io
import os
import socket
import sys
from collections.abc import AsyncIterator

import orjson
import pytest

from flowserver.app.handover import Handover
from flowserver.app.listening import ListeningSockets
from flowserver.telemetry.log import Log
from tests.support.lab import eventually

# The test ends them; nobody waits for one that has taken over.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

_SUCCESSOR = """
import os, sys, time
from flowserver.app.inherited import inherited
given = inherited(os.environ)
"""


class Rig:
    """A process that may be replaced."""

    def __init__(self) -> None:
        self.sockets = ListeningSockets(
            (socket.create_server(("127.0.0.1", 0)),), socket.create_server(("127.0.0.1", 0))
        )
        self._output = io.BytesIO()
        self.log = Log("info", self._output)
        self.successors: list[int] = []
        self.handover = self.to("")

    def to(self, program: str, *, ready_time: float = 30, command: list[str] | None = None) -> Handover:
        """A hand-over to a program that does this with `given`."""
        command = command or [sys.executable, "-c", _SUCCESSOR + program]
        self.handover = Handover(self.log, self.sockets, self.successors.append, command=command, ready_time=ready_time)
        return self.handover

    def lines(self, event: str) -> list[dict[str, object]]:
        return [line for line in map(orjson.loads, self._output.getvalue().splitlines()) if line["event"] == event]

    async def line(self, event: str) -> dict[str, object]:
        await eventually(lambda: self.lines(event), event)
        return self.lines(event)[-1]

    def close(self) -> None:
        self.handover.end()
        self.log.close()
        self.sockets.close()
        for pid in self.successors:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


async def test_a_successor_that_is_ready_takes_over(rig: Rig) -> None:
    handover = rig.to("given.ready()\ntime.sleep(60)")
    handover.begin()
    line = await rig.line("handed_over")
    assert rig.successors == [line["successor"]]
    assert rig.lines("handover_failed") == []
    handover.begin()
    assert (await rig.line("handover_ignored"))["reason"] == "this process is ending"


async def test_a_successor_accepts_at_the_same_sockets(rig: Rig) -> None:
    program = """
for each in given.sockets:
    each.listening.setblocking(True)
given.ready()
for each in given.sockets:
    connection, _ = each.listening.accept()
    connection.sendall(each.use.encode())
    connection.close()
time.sleep(60)
"""
    addresses = [each.getsockname() for each in (*rig.sockets.clients, rig.sockets.admin) if each is not None]
    waiting = [socket.create_connection(address, timeout=10) for address in addresses]
    rig.to(program).begin()
    await eventually(lambda: rig.successors)
    rig.sockets.close()
    await eventually(lambda: rig.lines("handed_over"))
    assert [connection.recv(100) for connection in waiting] == [b"clients", b"admin"]
    for connection in waiting:
        connection.close()


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("given.failed(['FLOW_A: no', 'FLOW_B: no'])", "FLOW_A: no; FLOW_B: no"),
        ("sys.exit(3)", "the successor ended with status 3; its last messages are in this log or on standard error"),
        ("os.kill(os.getpid(), 11)", "the successor was killed by SIGSEGV"),
    ],
    ids=["refuses", "ends", "crashes"],
)
async def test_one_that_fails_changes_nothing_and_may_be_tried_again(rig: Rig, program: str, reason: str) -> None:
    handover = rig.to(program)
    for _ in range(2):
        before = len(rig.lines("handover_failed"))
        handover.begin()
        await eventually(lambda before=before: len(rig.lines("handover_failed")) > before)  # type: ignore[misc]
        assert rig.lines("handover_failed")[-1]["reason"] == reason
    assert rig.successors == []


async def test_one_that_does_not_answer_is_ended(rig: Rig) -> None:
    rig.to("time.sleep(60)", ready_time=0.2).begin()
    line = await rig.line("handover_failed")
    assert line["reason"] == "the successor was not ready after 0.2 s"
    assert _is_gone(line["successor"])


async def test_a_program_that_is_not_there_is_said(rig: Rig) -> None:
    rig.to("", command=["/nowhere/flowserver", "serve"]).begin()
    assert (await rig.line("handover_failed"))["reason"] == "/nowhere/flowserver: No such file or directory"


async def test_while_one_is_started_no_other_is(rig: Rig) -> None:
    handover = rig.to("time.sleep(60)")
    handover.begin()
    handover.begin()
    assert (await rig.line("handover_ignored"))["reason"] == "a successor is being started"
    assert len(rig.lines("handover_started")) == 1


async def test_a_process_that_ends_takes_a_successor_that_is_not_ready_with_it(rig: Rig) -> None:
    handover = rig.to("time.sleep(60)")
    handover.begin()
    pid = (await rig.line("handover_started"))["successor"]
    handover.end()
    assert _is_gone(pid)
    handover.begin()
    assert (await rig.line("handover_ignored"))["reason"] == "this process is ending"


def _is_gone(pid: object) -> bool:
    assert isinstance(pid, int)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
