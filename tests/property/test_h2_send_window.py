"""Send windows, held to h2's own: the same windows after the same frames, and the same errors."""

from __future__ import annotations

from collections.abc import Callable

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowserver.http.h2_send_window import MAX_WINDOW, SendWindows, StreamWindow
from tests.support import h2_frames as frames

INCREMENTS = st.one_of(st.integers(1, 70_000), st.sampled_from([1, MAX_WINDOW - 65_535, MAX_WINDOW - 1, MAX_WINDOW]))
SIZES = st.one_of(st.integers(0, 100_000), st.sampled_from([0, 65_535, MAX_WINDOW]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.just(0), st.just(0)),
        st.tuples(st.just("send"), st.integers(0, 3), st.integers(1, 100_000)),
        st.tuples(st.just("update"), st.just(0), INCREMENTS),
        st.tuples(st.just("update stream"), st.integers(0, 3), INCREMENTS),
        st.tuples(st.just("settings"), st.just(0), SIZES),
        st.tuples(st.just("close"), st.integers(0, 3), st.just(0)),
    ),
    max_size=40,
)
Step = tuple[str, int, int]


class Both:
    """The windows under test, and a server of h2 that is told and sends the same."""

    def __init__(self) -> None:
        self.windows = SendWindows()
        self.streams: dict[int, StreamWindow] = {}
        self._oracle = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self._oracle.initiate_connection()
        self._oracle.receive_data(
            frames.PREFACE + frames.settings((int(h2.settings.SettingCodes.MAX_FRAME_SIZE), 2**24 - 1))
        )
        self._next = 1

    def take_step(self, step: Step) -> bool:
        """Returns whether the connection goes on."""
        kind, which, size = step
        if kind == "open":
            self._open()
        elif kind in ("update", "settings"):
            return self._update_all(kind, size)
        elif self.streams:
            stream_id = sorted(self.streams)[which % len(self.streams)]
            {"send": self._send, "update stream": self._update, "close": self._close}[kind](stream_id, size)
        return True

    def compare(self) -> None:
        assert self.windows.left == self._oracle.outbound_flow_control_window
        assert {stream_id: window.left for stream_id, window in self.streams.items()} == {
            stream_id: self._oracle.streams[stream_id].outbound_flow_control_window for stream_id in self.streams
        }

    def _open(self) -> None:
        self._oracle.receive_data(frames.headers(self._next))
        self._oracle.send_headers(self._next, [(":status", "200")])
        self.streams[self._next] = self.windows.open(self._next)
        self._next += 2

    def _send(self, stream_id: int, size: int) -> None:
        expected = max(0, min(size, self._oracle.local_flow_control_window(stream_id)))
        assert self.windows.take(self.streams[stream_id], size) == expected
        if expected:
            self._oracle.send_data(stream_id, bytes(expected))

    def _update(self, stream_id: int, increment: int) -> None:
        events = self._oracle.receive_data(frames.window_update(stream_id, increment))
        is_reset = any(isinstance(event, h2.events.StreamReset) for event in events)
        problem = _problem(lambda: self.windows.update_stream(self.streams[stream_id], increment))
        assert is_reset == (problem is not None)
        if is_reset:
            self._forget(stream_id)

    def _update_all(self, kind: str, size: int) -> bool:
        raw = frames.window_update(0, size) if kind == "update" else frames.settings((frames.INITIAL_WINDOW, size))
        change = self.windows.update if kind == "update" else self.windows.change_initial
        expected = _problem(lambda: self._oracle.receive_data(raw))
        assert _problem(lambda: change(size)) == expected
        return expected is None

    def _close(self, stream_id: int, _: int) -> None:
        self._oracle.reset_stream(stream_id)
        self._forget(stream_id)

    def _forget(self, stream_id: int) -> None:
        self.windows.close(stream_id)
        del self.streams[stream_id]
        assert self._oracle.open_inbound_streams == len(self.streams)  # it forgets ended streams when it is asked


def _problem(call: Callable[[], object]) -> tuple[str, int] | None:
    try:
        call()
    except h2.exceptions.FlowControlError as error:
        return str(error), error.error_code
    return None


@settings(max_examples=200, deadline=None)
@given(STEPS)
@example([("open", 0, 0), ("send", 0, 60_000), ("settings", 0, 0), ("update stream", 0, 70_000), ("send", 0, 1)])
@example([("open", 0, 0), ("update stream", 0, MAX_WINDOW - 65_535), ("settings", 0, 65_536)])
@example([("open", 0, 0), ("update stream", 0, MAX_WINDOW), ("settings", 0, MAX_WINDOW)])
def test_windows_are_h2_s_own(steps: list[Step]) -> None:
    both = Both()
    for step in steps:
        if not both.take_step(step):
            break
        both.compare()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4096)), max_size=60), st.integers(0, 200_000))
def test_what_is_reserved_is_sent_or_comes_back(steps: list[tuple[int, int]], more: int) -> None:
    windows = SendWindows()
    windows.change_initial(20_000)
    if more:
        windows.update(more)
    streams = [windows.open(stream_id) for stream_id in (1, 3, 5, 7)]
    sent = [0] * 4
    for which, used in steps:
        reserved = windows.reserve(streams[which])
        used = min(used, reserved)
        sent[which] += used
        windows.release(streams[which], reserved - used)
        assert windows.left >= 0
    assert [window.left for window in streams] == [20_000 - size for size in sent]
    assert windows.left == 65_535 + more - sum(sent)
