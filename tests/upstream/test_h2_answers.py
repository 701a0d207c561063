"""Answers of a provider of HTTP/2: what is passed on, and what is malformed."""

from __future__ import annotations

import pytest

from flowserver.upstream.h2_stream import MAX_HEADERS, MAX_INTERIM

from ..support import h2_frames as frames
from ..support.h2_upstream import H2Provider, ask, response

WINDOW = 65_536


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
