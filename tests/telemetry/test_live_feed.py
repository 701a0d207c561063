"""The live feed: one look a second for all viewers, none without them, and nothing that queues."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from flowserver.errors import EndReason
from flowserver.http.messages import RequestHead, ResponseHead
from flowserver.relay.exchange import Exchange
from flowserver.telemetry.admin import Admin
from flowserver.telemetry.admin_hosts import AdminHosts
from flowserver.telemetry.live_feed import INTERVAL, MOST_VIEWERS
from flowserver.telemetry.live_views import MOST_ROWS, View
from flowserver.telemetry.log import Log
from flowserver.telemetry.metrics import Metrics
from flowserver.telemetry.paced_answer import PIECE
from flowserver.telemetry.slices import SLICE, Done, Slices

from ..support.clock import FakeClock
from ..support.live import events, own_pages
from ..support.recording import RecordingDownstream, RecordingUpstream, account, exchange_context


class Counting:
    """An `admin.AdminSource` that counts what it is asked."""

    def __init__(self, pages: Any) -> None:
        self._pages = pages
        self.asked: list[list[View]] = []

    def unready(self) -> str | None:
        return None

    def metrics(self, done: Done) -> None:
        self._pages.metrics(done)

    def streams(self, done: Done) -> None:
        self._pages.streams(done)

    def live(self, views: list[View], done: Done) -> None:
        self.asked.append(views)
        self._pages.live(views, done)


class Viewer(RecordingDownstream):
    """Takes everything, or stops after each piece."""

    is_slow = False

    def send_data(self, data: bytes) -> None:
        super().send_data(data)
        if self.is_slow:
            assert self.events is not None
            self.events.on_downstream_full()

    @property
    def objects(self) -> list[dict[str, Any]]:
        return events(self.body)


class Scene:
    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.log = Log("error", io.BytesIO())
        self.metrics = Metrics(self.log, clock)
        self.due: list[Callable[[], None]] = []
        self.timers: list[Callable[[], None]] = []
        self.source = Counting(own_pages(self.metrics, Slices(self.due.append, clock), clock))
        self.admin = Admin(self.source, AdminHosts(frozenset(), None), self.later)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        assert seconds == INTERVAL
        self.timers.append(call)

    def a_second_passes(self) -> None:
        self.clock.advance(1)
        timers, self.timers = self.timers, []
        for call in timers:
            call()
        self.turns()

    def turns(self) -> int:
        count = 0
        while self.due:
            self.due.pop(0)()
            count += 1
        return count

    def view(self, query: bytes = b"", *, method: bytes = b"GET", **headers: str) -> Viewer:
        viewer = Viewer()
        fields = [(b"host", b"localhost")]
        fields += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.admin.open_exchange(RequestHead(method, b"/live" + query, fields), viewer)
        return viewer

    def open_stream(self, request_id: bytes, size: int = 5) -> Exchange:
        context = exchange_context(clock=self.clock, observer=self.metrics, pauses=self.metrics.pauses, max_body=100)
        exchange = Exchange(
            RequestHead(b"GET", b"/v1/x", []), RecordingDownstream(), context, request_id=request_id, account=account()
        )
        exchange.start(RecordingUpstream())
        exchange.on_upstream_head(ResponseHead(200, []))
        exchange.on_upstream_data(b"x" * size)
        return exchange


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene(FakeClock())
    yield made
    made.log.close()


def test_an_object_comes_at_once_and_then_each_second(scene: Scene) -> None:
    scene.open_stream(b"one")
    viewer = scene.view()
    assert viewer.heads[0].status == 200
    assert (b"content-type", b"text/event-stream") in viewer.heads[0].headers
    assert len(viewer.objects) == 1
    for count in (2, 3):
        scene.a_second_passes()
        assert len(viewer.objects) == count
    [row] = viewer.objects[-1]["streams"]
    assert (row["request_id"], row["age_seconds"]) == ("one", 2.0)
    assert viewer.log[-1].startswith("data")


def test_all_who_see_the_same_share_one_look(scene: Scene) -> None:
    viewers = [scene.view(), *(scene.view(b"?sort=-age_seconds") for _ in range(5)), scene.view()]
    scene.source.asked.clear()
    scene.a_second_passes()
    assert scene.source.asked == [[View(), View(sort="age_seconds")]]
    assert len({viewer.objects[-1]["time"] for viewer in viewers}) == 1
    assert [viewer.objects[-1]["view"]["sort"] for viewer in viewers] == ["trouble", *["age_seconds"] * 5, "trouble"]


def test_nobody_looks_once_the_last_viewer_has_left(scene: Scene) -> None:
    viewer = scene.view()
    assert viewer.events is not None
    viewer.events.on_downstream_reset(EndReason.CLIENT_GONE)
    scene.source.asked.clear()
    scene.a_second_passes()
    assert (scene.timers, scene.source.asked) == ([], [])
    assert len(scene.view().objects) == 1
    assert len(scene.timers) == 1


def test_nobody_looks_without_viewers(scene: Scene) -> None:
    scene.a_second_passes()
    assert (scene.timers, scene.source.asked) == ([], [])


def test_a_slow_viewer_skips_seconds_and_gets_whole_objects(scene: Scene) -> None:
    for each in range(MOST_ROWS):
        scene.open_stream(b"stream-%d" % each)
    quick, slow = scene.view(b"?limit=500"), Viewer()
    slow.is_slow = True
    request = RequestHead(b"GET", b"/live?limit=500", [(b"host", b"localhost")])
    scene.admin.open_exchange(request, slow)
    assert slow.events is not None
    slow.events.on_downstream_drained()
    for _ in range(20):
        scene.a_second_passes()
    assert len(quick.objects) == 21
    assert len(slow.body) <= PIECE + 20  # it has one piece of the first one
    slow.is_slow = False
    slow.events.on_downstream_drained()
    scene.a_second_passes()
    first, second = slow.objects
    assert len(first["streams"]) == len(second["streams"]) == MOST_ROWS
    assert second["time"] > first["time"]
    assert slow.body.count(b"data: ") == 2


def test_who_is_behind_costs_no_look(scene: Scene) -> None:
    viewer = scene.view()
    assert viewer.events is not None
    viewer.events.on_downstream_full()
    scene.source.asked.clear()
    scene.a_second_passes()
    assert scene.source.asked == []
    viewer.events.on_downstream_drained()
    scene.a_second_passes()
    assert len(scene.source.asked) == 1


def test_there_are_only_so_many_viewers(scene: Scene) -> None:
    viewers = [scene.view() for _ in range(MOST_VIEWERS)]
    refused = scene.view()
    assert refused.heads[0].status == 503
    assert b"/live?once" in refused.body
    assert viewers[0].events is not None
    viewers[0].events.on_downstream_reset(EndReason.CLIENT_GONE)
    assert scene.view().heads[0].status == 200


def test_once_is_one_object_as_json(scene: Scene) -> None:
    scene.open_stream(b"one")
    answer = scene.view(b"?once&limit=0")
    assert (b"content-type", b"application/json") in answer.heads[0].headers
    found = orjson.loads(answer.body)
    assert (found["streams"], found["totals"]["streams"], found["view"]["matching"]) == ([], 1, 1)
    assert answer.log[-1] == "end"
    assert scene.timers == []


def test_a_query_that_makes_no_sense_is_refused(scene: Scene) -> None:
    answer = scene.view(b"?sort=weight")
    assert (answer.heads[0].status, answer.body[:5]) == (400, b"sort:")


@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)]
)
def test_pages_of_other_sites_take_no_place(scene: Scene, site: str, status: int) -> None:
    assert scene.view(sec_fetch_site=site).heads[0].status == status


def test_other_names_than_its_own_are_refused(scene: Scene) -> None:
    for path in (b"/", b"/live", b"/live?once"):
        viewer = Viewer()
        scene.admin.open_exchange(RequestHead(b"GET", path, [(b"host", b"attacker.example")]), viewer)
        assert viewer.heads[0].status == 421


def test_head_of_the_feed_has_no_body(scene: Scene) -> None:
    viewer = scene.view(method=b"HEAD")
    assert (viewer.heads[0].status, viewer.body, viewer.log[-1]) == (200, b"", "end")


def test_viewers_are_sent_away_when_another_process_answers(scene: Scene) -> None:
    viewer = scene.view()
    scene.admin.drain()
    assert viewer.log[-1] == "end"
    scene.a_second_passes()
    assert viewer.log[-1] == "end"


class Ticking(FakeClock):
    """Each look at it takes a fiftieth of a slice."""

    def __call__(self) -> float:
        self.advance(SLICE / 50)
        return super().__call__()


def test_a_look_at_many_streams_takes_many_turns() -> None:
    scene = Scene(Ticking())
    for each in range(2000):
        scene.open_stream(b"stream-%d" % each)
    viewer = scene.view()
    assert viewer.objects == []
    assert scene.turns() > 20
    [found] = viewer.objects
    assert (len(found["streams"]), found["view"]["matching"]) == (100, 2000)
    scene.log.close()


# What is in an object


def test_the_filter_holds_for_all_streams_and_not_for_those_shown(scene: Scene) -> None:
    for each in range(30):
        scene.open_stream(b"id-%02d" % each)
    found = scene.view(b"?limit=5&filter=id:id-1").objects[-1]
    assert (found["view"]["matching"], found["totals"]["streams"], len(found["streams"])) == (10, 30, 5)
    assert all(row["request_id"].startswith("id-1") for row in found["streams"])


@pytest.mark.parametrize(
    ("sort", "first"), [("-request_id", "id-29"), ("request_id", "id-00"), ("bytes_down", "id-00")]
)
def test_the_order_holds_for_all_streams(scene: Scene, sort: str, first: str) -> None:
    for each in range(30):
        scene.open_stream(b"id-%02d" % each, size=10 + each)
    rows = scene.view(f"?limit=3&sort={sort}".encode()).objects[-1]["streams"]
    assert (len(rows), rows[0]["request_id"]) == (3, first)


def test_of_more_streams_than_are_held_the_first_are_shown(scene: Scene) -> None:
    """More than a choice keeps unsorted."""
    for each in range(1500):
        scene.open_stream(b"id-%04d" % ((each * 7919) % 1500))
    rows = scene.view(b"?limit=40&sort=-request_id").objects[-1]["streams"]
    assert [row["request_id"] for row in rows] == [f"id-{each:04}" for each in range(1499, 1459, -1)]


def test_one_that_is_followed_is_there_wherever_it_stands(scene: Scene) -> None:
    for each in range(30):
        scene.open_stream(b"id-%02d" % each)
    found = scene.view(b"?limit=1&sort=request_id&follow=id-29").objects[-1]
    assert found["followed"]["request_id"] == "id-29"
    assert [row["request_id"] for row in found["streams"]] == ["id-00"]
    assert scene.view(b"?follow=nobody&once").heads[0].status == 200


def test_the_last_ends_are_told_newest_first(scene: Scene) -> None:
    for each in range(3):
        exchange = scene.open_stream(b"id-%d" % each)
        scene.clock.advance(1)
        exchange.on_downstream_reset(EndReason.CLIENT_GONE)
    found = scene.view(b"").objects[-1]
    assert [end["request_id"] for end in found["ends"]] == ["id-2", "id-1", "id-0"]
    assert {end["end"] for end in found["ends"]} == {"client_gone"}
    assert found["ends"][0]["duration_seconds"] == 1.0
    assert found["ends_by_reason"] == {"client_gone": 3}


def test_hostile_names_stay_data(scene: Scene) -> None:
    scene.open_stream(b"</script><script>alert(1)</script>")
    [row] = scene.view(b"").objects[-1]["streams"]
    assert row["request_id"] == "</script><script>alert(1)</script>"
