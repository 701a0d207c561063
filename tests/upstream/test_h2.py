"""A connection to a provider of HTTP/2: what goes out, what comes back, and every way it can go wrong."""

from __future__ import annotations

import pytest

from flowserver.errors import EndReason
from flowserver.flow.bounded_buffer import Watermarks
from flowserver.http.h2_frames import TURN
from flowserver.http.messages import RequestHead
from flowserver.upstream.h2 import CONNECTION_WINDOW, MAX_STREAMS
from flowserver.upstream.h2_stream import MAX_HEADERS, MAX_INTERIM

from ..support import h2_frames as frames
from ..support.clock import FakeClock
from ..support.h2_upstream import H2Events, H2Provider, RecordingOwner, ask
from ..support.transport import kernel_of

WINDOW = 65_536


def response(stream_id: int, *fields: tuple[str, str], end: bool = False) -> bytes:
    return frames.headers(stream_id, [(":status", "200"), *fields], end=end)


# Requests


def test_a_request_has_its_pseudo_headers_first() -> None:
    provider = H2Provider()
    ask(provider)
    request = provider.requests[1]
    assert request.fields == [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", b"api.test"),
        (b":path", b"/v1"),
        (b"x-a", b"b"),
    ]
    assert request.whole
    assert provider.connection.busy == provider.connection.served == 1


def test_over_tls_the_scheme_says_so() -> None:
    provider = H2Provider(tls=True)
    ask(provider)
    assert (b":scheme", b"https") in provider.requests[1].fields


def test_a_body_goes_out_with_its_announced_length() -> None:
    provider = H2Provider()
    stream, _ = ask(provider, b"POST", has_body=True, length=5)
    assert (b"content-length", b"5") in provider.requests[1].fields
    stream.send_data(b"he")
    stream.send_data(b"llo")
    stream.send_end()
    provider.talk()
    assert (provider.requests[1].body, provider.requests[1].whole) == (b"hello", True)
    assert provider.requests[1].sizes[0] == 5  # what waits leaves joined


def test_an_upload_keeps_to_both_windows_and_to_the_frame_size() -> None:
    provider = H2Provider(initial_window_size=20_000)
    provider.credits = False
    first, events = ask(provider, b"POST", has_body=True)
    second, _ = ask(provider, b"POST", has_body=True)
    first.send_data(b"x" * 50_000)
    second.send_data(b"y" * 10)
    first.send_end()
    provider.talk()
    assert provider.requests[1].body == b"x" * 20_000
    assert max(provider.requests[1].sizes) <= 16_384
    assert provider.requests[3].body == b"y" * 10
    assert events.log == ["full"]
    provider.server.increment_flow_control_window(29_000, 1)
    provider.talk()
    assert provider.requests[1].body == b"x" * 49_000
    assert events.log == ["full"]
    provider.change(initial_window_size=40_000)
    assert events.log == ["full", "drained"]
    assert (provider.requests[1].body, provider.requests[1].whole) == (b"x" * 50_000, True)


def test_a_shut_connection_window_holds_all_uploads_and_opens_for_all() -> None:
    provider = H2Provider(initial_window_size=1_000_000)
    provider.credits = False
    streams = [ask(provider, b"POST", has_body=True)[0] for _ in range(3)]
    for stream in streams:
        stream.send_data(b"x" * 40_000)
        stream.send_end()
    provider.talk()
    assert sum(len(request.body) for request in provider.requests.values()) == 65_535
    assert min(len(request.body) for request in provider.requests.values()) >= 16_384  # each had its turn
    provider.server.increment_flow_control_window(100_000)
    provider.talk()
    assert all(request.whole for request in provider.requests.values())


def test_many_uploads_do_not_fill_a_transport_that_is_blocked() -> None:
    provider = H2Provider(initial_window_size=1_000_000)
    provider.server.increment_flow_control_window(10_000_000)
    provider.talk()
    streams = [ask(provider, b"POST", has_body=True)[0] for _ in range(50)]
    provider.stops_reading()
    for stream in streams:
        stream.send_data(b"x" * 16_384)
    provider.turns.run()
    assert len(provider.transport.buffer) <= 4 * 16_384 + 64 * 1024
    provider.reads()
    provider.talk()
    assert all(request.body == b"x" * 16_384 for request in provider.requests.values())


# Answers


def test_an_answer_comes_and_ends() -> None:
    provider = H2Provider()
    stream, events = ask(provider)
    provider.head(1, ("content-type", "text/plain"))
    provider.body(1, b"hel")
    provider.body(1, b"lo", end=True)
    assert events.log == ["head 200", "data", "data", "end"]
    assert events.body == b"hello"
    assert provider.connection.busy == 0
    assert provider.requests[1].reset is None
    assert provider.end == "open"
    stream.cancel()


def test_padding_is_no_content_and_costs_window() -> None:
    provider = H2Provider()
    _, events = ask(provider)
    provider.head(1)
    for _ in range(400):
        provider.body(1, b"x", pad=250)
        assert provider.room(1) >= WINDOW // 2 - 252
    provider.body(1, b"", end=True, pad=3)
    assert events.body == b"x" * 400
    assert events.log[-1] == "end"


def test_an_answer_s_announced_length_is_told_and_kept_to() -> None:
    provider = H2Provider()
    _, events = ask(provider)
    provider.head(1, ("content-length", "5"))
    provider.body(1, b"hello", end=True)
    assert events.heads[0].content_length == 5
    assert events.log == ["head 200", "data", "end"]


@pytest.mark.parametrize(("body", "end"), [(b"hell", True), (b"hello!", False), (b"", True)])
def test_an_answer_that_is_shorter_or_longer_than_announced_breaks_its_stream_alone(body: bytes, end: bool) -> None:
    provider = H2Provider()
    _, events = ask(provider)
    _, other = ask(provider)
    provider.talk(response(1, ("content-length", "5")) + frames.data(1, body, end=end))
    assert events.log[-1] == "failed 502"
    assert not events.errors[0].not_processed
    assert provider.requests[1].reset == frames.PROTOCOL_ERROR or end
    provider.talk(response(3, end=True))
    assert other.log == ["head 200", "end"]


@pytest.mark.parametrize("length", ["-1", "+5", "5, 5", "x", "", "1" * 16])
def test_a_malformed_length_is_an_error(length: str) -> None:
    provider = H2Provider()
    _, events = ask(provider)
    provider.talk(response(1, ("content-length", length)))
    assert events.log == ["failed 502"]
    assert provider.requests[1].reset == frames.PROTOCOL_ERROR


def test_two_lengths_are_an_error() -> None:
    provider = H2Provider()
    _, events = ask(provider)
    provider.talk(response(1, ("content-length", "5"), ("content-length", "6")))
    assert events.log == ["failed 502"]


def test_trailers_end_an_answer_and_are_dropped() -> None:
    provider = H2Provider()
    _, events = ask(provider)
    provider.head(1)
    provider.body(1, b"x")
    provider.talk(frames.headers(1, [("x-checksum", "1")], end=True))
    assert events.log == ["head 200", "data", "end"]


def test_trailers_of_an_answer_that_is_too_short_are_no_clean_end() -> None:
    provider = H2Provider()
    _, events = ask(provider)
    provider.head(1, ("content-length", "2"))
    provider.body(1, b"x")
    provider.talk(frames.headers(1, [("x-checksum", "1")], end=True))
    assert events.log[-1] == "failed 502"


def test_interim_answers_come_before_the_answer_and_are_bounded() -> None:
    provider = H2Provider()
    _, events = ask(provider)
    for _ in range(MAX_INTERIM):
        provider.talk(frames.headers(1, [(":status", "103"), ("link", "</x>")], end=False))
    provider.head(1, end=True)
    assert events.log == ["interim 103"] * MAX_INTERIM + ["head 200", "end"]
    _, events = ask(provider)
    for _ in range(MAX_INTERIM + 1):
        provider.talk(frames.headers(3, [(":status", "103")], end=False))
    assert events.log[-1] == "failed 502"


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
def test_an_answer_without_a_body_has_none_whatever_it_announces(method: bytes, status: int) -> None:
    provider = H2Provider()
    _, events = ask(provider, method)
    provider.head(1, ("content-length", "5"), status=status, end=True)
    assert events.log == [f"head {status}", "end"]
    _, events = ask(provider, method)
    provider.talk(frames.headers(3, [(":status", str(status))], end=False) + frames.data(3, b"x"))
    assert events.log == [f"head {status}", "failed 502"]


def test_an_early_answer_ends_the_upload() -> None:
    provider = H2Provider()
    stream, events = ask(provider, b"POST", has_body=True)
    stream.send_data(b"x")
    provider.talk()
    provider.head(1, status=401, end=True)
    assert events.log == ["head 401", "end"]
    assert provider.requests[1].reset == frames.CANCEL
    assert provider.connection.busy == 0


# Windows


def test_a_paused_stream_gets_no_window_and_its_bytes_are_bounded() -> None:
    provider = H2Provider()
    stream, events = ask(provider)
    _, other = ask(provider)
    provider.head(1)
    provider.head(3)
    stream.pause_reading()
    sent = 0
    while (room := min(provider.room(1), 10_000)) > 0:
        provider.body(1, b"x" * room)
        sent += room
    assert sent == WINDOW
    for _ in range(100):
        provider.body(3, b"y" * 10_000)
    assert len(other.body) == 1_000_000
    stream.resume_reading()
    provider.talk()
    assert provider.room(1) == WINDOW
    provider.body(1, b"z", end=True)
    assert events.body == b"x" * WINDOW + b"z"


def test_a_stream_is_credited_as_it_is_consumed() -> None:
    provider = H2Provider()
    _, events = ask(provider)
    provider.head(1)
    for _ in range(300):
        provider.body(1, b"x" * 1000)
        assert provider.room(1) >= WINDOW // 2 - 1000
    assert len(events.body) == 300_000


def test_the_connection_is_credited_on_receipt_and_for_dropped_streams_too() -> None:
    provider = H2Provider()
    for number in range(CONNECTION_WINDOW // WINDOW):
        stream, _ = ask(provider)
        stream.cancel()
        for _ in range(WINDOW // 16_384):  # the provider has not heard of the reset yet
            provider.transport.arrive(frames.data(2 * number + 1, b"x" * 16_384))
        provider.turns.run()
    told = [*provider.frames, *_own_frames(provider)]
    credits = [frame for frame in told if frame.kind == frames.WINDOW_UPDATE and not frame.stream_id]
    opened = CONNECTION_WINDOW - 65_535
    assert sum(int.from_bytes(frame.payload, "big") for frame in credits) == opened + CONNECTION_WINDOW


def _own_frames(provider: H2Provider) -> list[frames.Raw]:
    return list(frames.split(bytearray(provider.hears())))


def test_more_than_the_window_breaks_the_stream() -> None:
    provider = H2Provider()
    stream, events = ask(provider)
    provider.talk(response(1))
    stream.pause_reading()
    for _ in range(WINDOW // 16_384):
        provider.transport.arrive(frames.data(1, b"x" * 16_384))
    assert "failed 502" not in events.log
    provider.transport.arrive(frames.data(1, b"x"))
    assert events.log[-1] == "failed 502"
    assert events.body == b"x" * WINDOW
    assert provider.end == "open"


def test_nothing_follows_a_reset() -> None:
    provider = H2Provider()

    class Leaving(H2Events):
        def on_upstream_data(self, data: bytes) -> None:
            super().on_upstream_data(data)
            if len(self.body) >= WINDOW // 2:  # where the window would be credited
                self.stream.cancel()

    stream, _ = ask(provider)
    events = Leaving()
    events.stream = stream
    stream.events = events
    provider.head(1)
    provider.server.send_data(1, b"x" * 16_384)
    provider.server.send_data(1, b"x" * 16_384)
    provider.server.send_data(1, b"x" * 16_384)
    provider.talk()
    stream.resume_reading()
    provider.talk()
    assert provider.requests[1].reset == frames.CANCEL
    assert provider.requests[1].behind_reset == []


# Ends that are no clean ends


def test_a_cancelled_request_is_reset_and_nothing_is_called_back() -> None:
    provider = H2Provider()
    stream, events = ask(provider)
    stream.cancel()
    stream.cancel()
    provider.talk()
    assert provider.requests[1].reset == frames.CANCEL
    assert provider.requests[1].behind_reset == []
    provider.talk(response(1) + frames.data(1, b"late", end=True))
    assert events.log == []
    assert provider.end == "open"
    _, events = ask(provider)
    provider.head(3, end=True)
    assert events.log == ["head 200", "end"]


@pytest.mark.parametrize("status", ["100", "103", "200"])
@pytest.mark.parametrize("end", [False, True])
def test_a_head_that_crosses_a_reset_breaks_nobody_else(status: str, end: bool) -> None:
    provider = H2Provider()
    stream, events = ask(provider)
    _, other = ask(provider)
    stream.cancel()
    provider.talk()
    provider.talk(frames.headers(1, [(":status", status), ("x-late", "yes")], end=end))
    provider.head(3, end=True)
    assert (events.log, other.log) == ([], ["head 200", "end"])
    assert provider.end == "open"


@pytest.mark.parametrize(("code", "not_processed"), [(frames.REFUSED_STREAM, True), (frames.INTERNAL_ERROR, False)])
def test_a_reset_by_the_provider_breaks_the_stream_and_tells_whether_it_was_begun(
    code: int, not_processed: bool
) -> None:
    provider = H2Provider()
    _, events = ask(provider)
    _, other = ask(provider)
    provider.talk(frames.rst_stream(1, code))
    assert [(error.not_processed, error.end) for error in events.errors] == [(not_processed, EndReason.UPSTREAM_FAILED)]
    assert other.log == []
    assert provider.connection.busy == 1


def test_a_reset_without_an_error_behind_the_end_is_no_failure() -> None:
    provider = H2Provider()
    _, events = ask(provider, b"POST", has_body=True)
    provider.talk(response(1, end=True) + frames.rst_stream(1, frames.NO_ERROR))
    assert events.log == ["head 200", "end"]
    assert provider.end == "open"


def test_goaway_lets_old_streams_end_refuses_later_ones_and_then_closes() -> None:
    owner = RecordingOwner()
    provider = H2Provider(owner)
    _, old = ask(provider)
    _, late = ask(provider)
    provider.talk(frames.goaway(1))
    assert late.errors[0].not_processed
    assert old.log == []
    assert provider.connection.capacity == 0
    assert provider.end == "open"
    provider.talk(response(1) + frames.data(1, b"hello", end=True))
    assert old.log == ["head 200", "data", "end"]
    assert provider.end == "closed"


def test_a_goaway_that_only_warns_is_followed_by_the_one_that_counts() -> None:
    provider = H2Provider()
    _, first = ask(provider)
    _, second = ask(provider)
    provider.talk(frames.goaway(0x7FFFFFFF))
    assert (first.log, second.log) == ([], [])
    provider.talk(frames.goaway(1))
    assert (first.log, second.log) == ([], ["failed 502"])


def test_goaway_on_an_idle_connection_closes_it() -> None:
    provider = H2Provider()
    provider.talk(frames.goaway(0))
    assert provider.end == "closed"


def test_goaway_that_ends_one_stream_whose_end_ends_another() -> None:
    provider = H2Provider()
    _, first = ask(provider)
    second, told = ask(provider)

    class Ending(H2Events):
        def on_upstream_failed(self, error: object) -> None:
            second.cancel()

    provider.connection._streams[1].events = Ending()
    provider.talk(frames.goaway(0))
    assert (first.log, told.log) == ([], [])
    assert provider.connection.busy == 0


def test_a_lost_connection_fails_all_its_streams_and_is_told() -> None:
    owner = RecordingOwner()
    provider = H2Provider(owner)
    told = [ask(provider)[1] for _ in range(3)]
    provider.resets()
    assert [events.log for events in told] == [["failed 502"]] * 3
    assert owner.lost == 1
    assert provider.connection.capacity == 0


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff" * 100,
        frames.frame(frames.DATA, 0, 1, b"", length=16_385),
        frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff\xff"),
        frames.frame(frames.HEADERS, frames.END_HEADERS, 2, b"\x88"),
        frames.frame(frames.PUSH_PROMISE, frames.END_HEADERS, 1, b"\0\0\0\x02\x82"),
        frames.frame(frames.SETTINGS, 0, 0, b"12345"),
        frames.frame(frames.WINDOW_UPDATE, 0, 0, b"\0\0\0\0"),
        frames.frame(frames.DATA, frames.PADDED, 1, b"\x09x"),
        frames.frame(frames.DATA, frames.PADDED, 1, b""),
        frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, b""),
        frames.frame(frames.GOAWAY, 0, 0, b"1234"),
    ],
)
def test_garbage_ends_the_connection_and_never_cleanly(garbage: bytes) -> None:
    provider = H2Provider()
    told = [ask(provider)[1] for _ in range(2)]
    provider.talk(garbage)
    assert provider.end == "reset"
    assert [events.log for events in told] == [["failed 502"]] * 2
    assert not any(events.errors[0].not_processed for events in told)


MANY = 20_000
HEAD = frames.headers(1, [(":status", "200")], end=False)
OVER = HEAD + frames.data(1, b"", end=True)
FLOODS = {
    "settings": frames.settings((frames.INITIAL_WINDOW, 100)) * MANY,
    "empty-settings": frames.settings() * MANY,
    "unknown-settings": frames.settings(*((code, 1) for code in range(100, 2800))),
    "settings-answers": frames.settings(ack=True) * MANY,
    "pings": frames.ping() * MANY,
    "ping-answers": frames.ping(ack=True) * MANY,
    "resets-of-a-dead-stream": frames.rst_stream(1) * MANY,
    "resets-of-an-ended-stream": OVER + frames.rst_stream(1) * MANY,
    "window-updates": frames.window_update(1, 1) * MANY,
    "connection-window-updates": frames.window_update(0, 1) * MANY,
    "priority": frames.priority(1) * MANY,
    "unknown-frames": frames.frame(0x42, 0, 1) * MANY,
    "empty-data": HEAD + frames.data(1) * MANY,
    "padded-empty-data": HEAD + frames.data(1, pad=0) * MANY,
    "data-on-a-dead-stream": frames.rst_stream(1) + frames.data(1, b"x" * 100) * MANY,
    "goaways": frames.goaway(0x7FFFFFFF) * MANY,
    "heads-on-a-dead-stream": frames.rst_stream(1) + HEAD * MANY,
    "continuations": frames.headers(1, [(":status", "200")], flags=0, end=False)
    + frames.frame(frames.CONTINUATION, 0, 1, b"\0\1x\1y") * MANY,
    "empty-continuations": frames.headers(1, [(":status", "200")], flags=0, end=False)
    + frames.frame(frames.CONTINUATION, 0, 1) * MANY,
    "huge-head": frames.frame(frames.HEADERS, 0, 1, b"\x88")
    + frames.frame(frames.CONTINUATION, 0, 1, b"x" * 16_384) * 65,
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_a_flood_ends_the_connection_by_name_and_fails_its_streams(flood: bytes) -> None:
    clock = FakeClock()
    provider = H2Provider(clock=clock)
    told = [ask(provider)[1] for _ in range(2)]
    provider.says(flood)
    assert told[1].log == ["failed 502"]
    assert told[1].errors[0].end is EndReason.UPSTREAM_FAILED
    assert "flooded" in told[1].errors[0].message
    assert not told[1].errors[0].not_processed
    assert provider.connection.capacity == 0
    assert not provider.connection.is_alive()
    *_, last = _own_frames(provider)
    assert (last.kind, last.payload[4:8]) == (frames.GOAWAY, frames.ENHANCE_YOUR_CALM.to_bytes(4, "big"))
    assert not provider.transport.reading
    assert provider.end == "open"
    provider.connection.sweep(clock.advance(1))
    assert provider.end == "reset"


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_a_flood_is_dealt_with_a_little_in_each_turn(flood: bytes) -> None:
    """What others wait for is one turn; the socket is not read meanwhile."""
    provider = H2Provider()
    ask(provider)
    read = 0
    provider.transport._unread += flood
    provider.transport.deliver(1)
    while provider.transport.calls[-1:] == ["pause_reading"] and provider.connection.capacity:
        before = len(provider.transport.sent) + len(provider.transport.buffer)
        provider.turns.run(1)
        assert len(provider.transport.sent) + len(provider.transport.buffer) - before <= TURN * 17
        read += 1
        assert read < MANY
    assert provider.transport.unread >= len(flood) - 3 * 64 * 1024


def test_what_honest_providers_do_is_no_flood() -> None:
    clock = FakeClock()
    provider = H2Provider(clock=clock)
    _, events = ask(provider)
    provider.head(1)
    for number in range(30_000):
        clock.advance(0.001)
        provider.body(1, b"tok ")
        if number % 100 == 0:
            provider.talk(frames.ping() + frames.data(1) + frames.frame(0x42, 0, 0))
    assert len(events.body) == 4 * 30_000
    assert provider.end == "open"


def test_frames_that_come_behind_many_cancels_are_no_flood() -> None:
    provider = H2Provider()
    for number in range(500):
        stream, _ = ask(provider)
        stream.cancel()
        late = frames.headers(2 * number + 1, [(":status", "200")], end=False)
        late += frames.data(2 * number + 1, b"x" * 100) * 10
        provider.transport.arrive(late)
        provider.turns.run()
    assert provider.end == "open"
    assert provider.connection.capacity


def test_frames_that_come_behind_a_stream_that_was_broken_are_no_flood() -> None:
    provider = H2Provider()
    _, broken = ask(provider)
    _, other = ask(provider)
    provider.head(3)
    said = response(1, ("content-length", "1")) + frames.data(1, b"x" * 40) * 1500  # its window allows them
    provider.transport.arrive(said)
    provider.turns.run()
    assert broken.log == ["head 200", "failed 502"]
    assert other.log == ["head 200"]
    assert provider.connection.capacity


def test_window_updates_for_many_tiny_requests_are_no_flood() -> None:
    provider = H2Provider()
    for number in range(1000):
        stream, _ = ask(provider, b"POST", has_body=True)
        stream.send_data(b"x")
        stream.send_end()
        provider.talk()
        stream_id = 2 * number + 1
        updates = frames.window_update(stream_id, 1) + frames.window_update(0, 1)
        provider.talk(updates + frames.headers(stream_id, [(":status", "200")]))
    assert provider.connection.capacity


def test_an_upload_s_window_updates_are_no_flood() -> None:
    provider = H2Provider()
    stream, _ = ask(provider, b"POST", has_body=True)
    for _ in range(3000):
        stream.send_data(b"x" * 100)
        provider.talk(frames.window_update(0, 100) + frames.window_update(1, 100))
    stream.send_end()
    provider.talk()
    assert len(provider.requests[1].body) == 300_000
    assert provider.end == "open"


def test_a_read_of_small_frames_keeps_its_order_over_many_turns() -> None:
    provider = H2Provider(stream_window=1_000_000)
    _, events = ask(provider)
    _, other = ask(provider)
    said = HEAD + response(3)
    for number in range(3000):
        said += frames.data(1 + 2 * (number % 2), b"%05d" % number)
    provider.transport.arrive(said + frames.data(1, b"", end=True))
    assert len(events.body) <= 5 * TURN
    assert provider.turns.run() >= 3000 // TURN - 1
    assert events.body == b"".join(b"%05d" % number for number in range(0, 3000, 2))
    assert other.body == b"".join(b"%05d" % number for number in range(1, 3000, 2))
    assert events.log[-1] == "end"
    assert provider.transport.reading


def test_the_provider_s_table_size_is_bounded() -> None:
    provider = H2Provider(header_table_size=2**32 - 1)
    for number in range(200):
        head = RequestHead(b"GET", b"/", [(b"host", b"x"), (b"x-a", b"%0500d" % number)], has_body=False)
        provider.connection.begin(head, H2Events()).cancel()
        provider.talk()
    assert provider.connection._h2.encoder.header_table_size == 4096
    assert len(provider.connection._h2.encoder.header_table.dynamic_entries) < 10


def test_a_head_that_names_a_large_field_often_is_refused() -> None:
    bomb = b"\x88\x40\x06x-bomb" + b"\x7f" + bytes((0x81, 0x1E)) + b"b" * 4000 + b"\xbe" * 10_000
    provider = H2Provider()
    _, events = ask(provider)
    provider.talk(frames.frame(frames.HEADERS, frames.END_HEADERS, 1, bomb))
    assert events.log == ["failed 502"]
    assert provider.end == "reset"


@pytest.mark.parametrize(
    "fields",
    [
        [("x", "y")],
        [(":status", "200"), (":status", "200")],
        [("x", "y"), (":status", "200")],
        [(":status", "2000")],
        [(":status", "020")],
        [(":status", "abc")],
        [(":status", "101")],
        [(":status", "200"), ("X-Upper", "y")],
        [(":status", "200"), ("x y", "y")],
        [(":status", "200"), ("x", "a\r\nb")],
        [(":status", "200"), ("x", "a\0b")],
        [(":status", "200"), (":path", "/")],
        [(":status", "200"), *[("x", "y")] * (MAX_HEADERS + 1)],
    ],
)
def test_a_malformed_head_never_reaches_the_client(fields: list[tuple[str, str]]) -> None:
    provider = H2Provider()
    _, events = ask(provider)
    provider.talk(frames.headers(1, fields, end=False))
    assert events.log == ["failed 502"]
    assert provider.connection.busy == 0


@pytest.mark.parametrize("body", [frames.data(1, b"x"), frames.data(1, b"", end=True)])
def test_a_body_without_a_head_is_an_error(body: bytes) -> None:
    provider = H2Provider()
    _, events = ask(provider)
    provider.talk(body)
    assert events.log == ["failed 502"]


def test_cut_anywhere_it_is_the_same() -> None:
    said = response(1, ("content-length", "5")) + frames.data(1, b"hel", pad=3) + frames.data(1, b"lo", end=True)
    for size in (1, 2, 7, 10):
        provider = H2Provider()
        _, events = ask(provider)
        provider.says(*[said[start : start + size] for start in range(0, len(said), size)])
        assert events.log == ["head 200", "data", "data", "end"]
        assert events.body == b"hello"


# Capacity


def test_no_more_streams_than_the_provider_takes_also_when_it_takes_fewer() -> None:
    owner = RecordingOwner()
    provider = H2Provider(owner, max_concurrent_streams=3)
    assert provider.connection.capacity == 3
    streams = [ask(provider)[0] for _ in range(3)]
    assert provider.connection.capacity == 0
    provider.change(max_concurrent_streams=1)
    assert provider.connection.capacity == 0
    for stream in streams[:2]:
        stream.cancel()
    assert provider.connection.capacity == 0
    streams[2].cancel()
    assert provider.connection.capacity == 1
    provider.change(max_concurrent_streams=10)
    assert owner.capacities[-1] == 10
    for _ in range(10):
        ask(provider)


def test_a_provider_without_a_limit_gets_a_bounded_number() -> None:
    assert H2Provider().connection.capacity <= MAX_STREAMS


def test_streams_that_ended_make_room_however_they_ended() -> None:
    provider = H2Provider(max_concurrent_streams=1)
    for round_ in range(20):
        stream_id = 2 * round_ + 1
        stream, _ = ask(provider)
        assert provider.connection.capacity == 0
        if round_ % 4 == 0:
            provider.head(stream_id, end=True)
        elif round_ % 4 == 1:
            stream.cancel()
            provider.talk()
        elif round_ % 4 == 2:
            provider.server.reset_stream(stream_id)
            provider.talk()
        else:
            provider.talk(response(stream_id, ("content-length", "x")))
        assert provider.connection.capacity == 1


# Liveness


def test_a_silent_provider_with_open_requests_is_pinged_and_given_up() -> None:
    clock = FakeClock()
    provider = H2Provider(ping_interval=30.0, clock=clock)
    _, events = ask(provider)
    for _ in range(3):
        for _ in range(31):
            provider.connection.sweep(clock.advance(1))
            provider.talk()
    assert provider.pings in (2, 3)
    assert events.log == []
    provider.answers_pings = False
    for _ in range(70):
        provider.connection.sweep(clock.advance(1))
        provider.talk()
    assert events.log == ["failed 502"]
    assert provider.end == "reset"


def test_an_idle_connection_is_not_pinged() -> None:
    clock = FakeClock()
    provider = H2Provider(ping_interval=30.0, clock=clock)
    for _ in range(200):
        provider.connection.sweep(clock.advance(1))
        provider.talk()
    assert provider.pings == 0


def test_a_close_that_was_not_read_yet_is_noticed_before_use() -> None:
    provider = H2Provider()
    with kernel_of(provider.transport) as theirs:
        assert provider.connection.is_alive()
        theirs.close()
        assert not provider.connection.is_alive()


def test_pings_of_the_provider_are_answered() -> None:
    provider = H2Provider()
    provider.server.ping(b"12345678")
    provider.talk()
    assert any(frame.kind == frames.PING and frame.flags & frames.ACK for frame in provider.frames)


def test_what_is_said_to_a_connection_that_ended_is_ignored() -> None:
    provider = H2Provider(watermarks=Watermarks(1000, 100, 8))
    stream, events = ask(provider, b"POST", has_body=True)
    provider.resets()
    told = list(events.log)
    stream.cancel()
    stream.send_end()
    stream.resume_reading()
    provider.turns.run()
    assert events.log == told
