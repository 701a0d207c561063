"""Relays with distance: what is counted, and each part once, on tiny settings."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("bench.wan")

from bench.wan import custody, outages, stalls
from bench.wan.findings import Findings
from bench.wan.outages import AFTER, CALM, Timetable
from bench.wan.reader import Body
from bench.wan.stalls import Load
from bench.wan_rig import why_not

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
RATE = 50.0


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
@pytest.mark.parametrize("chunks", [(300,) * 4, (1200,), (1, 1199)])
def test_a_body_has_the_same_size_however_it_is_chunked_and_read(chunks: tuple[int, ...], step: int) -> None:
    wire = HEAD + b"".join(b"%x\r\n%b\r\n" % (size, b"\r\n" * (size // 2) + b"x" * (size % 2)) for size in chunks)
    body = Body()
    for position in range(0, len(wire), step):
        body.feed(wire[position : position + step])
    assert body.size == 1200


def test_of_a_chunk_that_has_begun_what_came_counts() -> None:
    body = Body()
    body.feed(HEAD + b"3e8\r\nabc")
    assert body.size == 3


def test_the_aim_of_over_read_follows_the_reader() -> None:
    assert Load(50, 250, None).allowed(0.05) == 64 * 1024
    assert Load(0, 1000, 1_000_000).allowed(0.05) == 64 * 1024 + 300_000


def test_fast_readers_take_turns() -> None:
    assert list(Load(50, 250, None).turns(100)) == [100]
    assert list(Load(0, 4000, 10_000_000).turns(10)) == [4, 4, 2]


def test_the_aim_of_custody_is_half_a_second_or_an_event() -> None:
    assert custody.allowed(1_000_000, 300) == 500_000
    assert custody.allowed(5_000, 300) == 300 + 4096


def _arrivals(late: Callable[[float], float]) -> list[float]:
    """When the events of ten seconds come; `late` takes their times."""
    times = [100 + number / RATE for number in range(500)]
    return [moment + late(moment) for moment in times]


def test_a_client_has_caught_up_when_events_come_in_time_again() -> None:
    # The link is gone from 105 to 108, and the rest comes at 108.4.
    arrivals = _arrivals(lambda moment: max(0.0, 108.4 - moment) if moment >= 105 else 0.0)
    table = Timetable.of(arrivals, RATE)
    assert table.first == pytest.approx(100)
    assert table.caught_up(arrivals, 108) == pytest.approx(0.4, abs=1 / RATE)
    assert max(table.late(arrivals)) == pytest.approx(3.4)


def test_one_that_stays_behind_has_not() -> None:
    arrivals = _arrivals(lambda moment: 0.5 if moment > 100 + CALM else 0.0)
    assert Timetable.of(arrivals, RATE).caught_up(arrivals, 104) == AFTER


@pytest.fixture
def findings() -> Findings:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    return Findings()


def _seen(findings: Findings, what: str, relay: str = "flowserver") -> list[float]:
    figures = findings.figures.figures()
    return [figure.median for figure in figures if figure.what.startswith(what) and figure.relay == relay]


@pytest.mark.slow
@pytest.mark.serial
def test_over_read_is_measured_beside_direct(findings: Findings) -> None:
    loads = (Load(0, 1000, 1_000_000),)
    # Nearby, the kernels' buffers differ by more than what the relay takes.
    settings = stalls.Settings(round_trips=(0.05,), loads=loads, clients=2, reads=2, longest=5)
    stalls.measure(("flowserver", "direct"), settings, findings)
    (direct,), (relay,) = _seen(findings, "over-read, unpaced", "direct"), _seen(findings, "over-read, unpaced")
    assert 0 < direct < relay
    (line,) = findings.series()
    ((pace, beyond),) = line.points
    assert pace == 1000
    assert beyond == pytest.approx(relay - direct)


@pytest.mark.slow
@pytest.mark.serial
def test_custody_is_measured_of_each_reader(findings: Findings) -> None:
    settings = custody.Settings(round_trips=(0,), paces=(5_000, 200_000), sizes=(300,), warm_up=0.5, window=1)
    custody.measure(("flowserver", "direct"), settings, findings)
    slow, fast = _seen(findings, "custody p99, ")
    assert slow > fast > 0
    assert all(share > 50 for share in _seen(findings, "read of the pace"))
    assert [line.relay for line in findings.series()] == ["flowserver"] * 2


@pytest.mark.slow
@pytest.mark.serial
def test_nothing_is_lost_behind_a_bad_link(findings: Findings) -> None:
    settings = outages.Settings(clients=2, every=3, gone=0.5, outages=1, loss=0.05, lossy=1, rounds=1)
    outages.measure(("flowserver", "direct"), settings, findings)
    assert _seen(findings, "streams not whole") == [0, 0]
    (taken,) = _seen(findings, "caught up after an outage")
    assert 0 < taken < AFTER
    assert len(_seen(findings, "beside direct: caught up after an outage")) == 1
