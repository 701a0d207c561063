"""What holds an answer back tells both its sides at what pace the client takes it."""

from __future__ import annotations

from flowserver.flow.drain_rate import DrainRate
from flowserver.flow.read_gate import Reason
from flowserver.relay.answer_hold import AnswerHold

from ..support.clock import FakeClock
from ..support.recording import RecordingDownstream, RecordingUpstream, exchange_context

D, U = Reason.DOWNSTREAM, Reason.UPSTREAM


class Scene:
    """An answer whose first byte came at once."""

    def __init__(self, *, has_begun: bool = True, up: RecordingUpstream | None = None) -> None:
        self.clock = FakeClock()
        self.up, self.down = up or RecordingUpstream(), RecordingDownstream()
        context = exchange_context(clock=self.clock)
        self.hold = AnswerHold(self.up, self.down, context, self.clock.now if has_begun else None)

    def hold_up(self, seconds: float, passed: int, *, waiting: int = 0) -> None:
        """The client blocks for so long, with so many bytes in all behind it, some of which it has not got."""
        self.hold.shut(D)
        self.clock.advance(seconds)
        self.down.held = waiting
        self.hold.drained(passed)


def test_both_sides_hear_of_the_pace() -> None:
    scene = Scene()
    scene.hold_up(2.0, 5000, waiting=1000)
    assert scene.up.rates == scene.down.rates == [2000]


class Told(RecordingUpstream):
    """Notes the pace among its other calls."""

    def keep_pace(self, pace: DrainRate) -> None:
        self.log.append(f"pace {pace.rate:.0f}")


def test_the_provider_hears_of_it_before_it_goes_on() -> None:
    scene = Scene(up=Told())
    scene.hold_up(2.0, 5000)
    assert scene.up.log == ["pause", "pace 2500", "resume"]


def test_the_pace_follows_the_client() -> None:
    scene = Scene()
    for passed in (1000, 2000, 12_000, 22_000):
        scene.hold_up(1.0, passed)
    assert scene.up.rates == [1000, 1000, 10_000, 10_000]


def test_bytes_on_their_way_count_once_they_arrive() -> None:
    scene = Scene()
    scene.hold_up(1.0, 5000, waiting=5000)
    scene.hold_up(1.0, 6000, waiting=0)
    assert scene.up.rates == [0, 6000]


def test_a_client_that_drains_in_no_time_has_no_pace_yet() -> None:
    scene = Scene()
    scene.hold_up(0.0, 5000)
    assert scene.up.rates == [0]
    scene.hold_up(1.0, 6000)
    assert scene.up.rates == [0, 6000]


def test_before_the_first_byte_the_time_begins_with_the_hold() -> None:
    scene = Scene(has_begun=False)
    scene.hold_up(0.5, 1000)
    assert scene.up.rates == [2000]


def test_other_reasons_are_no_pace() -> None:
    scene = Scene()
    scene.hold.shut(U)
    scene.clock.advance(1)
    scene.hold.open(U)
    assert (scene.up.rates, scene.down.rates) == ([], [])
    assert scene.up.log == ["pause", "resume"]


def test_another_reason_keeps_it_shut() -> None:
    scene = Scene()
    scene.hold.shut(U)
    scene.hold_up(1.0, 1000)
    assert scene.up.log == ["pause"]
    scene.hold.open(U)
    assert scene.up.log == ["pause", "resume"]
