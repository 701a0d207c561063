"""One request at one provider: who hears of it, and what the provider's figures say afterwards."""

from __future__ import annotations

import pytest

from flowserver.errors import RelayError
from flowserver.http.messages import RequestHead, ResponseHead
from flowserver.routing.attempt import Attempt, AttemptState
from flowserver.routing.circuit_breaker import BreakerState

from ..support.asker import Asker
from ..support.clock import FakeClock
from ..support.recording import RecordingConnector, RecordingUpstream, RecordingUpstreamEvents, target
from .scene import BROKEN, NO_CONNECTION, TIMEOUT, UNREACHABLE


class Owner:
    """Accepts each answer."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.errors: list[RelayError] = []

    def on_attempt_head(self, attempt: Attempt, head: ResponseHead) -> None:
        self.log.append(f"head {head.status}")
        attempt.accept()

    def on_attempt_failed(self, attempt: Attempt, error: RelayError) -> None:
        self.log.append("failed")
        self.errors.append(error)

    def on_attempt_full(self) -> None:
        self.log.append("full")

    def on_attempt_drained(self) -> None:
        self.log.append("drained")


class Rig:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.connector = RecordingConnector()
        self.host = target(self.connector)
        self.owner = Owner()
        self.events = RecordingUpstreamEvents()
        assert self.host.places.reserve(Asker())
        self.attempt = Attempt(self.host, owner=self.owner, events=self.events, clock=self.clock)
        self.attempt.open(RequestHead(b"POST", b"/", []))

    @property
    def stream(self) -> RecordingUpstream:
        return self.connector.streams[0]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_its_course(rig: Rig) -> None:
    attempt, told = rig.attempt, rig.connector.events[0]
    attempt.send_data(b"hello")
    attempt.send_end()
    rig.clock.advance(2)
    told.on_upstream_head(ResponseHead(200, [(b"x-ratelimit-remaining-tokens", b"7")]))
    told.on_upstream_data(b"x")
    told.on_upstream_end()
    states = [attempt.state]
    attempt.cancel()
    assert [*states, attempt.state] == [AttemptState.ANSWERED, AttemptState.OVER]
    assert rig.stream.log == ["data 5", "end", "cancel"]
    assert (rig.owner.log, rig.events.log) == (["head 200"], ["data", "end"])
    host = rig.host
    assert (host.started, host.answers, host.head_seconds, host.open) == (1, 1, 2.0, 0)
    assert host.remaining == {"tokens": 7}


@pytest.mark.parametrize("ends", ["cancelled", "failed"])
def test_nothing_is_heard_of_it_once_it_is_over(rig: Rig, ends: str) -> None:
    attempt, told = rig.attempt, rig.connector.events[0]
    rig.stream.reused = True
    if ends == "cancelled":
        attempt.cancel()
    else:
        told.on_upstream_failed(BROKEN)
    heard, sent = list(rig.owner.log), list(rig.stream.log)
    told.on_upstream_head(ResponseHead(200, []))
    told.on_upstream_data(b"x")
    told.on_upstream_full()
    told.on_upstream_drained()
    told.on_upstream_end()
    told.on_upstream_failed(BROKEN)
    attempt.send_data(b"x")
    attempt.send_end()
    attempt.pause_reading()
    attempt.resume_reading()
    assert (rig.owner.log, rig.events.log, rig.stream.log) == (heard, [], sent)
    assert rig.host.open == 0
    assert attempt.reused


def test_the_place_can_stay_reserved_for_another_attempt(rig: Rig) -> None:
    rig.attempt.cancel_request()
    assert rig.stream.log == ["cancel"]
    assert rig.host.open == 1


@pytest.mark.parametrize(
    ("error", "counts", "opens"),
    [(BROKEN, True, True), (UNREACHABLE, True, True), (TIMEOUT, True, True), (NO_CONNECTION, False, False)],
)
def test_only_the_provider_s_own_failures_speak_against_it(error: RelayError, counts: bool, opens: bool) -> None:
    rig = Rig()
    for _ in range(4):
        rig.host.health.failed(0.0, probe=False)
    rig.connector.events[0].on_upstream_failed(error)
    assert rig.owner.errors == [error]
    assert sum(rig.host.failures.values()) == counts
    assert (rig.host.health.state(rig.clock()) is BreakerState.OPEN) is opens


def test_its_state_shows(rig: Rig) -> None:
    assert repr(rig.attempt) == "<Attempt at api: asked>"
    rig.connector.events[0].on_upstream_full()
    assert repr(rig.attempt) == "<Attempt at api: asked, upload stopped>"
    rig.attempt.cancel()
    assert repr(rig.attempt) == "<Attempt at api: over, upload stopped>"
