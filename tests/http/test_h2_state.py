"""h2's state as it is adapted for both sides: nothing grows at will, and windows are the adapted ones."""

from __future__ import annotations

import sys
from collections.abc import Callable

import h2.exceptions
import h2.settings
import pytest

from flowserver.errors import bad_request
from flowserver.http.h2_bounded_state import HEADER_TABLE, BoundedState
from flowserver.http.h2_client_state import ClientState
from flowserver.http.h2_send_window import MAX_WINDOW
from flowserver.http.h2_server_state import ServerState
from tests.support import h2_frames as frames


def server() -> ServerState:
    """A client has connected."""
    state = ServerState()
    state.open(max_streams=100, stream_window=65_536, connection_window=1 << 20)
    state.receive_data(frames.PREFACE + frames.settings())
    state.data_to_send()
    return state


def client() -> ClientState:
    """A provider has accepted."""
    state = ClientState()
    state.open(stream_window=65_536, connection_window=1 << 20)
    state.receive_data(frames.settings())
    state.data_to_send()
    return state


def said(state: BoundedState) -> list[frames.Raw]:
    return list(frames.split(bytearray(state.data_to_send())))


BOTH = pytest.mark.parametrize("make", [server, client])


@BOTH
def test_unknown_settings_leave_nothing_behind(make: Callable[[], BoundedState]) -> None:
    state = make()
    for start in range(1000, 1760, 19):
        state.receive_data(frames.settings(*((code, 1) for code in range(start, start + 19))))
    assert len(state.remote_settings) <= 8


@BOTH
def test_settings_take_little_and_change_as_h2_changes_them(make: Callable[[], BoundedState]) -> None:
    state, same = make(), make()
    for settings in (state.local_settings, state.remote_settings):
        assert all(sys.getsizeof(values) < 200 for values in vars(settings)["_settings"].values())
    state.receive_data(frames.settings((frames.INITIAL_WINDOW, 99_999), (frames.MAX_STREAMS, 7)))
    assert (state.remote_settings.initial_window_size, state.remote_settings.max_concurrent_streams) == (99_999, 7)
    assert all(sys.getsizeof(values) < 200 for values in vars(state.remote_settings)["_settings"].values())
    for each in (state, same):
        each.update_settings({h2.settings.SettingCodes.MAX_FRAME_SIZE: 20_000})
        each.update_settings({h2.settings.SettingCodes.MAX_FRAME_SIZE: 30_000})
    assert state.local_settings.max_frame_size == 16_384, "not acknowledged"
    state.receive_data(frames.settings(ack=True))
    assert state.local_settings.max_frame_size == 20_000
    state.receive_data(frames.settings(ack=True))
    assert state.local_settings.max_frame_size == 30_000
    assert same.local_settings != state.local_settings


@BOTH
def test_the_table_of_our_fields_is_bounded_whatever_the_other_side_allows(make: Callable[[], BoundedState]) -> None:
    state = make()
    for size in (2**32 - 1, 0, 2**32 - 1):
        state.receive_data(frames.settings((frames.HEADER_TABLE_SIZE, size)))
    assert state.encoder.header_table_size == HEADER_TABLE


def test_fields_beyond_the_table_leave_it() -> None:
    state = client()
    state.receive_data(frames.settings((frames.HEADER_TABLE_SIZE, 2**32 - 1)))
    fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"x"), (b":path", b"/")]
    for number in range(200):
        stream = state.begin_request([*fields, (b"x-a", b"%0500d" % number)])
        state.reset_stream(stream.stream_id)
    assert len(state.encoder.header_table.dynamic_entries) < 10


def test_ended_requests_are_forgotten() -> None:
    state = server()
    for stream_id in range(1, 601, 2):
        state.receive_head(stream_id, frames.literals(frames.request_fields()), ended=True)
        stream = state.stream(stream_id)
        state.send_head(stream, [(b":status", b"200")])
        stream.send_end()
    assert len(state.streams) < 100


@BOTH
def test_a_connection_s_window_that_overflows_ends_it(make: Callable[[], BoundedState]) -> None:
    state = make()
    state.update_window(MAX_WINDOW - 65_535)
    with pytest.raises(h2.exceptions.FlowControlError):
        state.update_window(1)
    [goaway] = said(state)
    assert (goaway.kind, goaway.payload[7]) == (frames.GOAWAY, frames.FLOW_CONTROL_ERROR)


def test_settings_change_the_windows_of_open_streams() -> None:
    state = server()
    window = state.send_windows.open(1)
    state.send_windows.take(window, 60_000)
    state.receive_data(frames.settings((frames.INITIAL_WINDOW, 10_000)))
    assert (window.left, state.send_windows.left) == (-50_000, 5535)


def test_settings_that_overflow_a_window_end_the_connection() -> None:
    state = server()
    state.send_windows.update_stream(state.send_windows.open(1), MAX_WINDOW - 65_535)
    with pytest.raises(h2.exceptions.FlowControlError):
        state.receive_data(frames.settings((frames.INITIAL_WINDOW, 65_536)))
    [goaway] = said(state)
    assert (goaway.kind, goaway.payload[7]) == (frames.GOAWAY, frames.FLOW_CONTROL_ERROR)


def refused(state: ServerState, stream_id: int, *, bodiless: bool = False) -> list[frames.Raw]:
    state.receive_head(stream_id, frames.literals(frames.request_fields()), ended=True)
    state.answer_at_once(stream_id, bad_request("No."), bodiless=bodiless)
    return said(state)


def test_an_error_is_one_head_and_one_frame_within_the_window() -> None:
    state = server()
    head, body = refused(state, 1)
    assert (head.kind, body.kind, body.flags) == (frames.HEADERS, frames.DATA, frames.END_STREAM)
    assert body.payload == bad_request("No.").body()
    assert state.send_windows.left == 65_535 - len(body.payload)
    assert state.stream(1).closed


def test_an_error_for_a_head_request_has_no_body() -> None:
    _, end = refused(server(), 1, bodiless=True)
    assert (end.kind, end.flags, end.payload) == (frames.DATA, frames.END_STREAM, b"")


@pytest.mark.parametrize("scarce", ["stream", "connection"])
def test_an_error_that_no_window_has_room_for_is_a_reset(scarce: str) -> None:
    state = server()
    if scarce == "stream":
        state.receive_data(frames.settings((frames.INITIAL_WINDOW, 5)))
    else:
        state.send_windows.take(state.send_windows.open(99), 65_530)
    state.data_to_send()
    assert [frame.kind for frame in refused(state, 1)] == [frames.HEADERS, frames.RST_STREAM]


def test_many_errors_use_up_no_window_that_the_client_opens_again() -> None:
    state = server()
    for stream_id in range(1, 2001, 2):
        _, body = refused(state, stream_id)
        state.update_window(len(body.payload))
    assert state.send_windows.left == 65_535
