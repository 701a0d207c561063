"""The admin pages of several workers: asked at once, waited for a second, merged."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from flowserver.config.addresses import Address
from flowserver.http.messages import RequestHead, ResponseHead
from flowserver.quota.limits import Usage
from flowserver.quota.tenants import Tenant, TenantLimits
from flowserver.relay.exchange import Exchange
from flowserver.telemetry.admin import Admin
from flowserver.telemetry.admin_hosts import AdminHosts
from flowserver.telemetry.live_objects import common
from flowserver.telemetry.live_views import View
from flowserver.telemetry.log import Log
from flowserver.telemetry.merged_pages import ANSWER_TIME, MergedPages
from flowserver.telemetry.metrics import Metrics
from flowserver.telemetry.quotas import QuotaFigures
from flowserver.telemetry.slices import SLICE, Slices
from flowserver.telemetry.sources import METRICS, STREAMS, WorkerReports
from flowserver.telemetry.worker_figures import RestartReason

from ..support.clock import FakeClock
from ..support.dialogue import Answer, Client, listener_context, understood
from ..support.exposed import broken_rules
from ..support.lab import samples
from ..support.live import live_report
from ..support.recording import RecordingDownstream, RecordingUpstream, account, exchange_context
from ..support.workers import FakeWorkers, worker


class Ticking(FakeClock):
    """Each look at it takes a twentieth of a slice."""

    def __call__(self) -> float:
        self.advance(SLICE / 20)
        return super().__call__()


class Scene:
    """A parent, and two workers who have metrics and answer when they are told to."""

    def __init__(self) -> None:
        self.log = Log("error", io.BytesIO())
        self.workers = FakeWorkers(worker("0", 1, load=3), worker("1", 2, load=4))
        self.clock = FakeClock()
        self.due: list[Callable[[], None]] = []
        self.metrics: dict[int, Metrics] = {}
        self.reports: dict[int, WorkerReports] = {}
        for number in (1, 2):
            self.start(number)
        self.timers: list[Callable[[], None]] = []
        self.pages: list[bytes | None] = []
        self.merged = self.parent()

    def parent(self, clock: Callable[[], float] | None = None) -> MergedPages:
        slices = Slices(self.due.append, clock or self.clock)
        metrics = Metrics(self.log, self.clock)
        return MergedPages(
            self.workers, metrics, slices, self.later, common=lambda: common(metrics.process, is_draining=False)
        )

    def start(self, number: int) -> None:
        """A worker with figures of its own."""
        metrics = self.metrics[number] = Metrics(self.log, self.clock)
        slices = Slices(self.due.append, FakeClock())
        self.reports[number] = WorkerReports(metrics, slices, live_report(metrics, self.clock), self.clock)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        assert seconds == ANSWER_TIME
        self.timers.append(call)

    def a_second_passes(self) -> None:
        for call in self.timers:
            call()
        self.timers.clear()

    def turns(self) -> int:
        count = 0
        while self.due:
            self.due.pop(0)()
            count += 1
        return count

    def report(self, number: int, what: bytes) -> bytes:
        """What the worker `number` says."""
        found: list[bytes] = []

        def done(parts: list[bytes] | None) -> None:
            assert parts is not None
            found.extend(parts)

        self.reports[number].tell(what, done)
        return b"".join(found)

    def all_answer(self) -> None:
        for number in self.metrics:
            self.workers.answers[number] = lambda what, number=number: self.report(number, what)  # type: ignore[misc]

    def answer(self, number: int) -> None:
        """To everything that `number` was asked."""
        asked = [each for each in self.workers.asked if each[0] == number]
        self.workers.asked = [each for each in self.workers.asked if each[0] != number]
        assert asked
        for _, what, answered in asked:
            answered(self.report(number, what))

    def want(self, ask: Callable[[Callable[[list[bytes] | None], None]], None]) -> None:
        ask(lambda parts: self.pages.append(None if parts is None else b"".join(parts)))

    def figures(self) -> dict[str, float]:
        """Of the page that came last."""
        page = self.pages[-1]
        assert page is not None
        assert broken_rules(page.decode()) == []
        return samples(page.decode())

    def scrape(self) -> dict[str, float]:
        self.want(self.merged.metrics)
        self.a_second_passes()
        self.turns()
        return self.figures()

    def open_streams(self, number: int, count: int) -> None:
        metrics = self.metrics[number]
        context = exchange_context(clock=self.clock, observer=metrics, pauses=metrics.pauses, max_body=100)
        for each in range(count):
            request = RequestHead(b"GET", b"/", [])
            request_id = b"%d-%d" % (number, each)
            exchange = Exchange(request, RecordingDownstream(), context, request_id=request_id, account=account())
            exchange.start(RecordingUpstream())
            exchange.on_upstream_head(ResponseHead(200, []))
            exchange.on_upstream_data(b"hello")


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.log.close()


def test_figures_of_all_are_on_one_page(scene: Scene) -> None:
    scene.all_answer()
    scene.open_streams(1, 3)
    scene.open_streams(2, 4)
    scene.metrics[2].observe_lag(0.5)
    figures = scene.scrape()
    assert figures["flow_streams_open"] == 7
    assert figures["flow_chunks_total"] == 7
    assert figures["flow_event_loop_lag_seconds_count"] == 1
    assert figures['flow_event_loop_lag_last_seconds{worker="0"}'] == 0
    assert figures['flow_event_loop_lag_last_seconds{worker="1"}'] == 0.5
    for name in ("0", "1", "parent"):
        assert figures[f'process_resident_memory_bytes{{worker="{name}"}}'] > 0
    assert figures["process_cpu_seconds_total"] > 0
    assert (figures["flow_workers"], figures['flow_worker_up{worker="0"}']) == (2, 1)
    assert (figures['flow_worker_load{worker="0"}'], figures['flow_worker_load{worker="1"}']) == (3, 4)


def test_the_page_comes_when_the_last_one_has_answered(scene: Scene) -> None:
    scene.want(scene.merged.metrics)
    scene.answer(2)
    assert scene.pages == []
    scene.answer(1)
    assert len(scene.pages) == 1
    scene.a_second_passes()
    scene.turns()
    assert len(scene.pages) == 1


def test_of_one_that_does_not_answer_the_last_figures_stand(scene: Scene) -> None:
    scene.open_streams(1, 3)
    scene.open_streams(2, 4)
    scene.want(scene.merged.metrics)
    scene.answer(1)
    scene.answer(2)
    scene.open_streams(1, 1)
    scene.open_streams(2, 1)
    scene.want(scene.merged.metrics)
    scene.answer(1)
    scene.a_second_passes()
    figures = scene.figures()
    assert (figures['flow_worker_up{worker="0"}'], figures['flow_worker_up{worker="1"}']) == (1, 0)
    assert figures["flow_chunks_total"] == figures["flow_streams_open"] == 4 + 4
    assert 'process_open_fds{worker="1"}' in figures


def test_what_one_says_too_late_is_on_the_next_page(scene: Scene) -> None:
    """One that always needs longer is seen all the same."""
    scene.open_streams(2, 4)
    assert scene.scrape()["flow_chunks_total"] == 0
    scene.answer(2)
    scene.answer(1)
    figures = scene.scrape()
    assert figures["flow_chunks_total"] == 4
    assert figures['flow_worker_up{worker="1"}'] == 0


def test_what_is_said_in_time_is_newer_than_what_came_too_late(scene: Scene) -> None:
    scene.want(scene.merged.metrics)
    scene.a_second_passes()
    [old] = [each for each in scene.workers.asked if each[0] == 2]
    earlier = scene.report(2, METRICS)
    scene.open_streams(2, 4)
    scene.workers.asked.clear()
    scene.want(scene.merged.metrics)
    old[2](earlier)
    scene.answer(2)
    scene.answer(1)
    assert scene.figures()["flow_chunks_total"] == 4


def test_one_that_ends_is_not_waited_for_and_what_it_counted_stays(scene: Scene) -> None:
    scene.all_answer()
    scene.open_streams(1, 3)
    scene.open_streams(2, 4)
    scene.scrape()
    scene.workers.answers.clear()
    scene.want(scene.merged.metrics)
    scene.answer(1)
    [(_, _, answered)] = scene.workers.asked
    scene.workers.all[1] = worker("1", None, is_ready=False)
    answered(None)
    figures = scene.figures()
    assert figures["flow_streams_open"] == 3
    assert figures["flow_chunks_total"] == 7
    assert figures['flow_worker_up{worker="1"}'] == 0
    assert 'process_open_fds{worker="1"}' not in figures


def test_who_takes_the_place_is_added(scene: Scene) -> None:
    scene.all_answer()
    scene.open_streams(2, 4)
    scene.scrape()
    scene.merged.figures.restarted(RestartReason.SIGNAL)
    scene.workers.all[1] = worker("1", 3)
    del scene.metrics[2]
    scene.start(3)
    scene.all_answer()
    scene.open_streams(3, 6)
    figures = scene.scrape()
    assert figures["flow_chunks_total"] == 10
    assert figures["flow_streams_open"] == 6
    restarts = {reason: figures[f'flow_worker_restarts_total{{reason="{reason}"}}'] for reason in RestartReason}
    assert restarts == {"signal": 1, "exit": 0, "silent": 0}


def test_one_page_is_shared(scene: Scene) -> None:
    scene.want(scene.merged.metrics)
    scene.want(scene.merged.metrics)
    assert len(scene.workers.asked) == 2
    scene.answer(1)
    scene.want(scene.merged.metrics)
    scene.answer(2)
    assert len(scene.pages) == 3
    assert len(set(scene.pages)) == 1
    scene.want(scene.merged.metrics)
    assert len(scene.workers.asked) == 2


def test_streams_have_their_worker(scene: Scene) -> None:
    scene.all_answer()
    scene.want(scene.merged.streams)
    assert scene.pages == [b"[]"]
    scene.open_streams(1, 2)
    scene.open_streams(2, 1)
    scene.want(scene.merged.streams)
    rows = orjson.loads(scene.pages[-1] or b"")
    assert sorted((row["worker"], row["request_id"]) for row in rows) == [("0", "1-0"), ("0", "1-1"), ("1", "2-0")]
    assert {row["bytes_down"] for row in rows} == {5}


def test_streams_of_one_that_does_not_answer_are_left_out(scene: Scene) -> None:
    scene.open_streams(1, 2)
    scene.open_streams(2, 1)
    scene.want(scene.merged.streams)
    scene.answer(1)
    scene.a_second_passes()
    assert [row["worker"] for row in orjson.loads(scene.pages[-1] or b"")] == ["0", "0"]
    scene.answer(2)
    scene.want(scene.merged.streams)
    scene.answer(1)
    scene.a_second_passes()
    assert len(orjson.loads(scene.pages[-1] or b"")) == 2


def test_pages_are_made_in_many_turns(scene: Scene) -> None:
    scene.all_answer()
    scene.open_streams(1, 1000)
    for number in range(500):
        for metrics in scene.metrics.values():
            metrics.h2.goaways[f"reason-{number}"] += 1
    merged = scene.parent(Ticking())
    for ask in (merged.metrics, merged.streams):
        scene.want(ask)
        assert len(scene.pages) == 0
        assert scene.turns() > 20
        assert scene.pages.pop() is not None


def test_without_workers_there_is_a_page_all_the_same(scene: Scene) -> None:
    scene.workers.all = [worker("0", None, is_ready=False)]
    assert scene.scrape()["flow_workers"] == 1
    scene.want(scene.merged.streams)
    assert scene.pages[-1] == b"[]"


def test_a_worker_that_tells_nonsense_fails_the_page_and_not_the_next_one(scene: Scene) -> None:
    scene.all_answer()
    scene.workers.answers[1] = lambda what: b"{\n"
    with pytest.raises(orjson.JSONDecodeError):
        scene.want(scene.merged.metrics)
    assert scene.pages == [None]
    scene.all_answer()
    assert scene.scrape()["flow_workers"] == 2


def test_a_quota_that_all_draw_on_is_told_once_and_as_the_one_who_knows_most_has_it(scene: Scene) -> None:
    scene.all_answer()
    acme, other = (Tenant(name, limits=TenantLimits(tokens_per_day=100)) for name in ("acme", "other"))
    for number, (used, *tenants) in ((1, (40, acme)), (2, (30, acme, other))):
        source = SimpleNamespace(
            tenants=lambda tenants=tenants: tenants,
            stored_usage=lambda limits, done, used=used: done([Usage(limit, used, 0, 60.0) for limit in limits]),
        )
        scene.metrics[number].quotas = QuotaFigures(source, scene.clock, scene.clock)
    name = 'flow_limit_used_ratio{{limit="tokens_per_day",models="",tenant="{}"}}'.format
    figures = scene.scrape()
    assert (figures[name("acme")], figures[name("other")]) == (0.4, 0.3)
    scene.metrics[1].quotas = None
    figures = scene.scrape()
    assert (figures[name("acme")], figures[name("other")]) == (0.3, 0.3)


# The live feed


def live(scene: Scene, *views: View) -> list[dict[str, Any]]:
    scene.want(lambda done: scene.merged.live(list(views), done))
    scene.a_second_passes()
    scene.turns()
    return [orjson.loads(line) for line in (scene.pages[-1] or b"").splitlines()]


def test_the_feed_merges_the_best_of_all_workers(scene: Scene) -> None:
    scene.all_answer()
    scene.open_streams(1, 3)
    scene.clock.advance(5)
    scene.open_streams(2, 4)
    for number, lag in ((1, 0.002), (2, 0.5)):
        scene.metrics[number].observe_lag(lag)
    oldest, youngest = live(scene, View(4, "age_seconds"), View(2, "age_seconds", descending=False))
    assert {row["request_id"] for row in oldest["streams"][:3]} == {"1-0", "1-1", "1-2"}
    assert [row["worker"] for row in oldest["streams"]] == ["0", "0", "0", "1"]
    assert [row["worker"] for row in youngest["streams"]] == ["1", "1"]
    assert oldest["totals"]["streams"] == oldest["view"]["matching"] == youngest["view"]["matching"] == 7
    assert oldest["loop"] == [{"worker": "0", "lag_ms": 2.0}, {"worker": "1", "lag_ms": 500.0}]
    assert oldest["process"]["workers"] == 2


def test_a_filter_and_what_is_followed_hold_over_all_workers(scene: Scene) -> None:
    scene.all_answer()
    scene.open_streams(1, 3)
    scene.open_streams(2, 4)
    [found] = live(scene, View(1, words=("id:2-",), follow="1-2"))
    assert (found["view"]["matching"], len(found["streams"])) == (4, 1)
    assert (found["followed"]["request_id"], found["followed"]["worker"]) == ("1-2", "0")


def test_a_worker_that_does_not_answer_is_missing_in_the_feed(scene: Scene) -> None:
    scene.open_streams(1, 3)
    scene.open_streams(2, 4)
    scene.want(lambda done: scene.merged.live([View()], done))
    scene.answer(2)
    scene.a_second_passes()
    scene.turns()
    found = orjson.loads(scene.pages[-1] or b"")
    assert (found["totals"]["streams"], [each["worker"] for each in found["loop"]]) == (4, ["1"])


def test_without_an_answer_the_feed_goes_on(scene: Scene) -> None:
    [found] = live(scene, View(follow="x"))
    assert (found["streams"], found["followed"], found["loop"], found["totals"]["streams"]) == ([], None, [], 0)


# Over HTTP


def ask(scene: Scene, path: bytes) -> Answer:
    admin = Admin(scene.merged, AdminHosts(frozenset(), Address("127.0.0.1", 1)), scene.later)
    client = Client(listener_context(admin.open_exchange))
    client.says(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
    answer = understood(client.hears())
    assert answer.whole
    return answer


def test_probes_are_answered_while_all_workers_are_busy(scene: Scene) -> None:
    scene.want(scene.merged.metrics)
    assert (ask(scene, b"/healthz").status, ask(scene, b"/readyz").status) == (200, 200)
    assert len(scene.workers.asked) == 2


def test_it_is_ready_while_a_worker_is(scene: Scene) -> None:
    scene.workers.all = [worker("0", 1, is_ready=False), worker("1", 2)]
    assert (ask(scene, b"/readyz").status, ask(scene, b"/readyz").body) == (200, b"ready\n")
    scene.workers.all[1] = worker("1", None, is_ready=False)
    assert (ask(scene, b"/readyz").status, ask(scene, b"/readyz").body) == (503, b"no worker is ready\n")
    assert ask(scene, b"/healthz").status == 200


def test_it_is_not_ready_while_it_drains(scene: Scene) -> None:
    scene.workers.is_draining = True
    assert (ask(scene, b"/readyz").status, ask(scene, b"/readyz").body) == (503, b"draining\n")


@pytest.mark.parametrize("path", [METRICS, STREAMS])
def test_the_pages_are_the_same_as_of_one_process(scene: Scene, path: bytes) -> None:
    scene.all_answer()
    answer = ask(scene, b"/" + path)
    assert answer.status == 200
    kind = answer.headers[b"content-type"]
    assert kind == (b"application/json" if path == STREAMS else b"text/plain; version=0.0.4; charset=utf-8")
