"""The rig of namespaces with distance: what a link does to packets, and that nothing is left of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.processes import python_module, repository
from bench.wan_rig import Joint, Link, Rig, why_not
from bench.wan_rig.link import Direction

PACKET = b"x" * 1000


def _arrivals(direction: Direction) -> list[float]:
    return [round(arrival, 6) for arrival, _ in direction.waiting]


def test_a_packet_arrives_after_the_delay() -> None:
    direction = Direction(Link(delay=0.02), seed=1)
    for moment in (1.0, 1.5):
        direction.take(PACKET, moment)
    assert _arrivals(direction) == [1.02, 1.52]


def test_jitter_keeps_the_order() -> None:
    direction = Direction(Link(delay=0.02, jitter=0.01), seed=1)
    for number in range(200):
        direction.take(b"%d" % number, number / 1000)
    delays = [arrival - number / 1000 for number, (arrival, _) in enumerate(direction.waiting)]
    assert [packet for _, packet in direction.waiting] == [b"%d" % number for number in range(200)]
    assert sorted(_arrivals(direction)) == _arrivals(direction)
    assert 0.02 <= min(delays) < 0.022
    assert 0.028 < max(delays) <= 0.03


def test_a_rate_spreads_packets_and_drops_what_its_queue_does_not_take() -> None:
    direction = Direction(Link(rate=8000, queue=3000), seed=1)
    for _ in range(5):
        direction.take(PACKET, 1.0)
    assert _arrivals(direction) == [1.125, 1.25, 1.375]
    direction.take(PACKET, 1.0625)
    direction.take(PACKET, 1.125)
    assert _arrivals(direction) == [1.125, 1.25, 1.375, 1.5]


def test_a_share_of_packets_is_lost_the_same_ones_in_every_run() -> None:
    lossy = [Direction(Link(loss=0.2), seed=seed) for seed in (1, 1, 2)]
    for direction in lossy:
        for number in range(1000):
            direction.take(b"%d" % number, 1.0)
    first, again, other = [[packet for _, packet in direction.waiting] for direction in lossy]
    assert 750 < len(first) < 850
    assert first == again != other


@pytest.fixture
def rig() -> Iterator[Rig]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with Rig("near", "far") as made:
        yield made


def _connect(rig: Rig, joint: Joint) -> tuple[socket.socket, socket.socket]:
    with rig["far"].entered(), socket.create_server((joint.far, 0)) as listener:
        port = listener.getsockname()[1]
        with rig["near"].entered():
            client = socket.create_connection((joint.far, port), 10)
        accepted, _ = listener.accept()
        accepted.settimeout(10)
        return client, accepted


def test_a_connection_is_as_far_as_the_link_says(rig: Rig) -> None:
    joint = rig.join("near", "far", Link(delay=0.03))
    client, accepted = _connect(rig, joint)
    with client, accepted:
        started = time.monotonic()
        client.sendall(b"there")
        accepted.sendall(accepted.recv(100) + b" and back")
        assert client.recv(100) == b"there and back"
        assert time.monotonic() - started >= 0.06
        assert accepted.getpeername()[0] == joint.near


def test_what_is_sent_in_an_outage_comes_after_it(rig: Rig) -> None:
    joint = rig.join("near", "far", Link(delay=0.005))
    client, accepted = _connect(rig, joint)
    with client, accepted:
        until = joint.outage(0.3)
        client.sendall(b"late")
        assert accepted.recv(100) == b"late"
        assert time.monotonic() >= until


def test_a_link_changes_under_a_connection(rig: Rig) -> None:
    joint = rig.join("near", "far", Link())
    client, accepted = _connect(rig, joint)
    with client, accepted:
        joint.change(Link(delay=0.05))
        time.sleep(0.1)
        started = time.monotonic()
        client.sendall(b"slow")
        assert accepted.recv(100) == b"slow"
        assert time.monotonic() - started >= 0.05


def test_bytes_arrive_whole_over_a_lossy_link(rig: Rig) -> None:
    joint = rig.join("near", "far", Link(delay=0.002, jitter=0.002, loss=0.02))
    client, accepted = _connect(rig, joint)
    sent = bytes(range(256)) * 400
    with client, accepted:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        received = b""
        while data := accepted.recv(65536):
            received += data
    assert received == sent


def test_a_namespace_has_only_what_the_rig_gave_it(rig: Rig) -> None:
    rig.join("near", "far", Link())
    before = sorted(name for _, name in socket.if_nameindex())
    with rig["near"].entered():
        assert sorted(name for _, name in socket.if_nameindex()) == ["link0", "lo"]
        assert not Path("/proc/net/if_inet6").exists() or not Path("/proc/thread-self/net/if_inet6").read_text()
        assert Path("/proc/sys/net/ipv4/tcp_no_metrics_save").read_text().strip() == "1"
    assert sorted(name for _, name in socket.if_nameindex()) == before


_ENDS_AT_ONCE = """
import os, signal
from bench.wan_rig import Link, Rig
rig = Rig("near", "far")
rig.join("near", "far", Link())
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_left_when_its_user_is_killed(rig: Rig) -> None:
    command = [python_module()[0], "-c", _ENDS_AT_ONCE]
    # Returns when nobody has its stderr any more: the forwarder has ended too.
    ended = subprocess.run(command, cwd=repository(), capture_output=True, timeout=20, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def test_nothing_is_left_when_it_is_closed(rig: Rig) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with Rig("one", "other") as second:
        forwarder = second.join("one", "other", Link()).pid
        assert Path("/proc", str(forwarder)).exists()
    assert not Path("/proc", str(forwarder)).exists()
    assert len(os.listdir("/proc/self/fd")) == descriptors
