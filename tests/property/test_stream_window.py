"""The window of an HTTP/2 stream, whatever provider and client do: credits are its size, and nobody waits for ever."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowserver.flow.drain_rate import LEAST
from flowserver.flow.window_bound import WIDEST
from flowserver.upstream.receive_window import STREAM_WINDOW, WHOLE_WINDOW, AdaptiveFlow, StreamWindow
from tests.support.pace import pace_of

from ..support.clock import FakeClock
from ..support.recording import RecordingUpstreamEvents


class Events(RecordingUpstreamEvents):
    under_way = 0

    def unacknowledged(self) -> int:
        return self.under_way


class Window(RuleBasedStateMachine):
    """A provider that keeps its own books of what it was granted."""

    @initialize(adapts=st.booleans(), size=st.sampled_from([65_535, 65_536, 1 << 20, (1 << 31) - 1]))
    def begin(self, adapts: bool, size: int) -> None:
        self.clock = FakeClock()
        self.events = Events()
        self.adapts = adapts
        self.window = (
            StreamWindow(STREAM_WINDOW, AdaptiveFlow(0.25, self.clock)) if adapts else StreamWindow(size, None)
        )
        self.granted = self.first = self.window.size
        self.sent = 0

    @rule(seconds=st.one_of(st.just(0.0), st.floats(0.001, 10)), under_way=st.integers(0, 1 << 20))
    def pass_time(self, seconds: float, under_way: int) -> None:
        self.clock.advance(seconds)
        self.events.under_way = under_way

    @rule(share=st.floats(0, 1))
    def send(self, share: float) -> None:
        self.take(round(share * (self.granted - self.sent)))

    @rule()
    def send_all(self) -> None:
        self.take(self.granted - self.sent)

    def take(self, size: int) -> None:
        self.sent += size
        assert self.window.take(size)

    @precondition(lambda self: self.window.is_half_used)
    @rule(distance=st.floats(0, 2))
    def credit(self, distance: float) -> None:
        size = self.window.credit(distance, self.events)
        assert size > 0
        self.granted += size
        assert self.granted - self.sent == self.window.left == self.window.size

    @rule(rate=st.one_of(st.just(0.0), st.floats(0, 1e9)), distance=st.floats(0, 2))
    def keep_pace(self, rate: float, distance: float) -> None:
        self.window.keep_pace(pace_of(rate), distance)

    @precondition(lambda self: self.adapts and self.sent == 0)
    @rule()
    def widen(self) -> None:
        self.granted += self.window.widen(WHOLE_WINDOW)

    @invariant()
    def its_books_are_the_provider_s(self) -> None:
        assert self.window.left == self.granted - self.sent >= 0

    @invariant()
    def its_size_has_bounds(self) -> None:
        if self.adapts:
            assert LEAST <= self.window.size <= WIDEST
        else:
            assert self.window.size == self.first

    @invariant()
    def a_provider_that_has_sent_all_gets_a_credit(self) -> None:
        if self.window.left == 0:
            assert self.window.is_half_used

    def teardown(self) -> None:
        """A byte more than granted is noticed."""
        if hasattr(self, "window"):
            assert not self.window.take(self.granted - self.sent + 1)


TestWindow = Window.TestCase
