"""A connection to a provider: what goes out, what comes back, and every way an answer can be wrong."""

from __future__ import annotations

import pytest

from flowserver.flow.bounded_buffer import Watermarks
from flowserver.http.h1_client import MAX_HEAD, MAX_INTERIM
from flowserver.http.h1_response_head import MAX_HEADERS
from flowserver.http.messages import RequestHead
from flowserver.upstream.h1 import H1Stream, UpstreamH1
from flowserver.upstream.receive_window import READ_SIZE

from ..support.dialogue import Provider
from ..support.recording import RecordingUpstreamEvents
from ..support.transport import FakeTransport, kernel_of

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"


class Owner:
    """A `ConnectionOwner`."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def on_capacity(self, connection: UpstreamH1) -> None:
        assert connection.capacity == 1
        self.log.append("idle")

    def on_lost(self, connection: UpstreamH1) -> None:
        self.log.append("lost")


class Scene:
    """A connection with a request under way. As the exchange does, its end cancels it."""

    def __init__(
        self, method: bytes = b"GET", *, length: int | None = None, has_body: bool = False, tls: bool = False
    ) -> None:
        self.owner = Owner()
        connection = UpstreamH1(self.owner, Watermarks(high=1000, low=100, chunks=4))
        self.provider = Provider(connection, FakeTransport(connection, tls=tls))
        self.connection = connection
        self.events = self.begin(method, length=length, has_body=has_body)

    def begin(self, method: bytes = b"GET", *, length: int | None = None, has_body: bool = False) -> Events:
        events = Events()
        head = RequestHead(method, b"/v1", [(b"host", b"api.test")], content_length=length, has_body=has_body)
        events.stream = self.connection.begin(head, events)
        if not has_body:
            events.stream.send_end()
        return events

    @property
    def stream(self) -> H1Stream:
        """Of the first request."""
        return self.events.stream


class Events(RecordingUpstreamEvents):
    stream: H1Stream

    def on_upstream_end(self) -> None:
        super().on_upstream_end()
        self.stream.cancel()

    @property
    def course(self) -> list[str]:
        """The log, with runs of data as one."""
        return [line for i, line in enumerate(self.log) if line != "data" or self.log[i - 1] != "data"]


# Requests


def test_a_request_without_a_body() -> None:
    assert Scene().provider.hears() == b"GET /v1 HTTP/1.1\r\nhost: api.test\r\n\r\n"


def test_a_request_with_an_empty_body_says_so() -> None:
    assert b"content-length: 0\r\n" in Scene(b"POST", length=0).provider.hears()


def test_a_body_of_known_length_goes_out_as_it_is() -> None:
    scene = Scene(b"POST", length=5, has_body=True)
    assert scene.provider.hears() == b"POST /v1 HTTP/1.1\r\nhost: api.test\r\ncontent-length: 5\r\n\r\n"
    scene.stream.send_data(b"he")
    scene.stream.send_data(b"llo")
    scene.stream.send_end()
    assert scene.provider.hears() == b"hello"


def test_a_body_of_unknown_length_goes_out_in_chunks() -> None:
    scene = Scene(b"POST", has_body=True)
    assert b"transfer-encoding: chunked\r\n" in scene.provider.hears()
    scene.stream.send_data(b"hello")
    scene.stream.send_end()
    assert scene.provider.hears() == b"5\r\nhello\r\n0\r\n\r\n"


def test_an_upload_waits_for_a_provider_that_does_not_read_and_its_end_waits_behind() -> None:
    scene = Scene(b"POST", has_body=True)
    scene.provider.hears()
    scene.provider.stops_reading()
    scene.stream.send_data(b"x" * 101)
    for _ in range(4):
        scene.stream.send_data(b"y" * 10)
    assert scene.events.log == ["full"]
    assert scene.stream.is_full
    scene.stream.send_end()
    assert scene.provider.hears() == b""
    scene.provider.reads()
    assert scene.events.log == ["full", "drained"]
    assert scene.provider.hears() == (b"65\r\n" + b"x" * 101 + b"\r\n" + b"28\r\n" + b"y" * 40 + b"\r\n" + b"0\r\n\r\n")


def test_a_large_request_head_can_fill_the_transport() -> None:
    connection = UpstreamH1(Owner(), Watermarks(high=1000, low=100, chunks=4))
    provider = Provider(connection, FakeTransport(connection))
    provider.stops_reading()
    events = RecordingUpstreamEvents()
    stream = connection.begin(RequestHead(b"GET", b"/", [(b"host", b"x"), (b"a", b"x" * 2000)]), events)
    assert events.log == ["full"]
    stream.send_end()
    provider.reads()
    assert events.log == ["full", "drained"]
    assert provider.hears().endswith(b"xxx\r\n\r\n")


# Answers


def test_an_answer_of_known_length() -> None:
    scene = Scene()
    scene.provider.says(SIZED + b"he", b"llo")
    assert scene.events.log == ["head 200", "data", "data", "end"]
    assert scene.events.body == b"hello"
    assert scene.events.heads[0].content_length == 5
    assert scene.owner.log == ["idle"]


def test_an_answer_in_chunks() -> None:
    scene = Scene()
    scene.provider.says(CHUNKED, b"2\r\nhe\r\n", b"3\r\nllo\r\n", b"0\r\n\r\n")
    assert scene.events.log == ["head 200", "data", "data", "end"]
    assert scene.events.body == b"hello"
    assert scene.events.heads[0].content_length is None
    assert scene.owner.log == ["idle"]


def test_an_answer_in_one_read() -> None:
    scene = Scene()
    scene.provider.says(CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\nX-Trailer: dropped\r\n\r\n")
    assert scene.events.log == ["head 200", "data", "end"]
    assert scene.events.body == b"hello"
    assert scene.owner.log == ["idle"]


def test_an_answer_byte_by_byte() -> None:
    scene = Scene()
    answer = CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\nX-Trailer: dropped\r\n\r\n"
    scene.provider.says(*[answer[i : i + 1] for i in range(len(answer))])
    assert scene.events.course == ["head 200", "data", "end"]
    assert scene.events.body == b"hello"
    assert scene.owner.log == ["idle"]


def test_an_answer_that_ends_with_the_connection() -> None:
    scene = Scene()
    scene.provider.says(b"HTTP/1.1 200 OK\r\n\r\nhello")
    assert scene.events.log == ["head 200", "data"]
    scene.provider.shuts()
    assert scene.events.log == ["head 200", "data", "end"]
    assert scene.provider.end == "reset"
    assert scene.owner.log == []


@pytest.mark.parametrize("lengths", [b"Content-Length: 5, 5\r\n", b"Content-Length: 5\r\nContent-Length: 5\r\n"])
def test_equal_lengths_are_one(lengths: bytes) -> None:
    """RFC 9110 section 8.6."""
    scene = Scene()
    scene.provider.says(b"HTTP/1.1 200 OK\r\n" + lengths + b"\r\nhello")
    assert scene.events.heads[0].content_length == 5
    assert scene.events.log == ["head 200", "data", "end"]


@pytest.mark.parametrize(
    ("method", "head"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ],
)
def test_an_answer_without_a_body_ends_with_its_head(method: bytes, head: bytes) -> None:
    scene = Scene(method)
    scene.provider.says(head)
    assert scene.events.log == [f"head {scene.events.heads[0].status}", "end"]
    assert scene.owner.log == ["idle"]


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\nhello"),
        (b"GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        (b"HEAD", SIZED + b"hello"),
        (b"GET", SIZED + b"hello, and more"),
        (b"GET", CHUNKED + b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
    ],
)
def test_a_connection_with_bytes_behind_the_answer_is_not_kept(method: bytes, answer: bytes) -> None:
    scene = Scene(method)
    scene.provider.says(answer)
    assert scene.events.log[-1] == "end"
    assert b"more" not in scene.events.body
    assert scene.owner.log == []
    assert scene.provider.end == "reset"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_a_provider_that_will_close_is_not_kept(answer: bytes) -> None:
    scene = Scene()
    scene.provider.says(answer)
    assert scene.events.log == ["head 200", "end"]
    assert scene.owner.log == []


def test_an_answer_before_the_upload_is_over_ends_the_connection() -> None:
    scene = Scene(b"POST", has_body=True)
    scene.stream.send_data(b"abc")
    scene.provider.says(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
    assert scene.events.log == ["head 401", "end"]
    assert scene.owner.log == []
    assert scene.provider.end == "reset"


def test_interim_answers_come_before_the_answer() -> None:
    scene = Scene()
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    scene.provider.says(b"HTTP/1.1 100 Continue\r\n\r\n" + interim * (MAX_INTERIM - 1) + SIZED + b"hello")
    assert scene.events.log == ["interim 100", *["interim 103"] * (MAX_INTERIM - 1), "head 200", "data", "end"]


def test_a_kept_connection_serves_the_next_request() -> None:
    scene = Scene()
    scene.provider.says(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n")
    events = scene.begin(b"POST", length=2, has_body=True)
    events.stream.send_data(b"hi")
    events.stream.send_end()
    scene.provider.says(SIZED + b"world")
    assert events.body == b"world"
    assert scene.provider.hears().endswith(b"content-length: 2\r\n\r\nhi")
    assert scene.owner.log == ["idle", "idle"]


def test_a_request_can_begin_inside_the_end_of_the_one_before() -> None:
    scene = Scene()
    following: list[Events] = []

    class Eager(Events):
        def on_upstream_end(self) -> None:
            super().on_upstream_end()
            following.append(scene.begin())

    scene.provider.says(CHUNKED + b"0\r\n\r\n")
    eager = Eager()
    eager.stream = scene.connection.begin(RequestHead(b"GET", b"/", [(b"host", b"x")]), eager)
    eager.stream.send_end()
    scene.provider.says(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n")
    scene.provider.says(SIZED + b"world")
    assert following[0].log == ["head 200", "data", "end"]
    assert following[0].body == b"world"


# Answers that are wrong: the client gets an error or a broken end, never a clean one


WRONG = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "an empty line first": b"\r\n" + SIZED,
    "both a length and chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "two lengths in one field": b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n",
    "chunks twice": b"HTTP/1.1 200 OK\r\n" + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n",
    "a length that is no number": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    "a length that has no end": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "another coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 99 Low\r\n\r\n",
    "a status below 100": b"HTTP/1.1 099 Low\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    "too many interim answers": b"HTTP/1.1 103 Early Hints\r\n\r\n" * (MAX_INTERIM + 1),
    "too many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * (MAX_HEADERS + 1) + b"\r\n",
    "a head that is too large": b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD + b"\r\n\r\n",
    "a head without an end": b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD,
    "a NUL in a header": b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
    "a control byte in a header": b"HTTP/1.1 200 OK\r\nX: a\x1bb\r\n\r\n",
    "a control byte in the reason": b"HTTP/1.1 200 O\x1bK\r\n\r\n",
    "a carriage return in a header": b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
    "a blank before a colon": b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n",
    "a bare line feed": b"HTTP/1.1 200 OK\nX: y\r\n\r\n",
    "an empty line of a bare line feed": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\n\n5\r\nhello\r\n0\r\n\r\n",
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-",
    "an interim answer and no more": b"HTTP/1.1 100 Continue\r\n\r\n",
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_head_is_a_failure(answer: bytes) -> None:
    scene = Scene()
    scene.provider.says(answer)
    scene.provider.shuts()
    scene.provider.transport.lose()
    assert scene.events.log[-1] == "failed 502"
    assert scene.events.heads == []
    assert scene.events.errors[0].message.startswith("The provider ")
    assert scene.owner.log == ["lost"]


@pytest.mark.parametrize(
    "answer",
    [
        SIZED + b"hell",
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"5\r\nhel",
        CHUNKED + b"5\r\nhello\r\n0\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\nX-Trailer: x\r\n",
        CHUNKED + b"5\r\nhello\r\n0",
        CHUNKED + b"5\r\nhelloXX",
        CHUNKED + b"5\r\nhello\r\nnonsense\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\nno trailer\r\n\r\n",
        CHUNKED,
    ],
)
def test_a_body_that_breaks_off_is_a_failure_and_no_end(answer: bytes) -> None:
    scene = Scene()
    scene.provider.says(answer)
    scene.provider.shuts()
    scene.provider.transport.lose()
    assert scene.events.log[-1] == "failed 502"
    assert "end" not in scene.events.log
    assert len(scene.events.errors) == 1
    assert scene.provider.end == "reset" or scene.provider.transport.lost


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nok",
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\n",
        b"HTTP/1.1 103 Early Hints\n\n",
        CHUNKED + b"5\r\nhello\r\n0\r\n\n",
        CHUNKED + b"5\r\nhello\r\n0\r\nX-Trailer: x\n\n",
        CHUNKED + b"5\nhello\r\n",
    ],
)
@pytest.mark.parametrize("size", [1, 100])
def test_a_bare_line_feed_is_a_failure_at_once(answer: bytes, size: int) -> None:
    """Its end, as this side sees it, would never come."""
    scene = Scene()
    scene.provider.says(*(answer[start : start + size] for start in range(0, len(answer), size)))
    assert scene.events.log[-1] == "failed 502"
    assert scene.provider.end == "reset"


def test_a_reset_is_no_end_of_a_body_that_ends_with_the_connection() -> None:
    scene = Scene()
    scene.provider.says(b"HTTP/1.1 200 OK\r\n\r\nhello")
    scene.provider.resets()
    assert scene.events.log == ["head 200", "data", "failed 502"]


def test_a_provider_that_leaves_before_its_answer() -> None:
    scene = Scene()
    scene.provider.resets()
    assert scene.events.log == ["failed 502"]
    assert "without an answer" in scene.events.errors[0].message


def test_the_unusual_status_600_passes() -> None:
    scene = Scene()
    scene.provider.says(b"HTTP/1.1 600 What\r\nContent-Length: 0\r\n\r\n")
    assert scene.events.log == ["head 600", "end"]


# Reading and keeping


def test_while_paused_bytes_stay_with_the_provider() -> None:
    scene = Scene()
    scene.provider.says(CHUNKED)
    scene.stream.pause_reading()
    scene.stream.pause_reading()
    scene.provider.says(b"5\r\nhello\r\n")
    assert scene.events.body == b""
    scene.stream.resume_reading()
    scene.stream.resume_reading()
    scene.provider.transport.deliver()
    assert scene.events.body == b"hello"
    assert scene.provider.transport.calls == ["pause_reading", "resume_reading"]


def test_no_read_is_larger_than_the_read_size() -> None:
    scene = Scene()
    scene.provider.says(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    scene.provider.transport.calls.clear()
    for _ in range(3):
        scene.stream.pause_reading()
        scene.provider.says(b"x" * 3 * READ_SIZE)
        before = len(scene.events.body)
        scene.stream.resume_reading()
        scene.provider.transport.deliver(reads=1)
        assert len(scene.events.body) - before == READ_SIZE


def test_a_connection_is_kept_reading_so_that_its_end_is_noticed() -> None:
    scene = Scene()
    scene.stream.pause_reading()
    scene.stream.cancel()
    assert scene.provider.end == "reset"  # not answered: cancelled
    scene = Scene()
    scene.provider.says(SIZED + b"hell")
    scene.stream.pause_reading()
    scene.provider.says(b"o")
    scene.stream.resume_reading()
    scene.provider.transport.deliver()
    assert scene.owner.log == ["idle"]
    assert scene.provider.transport.is_reading()


def test_bytes_that_nobody_asked_for_end_a_kept_connection() -> None:
    scene = Scene()
    scene.provider.says(SIZED + b"hello")
    scene.provider.says(SIZED + b"evil!")
    assert scene.provider.end == "reset"
    assert scene.events.log == ["head 200", "data", "end"]


def test_a_kept_connection_that_the_provider_closes_goes() -> None:
    scene = Scene()
    scene.provider.says(SIZED + b"hello")
    scene.provider.shuts()
    assert scene.provider.end == "closed"
    assert not scene.connection.is_alive()


def test_a_close_that_was_not_read_yet_is_noticed_before_reuse() -> None:
    scene = Scene()
    scene.provider.says(SIZED + b"hello")
    with kernel_of(scene.provider.transport) as theirs:
        assert scene.connection.is_alive()
        theirs.close()
        assert not scene.connection.is_alive()


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 20", CHUNKED, CHUNKED + b"5\r\nhel", SIZED + b"he"])
def test_a_cancelled_request_ends_its_connection_and_is_told_nothing_more(said: bytes) -> None:
    scene = Scene()
    scene.provider.says(said)
    told = list(scene.events.log)
    scene.stream.cancel()
    assert scene.provider.end == "reset"
    scene.provider.transport.lose()
    assert scene.events.log == told


def test_a_request_that_is_cancelled_by_its_own_head_reads_no_body() -> None:
    scene = Scene()
    scene.events.on_upstream_head = lambda head: scene.stream.cancel()  # type: ignore[method-assign]
    scene.provider.says(SIZED + b"hello")
    assert scene.events.log == []
    assert scene.provider.end == "reset"


# A request that crosses the provider's close


def kept(*, tls: bool = False, body: bytes = b"", room: int | None = None) -> Scene:
    """A connection that has served one request, and has another one under way that nobody acknowledged yet."""
    scene = Scene(tls=tls)
    scene.provider.says(SIZED + b"hello")
    scene.provider.transport.acknowledges = False
    scene.provider.transport.room = room
    scene.events = scene.begin(b"POST", length=len(body), has_body=bool(body))
    for piece in (body[:1], body[1:]) if body else ():
        scene.stream.send_data(piece)
    return scene


@pytest.mark.parametrize(
    ("tls", "body", "room"), [(False, b"", None), (True, b"", None), (False, b"body", None), (False, b"body", 30)]
)
def test_a_request_that_the_provider_s_kernel_never_took_was_not_begun(
    *, tls: bool, body: bytes, room: int | None
) -> None:
    """`room`: bytes that our own kernel takes of it."""
    scene = kept(tls=tls, body=body, room=room)
    scene.provider.shuts()
    assert scene.events.log == ["failed 502"]
    assert scene.events.errors[0].not_processed


def test_a_request_of_several_records_may_have_been_begun() -> None:
    """How much each of them takes is not known here."""
    scene = kept(tls=True, body=b"body")
    scene.provider.shuts()
    scene.provider.transport.lose()
    assert not scene.events.errors[0].not_processed


def test_a_large_request_over_tls_may_have_been_begun() -> None:
    """What its records take beside their content may be more than the first of them is."""
    scene = kept(tls=True)
    scene.provider.says(SIZED + b"hello")
    head = RequestHead(b"POST", b"/v1", [], content_length=5 << 20, has_body=True)
    head.body_follows = True
    events = Events()
    events.stream = scene.connection.begin(head, events)
    events.stream.send_data(bytes(5 << 20))
    scene.provider.shuts()
    scene.provider.transport.lose()
    assert not events.errors[0].not_processed


def test_a_request_that_was_taken_may_have_been_begun() -> None:
    scene = kept()
    scene.provider.transport.socket.acknowledged += 1
    scene.provider.shuts()
    scene.provider.transport.lose()
    assert scene.events.log == ["failed 502"]
    assert not scene.events.errors[0].not_processed


def test_an_answer_that_began_is_no_crossing() -> None:
    scene = kept()
    scene.provider.says(b"HTTP/1.1 200")
    scene.provider.shuts()
    scene.provider.transport.lose()
    assert not scene.events.errors[0].not_processed


def test_the_first_request_of_a_connection_is_never_taken_for_a_crossing() -> None:
    scene = Scene()
    scene.provider.shuts()
    scene.provider.transport.lose()
    assert not scene.events.errors[0].not_processed


def test_its_state_can_be_seen() -> None:
    scene = Scene(b"POST", length=5, has_body=True)
    connection, stream = scene.connection, scene.stream
    assert repr(connection).startswith("<UpstreamH1 open served=1 held=0 stream=<H1Stream upload=SENDING ")
    assert repr(stream) == "<H1Stream upload=SENDING response=head>"
    stream.send_data(b"hello")
    stream.send_end()
    scene.provider.says(SIZED)
    assert repr(stream) == "<H1Stream upload=SENT response=body>"
    stream.pause_reading()
    assert repr(connection).startswith("<UpstreamH1 paused served=1 ")
    stream.cancel()
    assert repr(stream) == "<H1Stream over>"
    assert repr(connection) == "<UpstreamH1 closing served=1 held=0 stream=None>"


def test_a_stream_that_is_over_does_not_reach_the_next_request() -> None:
    scene = Scene()
    scene.provider.says(SIZED + b"hello")
    first = scene.stream
    scene.provider.hears()
    events = scene.begin(b"POST", length=5, has_body=True)
    scene.provider.hears()
    first.send_data(b"late")
    first.send_end()
    first.pause_reading()
    first.cancel()
    assert scene.provider.hears() == b""
    assert scene.provider.transport.is_reading()
    assert scene.provider.end == "open"
    events.stream.send_data(b"hello")
    events.stream.send_end()
    scene.provider.says(SIZED + b"world")
    assert events.log == ["head 200", "data", "end"]
