"""Batches, tries and losses of the exporter, with a collector in memory."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate

import orjson
import pytest

from flowserver.telemetry.log import Log
from flowserver.telemetry.otlp import resource, scope, span
from flowserver.telemetry.otlp_http import CollectorError, Reply
from flowserver.telemetry.span_exporter import BATCH, MOST_BYTES, MOST_WAITING, TRIES, Pace, SpanExporter, Told

from ..support.collector import decoded
from ..support.wire import PATIENCE

QUICK = Pace(delay=0.02, timeout=5.0, pause=0.01, end=0.5)
SPAN = span([])
TAKEN = Reply(200, "", b"")


class FakeCollector:
    """Says what it is told to, then that it takes all; without `may_answer` it lets every request wait."""

    def __init__(self, *answers: Reply | CollectorError) -> None:
        self._answers = list(answers)
        self.sizes: list[int] = []
        """Spans of each request."""
        self.times: list[float] = []
        self.timeouts: list[float] = []
        self.closed = 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def post(self, body: bytes, headers: list[tuple[bytes, bytes]], timeout: float) -> Reply:
        assert (b"content-length", str(len(body)).encode()) in headers
        [each] = decoded(body).resource_spans
        self.sizes.append(len(each.scope_spans[0].spans))
        self.times.append(time.monotonic())
        self.timeouts.append(timeout)
        if not self.may_answer.wait(timeout):
            raise CollectorError("no reply")
        answer = self._answers.pop(0) if self._answers else TAKEN
        if isinstance(answer, CollectorError):
            raise answer
        return answer

    def close(self) -> None:
        self.closed += 1


class Scene:
    def __init__(self) -> None:
        self.output = io.BytesIO()
        self.log = Log("info", self.output)
        self.exporters: list[SpanExporter] = []

    def exporter(self, collector: FakeCollector, pace: Pace = QUICK) -> SpanExporter:
        told = Told(resource([]), scope("s", "1"))
        exporter = SpanExporter(collector, told, [(b"a", b"b")], log=self.log, random=lambda: 0.5, pace=pace)
        self.exporters.append(exporter)
        return exporter

    def ended(self, exporter: SpanExporter) -> None:
        exporter.end()
        deadline = time.monotonic() + PATIENCE
        while exporter.is_running:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def events(self) -> list[str]:
        self.log.close()
        return [orjson.loads(line)["event"] for line in self.output.getvalue().splitlines()]


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    for exporter in made.exporters:
        made.ended(exporter)
    made.log.close()


def until(exporter: SpanExporter, exported: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while exporter.exported < exported:
        assert time.monotonic() < deadline, exporter.exported
        time.sleep(0.001)


def lost(exporter: SpanExporter) -> dict[str, int]:
    return {reason: number for reason, number in exporter.dropped.items() if number}


def test_what_waits_goes_together_in_batches(scene: Scene) -> None:
    collector = FakeCollector()
    exporter = scene.exporter(collector)
    for _ in range(2 * BATCH + 7):
        exporter.put(SPAN)
    exporter.start()
    until(exporter, 2 * BATCH + 7)
    assert collector.sizes == [BATCH, BATCH, 7]
    assert lost(exporter) == {}


def test_a_full_batch_does_not_wait(scene: Scene) -> None:
    collector = FakeCollector()
    exporter = scene.exporter(collector, Pace(delay=PATIENCE * 2))
    exporter.start()
    for _ in range(BATCH):
        exporter.put(SPAN)
    until(exporter, BATCH)


def test_a_queue_that_is_full_drops_what_comes(scene: Scene) -> None:
    collector = FakeCollector()
    exporter = scene.exporter(collector)
    for _ in range(MOST_WAITING + 5):
        exporter.put(SPAN)
    assert lost(exporter) == {"queue_full": 5}
    exporter.start()
    until(exporter, MOST_WAITING)
    exporter.put(SPAN)
    until(exporter, MOST_WAITING + 1)
    assert lost(exporter) == {"queue_full": 5}


def test_a_queue_is_full_by_bytes_too(scene: Scene) -> None:
    exporter = scene.exporter(FakeCollector())
    large = span([bytes(MOST_BYTES // 8)])
    for _ in range(12):
        exporter.put(large)
    assert 2 <= lost(exporter)["queue_full"] <= 4


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_pass_is_tried_again(scene: Scene, status: int) -> None:
    collector = FakeCollector(Reply(status, "", b""), CollectorError("gone"))
    exporter = scene.exporter(collector)
    exporter.put(SPAN)
    exporter.start()
    until(exporter, 1)
    assert collector.sizes == [1, 1, 1]
    assert collector.times[2] - collector.times[1] >= 2 * QUICK.pause > collector.times[1] - collector.times[0] - 1
    assert scene.events() == ["traces_failing", "traces_recovered"]


def test_no_longer_than_it_makes_sense(scene: Scene) -> None:
    collector = FakeCollector(*[CollectorError("gone")] * TRIES)
    exporter = scene.exporter(collector)
    exporter.put(SPAN)
    exporter.put(SPAN)
    exporter.start()
    while exporter.dropped["unreachable"] < 2:
        time.sleep(0.001)
    exporter.put(SPAN)
    until(exporter, 1)
    assert collector.sizes == [2] * TRIES + [1]
    assert lost(exporter) == {"unreachable": 2}
    assert scene.events() == ["traces_failing", "traces_recovered"]


@pytest.mark.parametrize("status", [302, 400, 401, 404, 413, 415, 500])
def test_what_is_refused_is_lost(scene: Scene, status: int) -> None:
    collector = FakeCollector(Reply(status, "", b""))
    exporter = scene.exporter(collector)
    exporter.put(SPAN)
    exporter.start()
    while not exporter.dropped["refused"]:
        time.sleep(0.001)
    exporter.put(SPAN)
    until(exporter, 1)
    assert collector.sizes == [1, 1]
    assert lost(exporter) == {"refused": 1}


def test_it_does_not_claim_more_than_was_sent(scene: Scene) -> None:
    collector = FakeCollector(Reply(200, "", b"\x0a\x03\x08\xff\x7f"))
    exporter = scene.exporter(collector)
    exporter.put(SPAN)
    exporter.start()
    while not exporter.dropped["refused"]:
        time.sleep(0.001)
    assert (exporter.exported, lost(exporter)) == (0, {"refused": 1})


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_collector_that_asks_to_be_left_alone_is(scene: Scene, form: str) -> None:
    after = "2" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    collector = FakeCollector(Reply(429, after, b""))
    exporter = scene.exporter(collector)
    exporter.put(SPAN)
    exporter.start()
    until(exporter, 1)
    assert collector.times[1] - collector.times[0] > 0.9


@pytest.mark.parametrize(
    "after", ["soon", "-1", "9" * 30, "Thu, 99 Jan 2026 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:00"]
)
def test_a_pause_that_makes_no_sense_is_the_exporters_own(scene: Scene, after: str) -> None:
    exporter = scene.exporter(FakeCollector(Reply(503, after, b"")))
    exporter.put(SPAN)
    exporter.start()
    until(exporter, 1)


def test_what_waits_is_sent_at_the_end(scene: Scene) -> None:
    collector = FakeCollector()
    exporter = scene.exporter(collector, Pace(delay=PATIENCE * 2))
    exporter.start()
    for _ in range(3):
        exporter.put(SPAN)
    scene.ended(exporter)
    assert (exporter.exported, collector.sizes, collector.closed) == (3, [3], 1)


def test_the_end_comes_though_nobody_answers(scene: Scene) -> None:
    collector = FakeCollector()
    collector.may_answer.clear()
    exporter = scene.exporter(collector)
    exporter.start()
    for _ in range(BATCH + 4):
        exporter.put(SPAN)
    while not collector.sizes:
        time.sleep(0.001)
    exporter.end()
    for timeout in collector.timeouts:
        assert timeout <= QUICK.timeout
    collector.may_answer.set()
    scene.ended(exporter)
    assert exporter.exported + sum(exporter.dropped.values()) == BATCH + 4
    assert collector.closed == 1


def test_the_end_is_one_more_try(scene: Scene) -> None:
    """Also in the middle of a pause."""
    collector = FakeCollector(Reply(503, "30", b""))
    exporter = scene.exporter(collector)
    exporter.put(SPAN)
    exporter.start()
    while not collector.sizes:
        time.sleep(0.001)
    scene.ended(exporter)
    assert (exporter.exported, collector.sizes) == (1, [1, 1])


def test_what_is_left_at_the_end_is_counted(scene: Scene) -> None:
    collector = FakeCollector(*[CollectorError("gone")] * 50)
    exporter = scene.exporter(collector)
    for _ in range(BATCH + 1):
        exporter.put(SPAN)
    exporter.start()
    scene.ended(exporter)
    assert sum(exporter.dropped.values()) == BATCH + 1
    assert set(lost(exporter)) <= {"ended", "unreachable"}
