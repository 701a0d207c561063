"""SO_REUSEPORT with clients far away: their handshakes are under way when the old process closes its socket."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.processes import Process, python_module
from bench.wan_rig import Link, Namespace, Rig, why_not
from tests.support.lab import eventually

PORT = 8080
SETTINGS = {
    "FLOW_UPSTREAM": "http://127.0.0.1:9",
    "FLOW_LISTEN": f"0.0.0.0:{PORT}",
    "FLOW_ADMIN_LISTEN": "off",
    "FLOW_REUSE_PORT": "on",
}
ASKING = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"

pytestmark = [pytest.mark.serial, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig("near", "far") as rig:
        yield rig


def _start(place: Namespace) -> Process:
    with place.entered():
        return Process(python_module("flowserver", "serve"), PORT, environment=SETTINGS)


def _listening(place: Namespace) -> int:
    """How many sockets listen there."""
    with place.entered():
        lines = Path("/proc/thread-self/net/tcp").read_text().splitlines()
    return sum(line.split()[1].endswith(f":{PORT:04X}") and line.split()[3] == "0A" for line in lines)


async def _ask(place: Namespace, host: str, answers: Counter[str]) -> None:
    """Connect, and have any answer."""
    loop = asyncio.get_running_loop()
    with place.entered():
        client = socket.socket()
    client.setblocking(False)
    try:
        async with asyncio.timeout(10):
            await loop.sock_connect(client, (host, PORT))
            await loop.sock_sendall(client, ASKING)
            answers[(await loop.sock_recv(client, 8)).decode()] += 1
    except (OSError, TimeoutError) as error:
        answers[repr(error)] += 1
    finally:
        client.close()


async def test_no_handshake_under_way_is_lost(rig: Rig) -> None:
    joint = rig.join("near", "far", Link(delay=0.1))
    answers: Counter[str] = Counter()
    with _start(rig["far"]) as old, _start(rig["far"]):
        await eventually(lambda: _listening(rig["far"]) == 2, "both listen")
        async with asyncio.TaskGroup() as asking:
            for number in range(200):
                asking.create_task(_ask(rig["near"], joint.far, answers))
                if number == 50:
                    os.kill(old.pid, signal.SIGTERM)
                await asyncio.sleep(0.005)
        assert answers == {"HTTP/1.1": 200}
        await eventually(lambda: _listening(rig["far"]) == 1, "the old one has closed its socket")
