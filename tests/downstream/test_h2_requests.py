"""Requests and answers on one HTTP/2 connection; what is wrong with one of them leaves the others alone."""

from __future__ import annotations

import orjson
import pytest

from flowserver.downstream.context import H2Settings
from flowserver.downstream.linger import LINGER_SILENCE
from flowserver.errors import EndReason
from flowserver.http.messages import ResponseHead
from tests.support import h2_frames as frames
from tests.support.h2_dialogue import H2Client, Room
from tests.support.h2_peer import H2Peer


@pytest.fixture
def room() -> Room:
    return Room()


@pytest.fixture
def client(room: Room) -> H2Client:
    return room.client()


def test_a_request_is_opened_when_its_head_is_there(room: Room, client: H2Client) -> None:
    client.asks("POST", path="/v1/chat", headers=[("x-one", "1")], end=False)
    [opened] = room.opened
    assert (opened.request.method, opened.request.target) == (b"POST", b"/v1/chat")
    assert (b"x-one", b"1") in opened.request.headers
    assert opened.events.log == []


def test_requests_that_are_alike_but_for_their_length_and_others_between_them(room: Room, client: H2Client) -> None:
    asked = [("/1", "1", False), ("/1", "23", False), ("/1", "23", True), ("/2", "23", False), ("/2", "0", False)]
    for path, length, end in asked:
        client.asks("POST", path=path, headers=[("x-one", "1"), ("content-length", length)], end=end)
    told = [(each.request.target.decode(), str(each.request.content_length)) for each in room.opened]
    assert told == [(path, length) for path, length, end in asked if not end]  # one says two things of its body
    assert all(each.request.headers.count((b"x-one", b"1")) == 1 for each in room.opened)
    assert all(len(each.request.headers) == len(room.opened[0].request.headers) for each in room.opened)


def test_an_answer_comes_with_status_fields_and_body(room: Room, client: H2Client) -> None:
    stream_id = client.asks()
    room.opened[0].answers(b"hel", b"lo", status=201, length=5)
    client.talk()
    answer = client.answer(stream_id)
    assert (answer.status, answer.body, answer.whole) == (201, b"hello", True)
    assert answer.headers == {"content-type": "text/plain", "content-length": "5"}


def test_answers_of_many_streams_are_interleaved(room: Room, client: H2Client) -> None:
    ids = [client.asks() for _ in range(20)]
    for opened in reversed(room.opened):
        opened.answers(opened.request.target, end=False)
    client.talk()
    for opened in room.opened:
        opened.stream.send_data(b"!")
        opened.stream.send_end()
    client.talk()
    assert all(client.answer(stream_id).body == b"/v1/test!" for stream_id in ids)


def test_heads_in_continuations_are_put_together(room: Room, client: H2Client) -> None:
    block = frames.literals([*frames.request_fields(), ("x-long", "y" * 300)])
    pieces = [block[start : start + 50] for start in range(0, len(block), 50)]
    client.talk(
        frames.frame(frames.HEADERS, frames.END_STREAM, 1, pieces[0])
        + b"".join(frames.frame(frames.CONTINUATION, 0, 1, piece) for piece in pieces[1:-1])
        + frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, pieces[-1])
    )
    assert (b"x-long", b"y" * 300) in room.opened[0].request.headers


def test_interim_answers_pass_before_the_head_only(room: Room, client: H2Client) -> None:
    stream_id = client.asks()
    room.opened[0].stream.send_interim(ResponseHead(103, [(b"link", b"x")]))
    room.opened[0].answers()
    room.opened[0].stream.send_interim(ResponseHead(103, []))
    client.talk()
    assert (client.answer(stream_id).interim, client.answer(stream_id).status) == ([103], 200)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_what_has_no_body_gets_none(room: Room, client: H2Client, method: str, status: int) -> None:
    stream_id = client.asks(method)
    room.opened[0].answers(b"dropped", status=status)
    client.talk()
    answer = client.answer(stream_id)
    assert (answer.status, answer.body, answer.whole) == (status, b"", True)


def test_an_expectation_is_answered_unless_the_answer_is_there(room: Room, client: H2Client) -> None:
    stream_id = client.asks("POST", headers=[("expect", "100-continue")], end=False)
    assert client.answer(stream_id).interim == [100]


def test_an_expectation_behind_a_whole_body_is_not_answered(room: Room, client: H2Client) -> None:
    stream_id = client.asks("POST", headers=[("expect", "100-continue")], body=b"here it is")
    assert client.answer(stream_id).interim == []


def test_a_broken_end_is_a_reset(room: Room, client: H2Client) -> None:
    stream_id = client.asks()
    room.opened[0].answers(b"some", end=False)
    room.opened[0].stream.break_off()
    client.talk()
    answer = client.answer(stream_id)
    assert (answer.body, answer.whole, answer.reset) == (b"some", False, frames.INTERNAL_ERROR)
    assert room.opened[0].events.log == ["end"]


# --- one stream's errors ---

MALFORMED = {
    "malformed-field": frames.literals([*frames.request_fields(), ("X-Upper", "1")]),
    "status-in-request": frames.literals([(":status", "100"), *frames.request_fields()]),
    "protocol": frames.literals([(":protocol", "websocket"), *frames.request_fields()]),
    "nothing-at-all": b"",
}


@pytest.mark.parametrize("block", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("end", [True, False])
def test_a_malformed_request_is_one_stream_s_error(room: Room, client: H2Client, block: bytes, end: bool) -> None:
    sibling = client.asks()
    bad = client.peer.new_id()
    flags = frames.END_HEADERS | (frames.END_STREAM if end else 0)
    client.talk(frames.frame(frames.HEADERS, flags, bad, block))
    assert client.answer(bad).reset == frames.PROTOCOL_ERROR
    assert len(room.opened) == 1
    room.opened[0].answers(b"fine")
    client.talk()
    assert client.answer(sibling).body == b"fine"
    assert client.peer.goaways == []


STREAM_ERRORS = {
    "trailers-without-end": (frames.headers(1, [("x-sum", "1")], end=False), frames.PROTOCOL_ERROR),
    "trailers-with-status": (frames.headers(1, [(":status", "100")]), frames.PROTOCOL_ERROR),
    "trailers-with-pseudo-field": (frames.headers(1, [(":path", "/")]), frames.PROTOCOL_ERROR),
    "body-over-its-length": (frames.data(1, b"x" * 6), frames.PROTOCOL_ERROR),
    "body-under-its-length": (frames.data(1, b"x" * 4, end=True), frames.PROTOCOL_ERROR),
    "trailers-under-the-length": (frames.headers(1, [("x-sum", "1")]), frames.PROTOCOL_ERROR),
    "window-update-of-nothing": (frames.window_update(1, 0), frames.PROTOCOL_ERROR),
    "window-over-its-maximum": (frames.window_update(1, 2**31 - 1), frames.FLOW_CONTROL_ERROR),
}


@pytest.mark.parametrize(("raw", "code"), STREAM_ERRORS.values(), ids=STREAM_ERRORS.keys())
def test_an_error_of_one_stream_ends_that_stream_only(room: Room, client: H2Client, raw: bytes, code: int) -> None:
    bad = client.asks("POST", headers=[("content-length", "5")], end=False)
    sibling = client.asks()
    client.talk(raw)
    assert client.answer(bad).reset == code
    assert [line for line in room.opened[0].events.log if line.startswith("reset")] == [room.opened[0].events.log[-1]]
    assert "end" not in room.opened[0].events.log
    room.opened[1].answers(b"fine")
    client.talk()
    assert client.answer(sibling).body == b"fine"
    assert client.peer.goaways == []


def test_a_head_on_a_stream_that_said_its_end_is_that_stream_s_error(room: Room, client: H2Client) -> None:
    stream_id = client.asks()
    client.talk(frames.headers(stream_id))
    assert client.answer(stream_id).reset == frames.STREAM_CLOSED
    assert room.opened[0].events.log == ["end", f"reset {EndReason.CLIENT_GONE}"]


def test_a_stream_too_many_is_refused_and_may_be_tried_again() -> None:
    room = Room(h2=H2Settings(max_streams=2, ping_interval=None))
    client = room.client()
    first, _ = client.asks(), client.asks()
    third = client.peer.new_id()
    client.talk(frames.headers(third))
    assert client.answer(third).reset == frames.REFUSED_STREAM
    room.opened[0].answers()
    client.talk()
    assert client.answer(first).whole
    client.talk(frames.headers(client.peer.new_id()))
    assert len(room.opened) == 3


def test_what_is_not_served_gets_an_answer(room: Room, client: H2Client) -> None:
    stream_id = client.asks(path="/" + "x" * 9000)
    answer = client.answer(stream_id)
    assert (answer.status, answer.whole) == (414, True)
    assert orjson.loads(answer.body)["error"]["code"] == "uri_too_long"
    assert [error.status for error in room.observer.refused] == [414]
    assert room.opened == []


def test_a_refused_head_request_gets_no_body(client: H2Client) -> None:
    answer = client.answer(client.asks("HEAD", path="/" + "x" * 9000))
    assert (answer.status, answer.body, answer.whole) == (414, b"", True)


def test_a_refused_upload_is_told_to_stop_if_it_goes_on(room: Room, client: H2Client) -> None:
    stream_id = client.asks("POST", path="/" + "x" * 9000, end=False)
    answer = client.answer(stream_id)
    assert (answer.status, answer.whole, answer.rest_refused) == (414, True, None)
    room.sweep(client, LINGER_SILENCE)
    assert answer.rest_refused == frames.NO_ERROR


def test_a_refusal_without_a_window_is_a_reset(room: Room) -> None:
    client = room.client(peer=H2Peer(window=0))
    answer = client.answer(client.asks(path="/" + "x" * 9000))
    assert (answer.status, answer.whole, answer.reset) == (414, False, frames.CANCEL)


# --- cancellation ---


def test_a_reset_cancels_the_exchange(room: Room, client: H2Client) -> None:
    stream_id = client.asks()
    client.peer.reset(stream_id)
    client.talk()
    assert room.opened[0].events.log == ["end", "reset client_gone"]
    room.opened[0].answers(b"too late")
    client.talk()
    assert client.peer.answers[stream_id].status == 0


def test_a_request_that_is_reset_in_the_same_read_never_starts(room: Room, client: H2Client) -> None:
    client.talk(b"".join(frames.headers(number) + frames.rst_stream(number) for number in range(1, 101, 2)))
    assert room.opened == []
    assert room.totals.streams == 0


def test_a_reset_between_reads_of_the_head_never_starts_it(room: Room, client: H2Client) -> None:
    raw = frames.headers(1) + frames.rst_stream(1)
    client.says(raw[:20], raw[20:])
    assert room.opened == []


def test_a_late_reset_of_an_ended_stream_is_no_matter(room: Room, client: H2Client) -> None:
    for _ in range(50):  # so many that h2 forgets the ended ones
        stream_id = client.asks()
        room.opened[-1].answers()
        client.talk()
        client.talk(frames.rst_stream(stream_id))
    assert client.peer.goaways == []
    assert room.opened[-1].events.log == ["end", "finished"]


def test_a_client_that_leaves_cancels_all(room: Room, client: H2Client) -> None:
    for _ in range(3):
        client.asks("POST", end=False)
    client.resets()
    assert all(opened.events.log == ["reset client_gone"] for opened in room.opened)
    assert not room.context.connections


# --- the connection's errors ---

CONNECTION_ERRORS = {
    "no-settings-first": (frames.PROTOCOL_ERROR, frames.PREFACE + frames.ping()),
    "no-preface": (frames.PROTOCOL_ERROR, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    "data-on-no-stream": (frames.PROTOCOL_ERROR, frames.PREFACE + frames.settings() + frames.data(0, b"x")),
    "over-long-frame": (
        frames.FRAME_SIZE_ERROR,
        frames.PREFACE + frames.settings() + frames.frame(frames.HEADERS, 4, 1, length=16_385),
    ),
    "bad-compression": (
        frames.COMPRESSION_ERROR,
        frames.PREFACE + frames.settings() + frames.frame(frames.HEADERS, 4, 1, b"\xff\xff\xff"),
    ),
    "frame-inside-a-head": (
        frames.PROTOCOL_ERROR,
        frames.PREFACE + frames.settings() + frames.headers(1, flags=0) + frames.goaway(),
    ),
    "even-stream": (frames.PROTOCOL_ERROR, frames.PREFACE + frames.settings() + frames.headers(2)),
}


@pytest.mark.parametrize(("code", "raw"), CONNECTION_ERRORS.values(), ids=CONNECTION_ERRORS.keys())
def test_an_error_of_the_connection_ends_it_with_its_code(room: Room, code: int, raw: bytes) -> None:
    client = room.client(greets=False)
    client.says(raw)
    client.peer.hear(client.hears())
    assert [goaway.code for goaway in client.peer.goaways] == [code]
    assert client.end == "half-closed"  # what still comes is read, so that no reset overtakes the GOAWAY
    client.says(b"anything", frames.headers(3))
    assert client.hears() == b""
    client.sweep(room.clock.advance(1.0))
    assert client.transport.aborted
    client.transport.lose()
    assert not room.context.connections


@pytest.mark.parametrize("size", [1, 2, 7, 23, 24, 25])
def test_the_preface_may_come_in_pieces(room: Room, size: int) -> None:
    client = room.client(greets=False)
    raw = frames.PREFACE + frames.settings() + frames.headers(1)
    client.says(*(raw[start : start + size] for start in range(0, len(raw), size)))
    assert len(room.opened) == 1


def test_an_error_behind_a_goaway_of_the_same_read_is_told_once(room: Room, client: H2Client) -> None:
    client.asks()
    client.talk(frames.goaway() + frames.data(0, b"x"))
    assert [goaway.code for goaway in client.peer.goaways] == [frames.NO_ERROR, frames.PROTOCOL_ERROR]
    assert room.opened[0].events.log == ["end", "reset client_error"]
    client.connection.drain()
    client.turns.run()
    assert client.hears() == b""


# --- what would grow ---


def test_fields_are_read_whatever_table_the_client_allows(room: Room, client: H2Client) -> None:
    for size in (2**32 - 1, 0, 2**32 - 1):
        client.peer.settings(header_table_size=size)
        client.talk()
    for number in range(50):
        stream_id = client.asks()
        room.opened[-1].stream.send_head(ResponseHead(200, [(b"x-%d" % number, b"y" * 500)]))
        room.opened[-1].stream.send_end()
        client.talk()
        assert client.answer(stream_id).headers[f"x-{number}"] == "y" * 500


# --- what is no flood ---


def test_cancels_of_requests_that_ran_are_no_flood(room: Room, client: H2Client) -> None:
    """Users behind one gateway type on, hundreds of times."""
    for _ in range(100):
        some = [client.asks() for _ in range(8)]
        room.clock.advance(0.03)
        for stream_id in some:
            client.peer.reset(stream_id)
        client.talk()
    assert client.end == "open"


def test_cancels_of_answers_are_no_flood(room: Room, client: H2Client) -> None:
    for _ in range(500):
        stream_id = client.asks()
        room.opened[-1].answers(b"some", end=False)
        client.talk()
        client.peer.reset(stream_id)
        client.talk()
    assert client.end == "open"


def test_cancels_of_requests_that_just_began_are_a_flood(room: Room, client: H2Client) -> None:
    for _ in range(201):
        client.peer.reset(client.asks())
        client.talk()
    assert client.peer.goaways[-1].reason == "reset_flood"


def test_a_request_and_its_reset_never_start_wherever_a_turn_ends_between(room: Room, client: H2Client) -> None:
    for start in (1, 201, 401):
        client.says(b"".join(frames.headers(start + n) + frames.rst_stream(start + n) for n in range(0, 200, 2)))
    client.peer.hear(client.hears())
    assert room.opened == []
    assert client.peer.goaways[-1].reason == "reset_flood"


def test_many_requests_of_one_read_begin_in_turns_and_in_order(room: Room) -> None:
    client = room.client()
    client.transport.arrive(b"".join(frames.headers(number) for number in range(1, 401, 2)))
    client.turns.run(1)
    assert len(room.opened) < 100
    assert not client.transport.reading
    while client.turns.run() and client.transport.unread:
        client.transport.deliver()
    assert [opened.stream.stream_id for opened in room.opened] == list(range(1, 401, 2))  # type: ignore[attr-defined]
    assert client.transport.reading


def test_a_reader_of_small_events_may_credit_each(room: Room, client: H2Client) -> None:
    stream_id = client.asks()
    room.opened[0].answers(end=False)
    client.talk()
    for _ in range(3000):
        room.opened[0].stream.send_data(b"tok ")
        client.turns.run()
        client.hears()
        client.says(frames.window_update(0, 4) + frames.window_update(stream_id, 4))
    assert client.end == "open"
