"""A provider that is a round trip away, over real TCP: nobody waits for the relay's windows, and nobody is ahead of a
client that does not read.

Times are compared with the same without a relay, measured at the same moment. The bounds are wide: they tell windows
that follow from windows that do not, they are no measurements.
"""

from __future__ import annotations

import time
from functools import partial

import pytest

pytest.importorskip("bench.wan")

from bench.client import Client, Connection, request
from bench.peers import Running
from bench.wan.answers import Asker
from bench.wan.reader import Reader, read_for
from bench.wan.stage import Simulator, Stage, bulk_stage, simulator_stage
from bench.wan_rig import why_not

ROUND_TRIP = 0.05
LONGEST = 30.0
KB = 1024

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


def _taken(stage: Stage, relay: Running, message: bytes) -> float:
    """Seconds that the answer takes on a connection that carried the same before."""
    asker = stage.connect(relay, Asker)
    for _ in range(2):
        started = time.monotonic()
        assert asker.ask(message, LONGEST) == 0
        taken = time.monotonic() - started
    asker.leave(reset=True)
    return taken


def _upload(size: int) -> bytes:
    head = f"POST /v1/files HTTP/1.1\r\nhost: test\r\nauthorization: Bearer test\r\ncontent-length: {size}\r\n\r\n"
    return head.encode() + b"x" * size


@pytest.mark.parametrize(
    "message", [request("whole=2000000", stream=False), _upload(2_000_000)], ids=["answer", "upload"]
)
def test_two_megabytes_take_no_longer_than_without_a_relay(message: bytes) -> None:
    with bulk_stage(ROUND_TRIP) as stage, stage.start("flowserver") as relay:
        with stage.start("direct") as direct:
            without = _taken(stage, direct, message)
        assert _taken(stage, relay, message) < 3 * without + ROUND_TRIP


def _read(stage: Stage, relay: Running, message: bytes, seconds: float) -> int:
    """Bytes that come in the second half of so many seconds: by then windows have followed."""
    with Client[Connection]() as client:
        reader = client.add(stage.connect(relay, Connection))
        reader.send(message)
        client.run(seconds / 2)
        before = reader.received
        client.run(seconds / 2)
        return reader.received - before


def test_a_fast_model_far_away_is_not_throttled() -> None:
    message = request("events=0 rate=2000 size=300")  # twelve narrow windows in each round trip
    with simulator_stage(ROUND_TRIP) as (stage, _), stage.start("flowserver") as relay:
        with stage.start("direct") as direct:
            without = _read(stage, direct, message, 3)
        assert _read(stage, relay, message, 3) > 0.8 * without


def _left(simulator: Simulator) -> int:
    """Bytes that the other side's kernel has of the only stream, once it gets no more."""
    left = -1
    while left != (now := next(iter(simulator.streams().values()))["bytes_acknowledged"]):
        left = now
        time.sleep(0.5)
    return left


def _stalled(pace: float | None, message: bytes, seconds: float) -> int:
    """Bytes that left the provider and that a client never read, which read at `pace` (None: as it came) before."""
    with (
        simulator_stage(ROUND_TRIP) as (stage, simulator),
        stage.start("flowserver") as relay,
        Client[Reader]() as client,
    ):
        simulator.forget()
        reader = client.add(stage.connect(relay, partial(Reader, rate=pace, receive_buffer=8 * KB)))
        reader.send(message)
        read_for(client, [reader], seconds)
        reader.rate = 0
        return _left(simulator) - reader.received


def test_a_client_that_stops_reading_stops_a_far_provider() -> None:
    assert _stalled(None, request("events=0 rate=200 size=300"), 2) < 128 * KB


def test_of_a_slow_reader_s_stream_little_has_left_the_provider() -> None:
    assert _stalled(20_000, request("events=0 rate=0 size=300"), 4) < 64 * KB
