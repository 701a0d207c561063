"""DATA frames made by hand, held to h2: the same bytes for the same chunks, never more than the windows, none lost.

The client's side is h2's own state, which raises when a byte comes beyond a window.
"""

from __future__ import annotations

import h2.config
import h2.connection
import h2.settings
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowserver.flow.bounded_buffer import Watermarks
from flowserver.http.h2_frames import END_STREAM
from tests.support import h2_frames as frames
from tests.support.h2_dialogue import H2Client, Room
from tests.support.h2_peer import H2Peer

CODES = h2.settings.SettingCodes
KB = 1024


def _h2_frames(stream_id: int, window: int, max_frame: int, chunks: list[bytes]) -> bytes:
    """What h2 sends for the same body: chunks as large as window and frame allow, then the end."""
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.local_settings = h2.settings.Settings(
        client=True, initial_values={CODES.INITIAL_WINDOW_SIZE: window, CODES.MAX_FRAME_SIZE: max_frame}
    )
    client.initiate_connection()
    client.increment_flow_control_window(1 << 24)
    client.send_headers(stream_id, frames.request_fields(), end_stream=True)
    server.initiate_connection()
    server.receive_data(client.data_to_send())
    server.send_headers(stream_id, [(":status", "200")])
    server.data_to_send()
    for chunk in chunks:
        server.send_data(stream_id, chunk)
    server.end_stream(stream_id)
    return server.data_to_send()


@settings(max_examples=100, deadline=None)
@given(
    turns=st.lists(
        st.lists(
            st.one_of(st.binary(min_size=1, max_size=300), st.integers(1, 40_000).map(bytes)), min_size=1, max_size=4
        ),
        max_size=8,
    ),
    max_frame=st.sampled_from([16_384, 20_000, 1 << 20]),
    lead=st.integers(0, 3),
)
def test_frames_are_h2_s_own_bytes(turns: list[list[bytes]], max_frame: int, lead: int) -> None:
    room = Room(watermarks=Watermarks(1 << 22, 1, 1000))
    client = room.client(peer=H2Peer(window=1 << 20, max_frame=max_frame, credits_connection=False))
    client.peer.credit(0, 1 << 24)
    for _ in range(lead):
        client.asks()
    stream_id = client.asks()
    opened = room.opened[-1]
    opened.answers(end=False)
    client.talk()
    heard = b""
    for turn in turns:
        for chunk in turn:
            opened.stream.send_data(chunk)
        client.turns.run()
        heard += client.hears()
    opened.stream.send_end()
    client.turns.run()
    heard += client.hears()
    pieces = [piece for turn in turns for piece in _frames_of_a_turn(turn, max_frame)]
    assert heard == _h2_frames(stream_id, 1 << 20, max_frame, pieces)


def _frames_of_a_turn(chunks: list[bytes], max_frame: int) -> list[bytes]:
    """A chunk that fits is a frame at once; one that does not waits for the end of the turn, and so do those behind."""
    frames = []
    waiting = b""
    for chunk in chunks:
        if waiting or len(chunk) > max_frame:
            waiting += chunk
        else:
            frames.append(chunk)
    return frames + [waiting[start : start + max_frame] for start in range(0, len(waiting), max_frame)]


STEPS = st.one_of(
    st.tuples(st.just("data"), st.integers(0, 3), st.integers(1, 20_000)),
    st.tuples(st.just("events"), st.integers(0, 3), st.integers(1, 1_100)),
    st.tuples(st.just("credit"), st.integers(0, 3), st.integers(1, 30_000)),
    st.tuples(st.just("credit connection"), st.just(0), st.integers(1, 60_000)),
    st.tuples(st.just("settings"), st.just(0), st.integers(0, 100_000)),
    st.tuples(st.just("block"), st.just(0), st.just(0)),
    st.tuples(st.just("read"), st.just(0), st.integers(1, 200_000)),
    st.tuples(st.just("turn"), st.just(0), st.integers(1, 2)),
)


@settings(max_examples=150, deadline=None)
@given(window=st.integers(0, 70_000), steps=st.lists(STEPS, max_size=60))
@example(window=0, steps=[("credit connection", 0, 1)] * 16 + [("data", 0, 1)] + [("credit connection", 0, 1)] * 4)
def test_no_byte_is_lost_repeated_or_sent_beyond_a_window(window: int, steps: list[tuple[str, int, int]]) -> None:
    watermarks = Watermarks(16 * KB, 4 * KB, 16)
    room = Room(watermarks=watermarks)
    client = room.client(peer=H2Peer(window=window, credits_connection=False))
    ids = [client.asks() for _ in range(4)]
    for opened in room.opened:
        opened.answers(end=False)
    client.talk()
    sent = [b""] * 4
    ways = [way[0] for opened in room.opened if (way := opened.stream.direct_writer()) is not None]
    for number, (action, which, size) in enumerate(steps):
        opened, stream_id = room.opened[which], ids[which]
        if action in ("data", "events"):
            for again in range(1 if action == "data" else 20):
                log = opened.events.log
                if log.count("full") != log.count("drained"):  # the exchange keeps to what it is told
                    break
                chunk = bytes(((number + again) % 251,)) * size
                (opened.stream.send_data if action == "data" else ways[which])(chunk)
                sent[which] += chunk
        elif action == "credit":
            client.peer.credit(stream_id, size)
        elif action == "credit connection":
            client.peer.credit(0, size)
        elif action == "settings":
            client.peer.settings(initial_window_size=size)
        elif action == "block":
            client.stops_reading()
        elif action == "read":
            client.reads(size)
        else:
            client.turns.run(size)
        assert opened.stream.held <= watermarks.high + 20_000
        _deliver(client)
        for stream, whole in zip(ids, sent, strict=True):
            assert whole.startswith(client.answer(stream).body)
    _release(room, client, ids)
    assert [client.answer(stream_id).body for stream_id in ids] == sent
    assert all(client.answer(stream_id).whole for stream_id in ids)
    for opened in room.opened:
        log = opened.events.log
        assert log.count("full") == log.count("drained")
        assert log[-1] == "finished"
    assert room.totals.streams == 0


def _deliver(client: H2Client) -> None:
    client.transport.arrive(client.peer.take())
    client.peer.hear(client.hears())


def _release(room: Room, client: H2Client, ids: list[int]) -> None:
    for opened in room.opened:
        opened.stream.send_end()
    client.reads()
    client.peer.credit(0, 1 << 24)
    for stream_id in ids:
        client.peer.credit(stream_id, 1 << 24)
    client.talk()


@settings(max_examples=100, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 400), max_size=100),
    uploads=st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=300), st.booleans()), max_size=20),
)
def test_reads_cut_anywhere_give_the_same_requests(cuts: list[int], uploads: list[tuple[int, bytes, bool]]) -> None:
    ids = (1, 3, 5)
    raw = frames.PREFACE + frames.settings() + b"".join(frames.headers(number, end=False) for number in ids)
    expected = [b""] * 3
    for which, body, padded in uploads:
        raw += frames.data(ids[which], body, pad=7 if padded else None)
        expected[which] += body
    raw += b"".join(frames.data(number, end=True) for number in ids)
    room = Room()
    client = room.client(greets=False)
    for cut in cuts:
        client.says(raw[:cut])
        raw = raw[cut:]
    client.says(raw)
    assert [opened.events.body for opened in room.opened] == expected
    assert all(opened.events.log[-1] == "end" for opened in room.opened)


def test_the_end_is_its_own_frame() -> None:
    room = Room()
    client = room.client()
    client.asks()
    room.opened[0].answers(b"body")
    client.talk()
    sent = [(frame.flags, frame.payload) for frame in client.peer.frames if frame.kind == frames.DATA]
    assert sent == [(0, b"body"), (END_STREAM, b"")]
