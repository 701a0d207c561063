"""However a provider's bytes are cut into reads, the client gets the same answer, and never a clean end too early."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from flowserver.errors import EndReason
from flowserver.flow.bounded_buffer import Watermarks

from ..support.dialogue import Answer, Relay, understood

BODY = st.binary(max_size=400)
CUTS = st.lists(st.integers(1, 60), min_size=1, max_size=20)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """`data` in pieces of these sizes, over and over."""
    pieces = []
    turn = 0
    while data:
        size = sizes[turn % len(sizes)]
        pieces.append(data[:size])
        data = data[size:]
        turn += 1
    return pieces


def chunked(body: bytes, sizes: list[int], *, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    chunks = [b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in cut(body, sizes)]
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(chunks) + b"0\r\n" + trailer + b"\r\n"


def sized(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def closing(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\n\r\n" + body


def relayed(
    pieces: list[bytes], *, old: bool = False, reset: bool = False, lag: list[int] | None = None
) -> tuple[Answer, str, Relay]:
    """What a client gets when a provider says `pieces` and then closes or resets. `lag`: what it reads each time."""
    relay = Relay(watermarks=Watermarks(200, 50, 4))
    client, provider = relay.client(), relay.provider()
    client.says(b"GET / HTTP/1.0\r\n\r\n" if old else b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    if lag is not None:
        client.stops_reading()
    for turn, piece in enumerate(pieces):
        provider.says(piece)
        if lag is not None:
            client.reads(lag[turn % len(lag)])
    client.reads()
    provider.transport.deliver()
    if reset:
        provider.resets()
    else:
        provider.shuts()
        provider.transport.lose()
    end = client.end
    return understood(client.hears(), closed=end == "closed"), end, relay


@given(BODY, CUTS, CUTS, st.booleans(), st.sampled_from([b"", b";a=b", b" "]), st.sampled_from([b"", b"A: b\r\n"]))
def test_a_body_in_chunks_arrives_whole(
    body: bytes, chunks: list[int], reads: list[int], old: bool, extension: bytes, trailer: bytes
) -> None:
    said = cut(chunked(body, chunks, extension=extension, trailer=trailer), reads)
    answer, _, relay = relayed(said, old=old)
    assert (answer.status, answer.body, answer.whole, answer.rest) == (200, body, True, b"")
    assert relay.observer.ends == [EndReason.COMPLETE]


@given(BODY, CUTS, st.booleans())
def test_a_body_of_known_length_arrives_whole(body: bytes, reads: list[int], old: bool) -> None:
    answer, _, relay = relayed(cut(sized(body), reads), old=old)
    assert (answer.body, answer.whole, answer.rest) == (body, True, b"")
    assert relay.observer.ends == [EndReason.COMPLETE]


@given(BODY, CUTS, st.booleans())
def test_a_body_that_ends_with_the_connection_arrives_whole(body: bytes, reads: list[int], old: bool) -> None:
    answer, _, relay = relayed(cut(closing(body), reads), old=old)
    assert (answer.body, answer.whole) == (body, True)
    assert relay.observer.ends == [EndReason.COMPLETE]


@given(BODY, CUTS, CUTS, st.lists(st.integers(0, 80), min_size=1, max_size=10), st.booleans())
def test_a_lagging_client_gets_the_same(
    body: bytes, chunks: list[int], reads: list[int], lag: list[int], old: bool
) -> None:
    answer, _, relay = relayed(cut(chunked(body, chunks), reads), lag=lag, old=old)
    assert (answer.body, answer.whole) == (body, True)
    assert relay.observer.ends == [EndReason.COMPLETE]


@given(st.data(), st.binary(min_size=1, max_size=200), CUTS, CUTS, st.booleans(), st.booleans())
def test_a_truncated_answer_never_ends_cleanly(
    data: st.DataObject, body: bytes, chunks: list[int], reads: list[int], old: bool, reset: bool
) -> None:
    whole = data.draw(st.sampled_from([chunked(body, chunks), sized(body)]))
    said = whole[: data.draw(st.integers(0, len(whole) - 1))]
    answer, end, relay = relayed(cut(said, reads), old=old, reset=reset)
    assert relay.observer.ends == [EndReason.UPSTREAM_FAILED]
    if answer.status == 502:
        assert b"\r\n\r\n" not in said
    else:
        assert body.startswith(answer.body)
        # An HTTP/1.0 client takes a close for the end: it has to be a reset.
        assert end == "reset" or not answer.whole


@given(st.binary(max_size=100), CUTS, st.booleans())
@example(b"", [60], True)
def test_a_reset_never_looks_like_the_end_of_a_body_that_ends_with_the_connection(
    body: bytes, reads: list[int], old: bool
) -> None:
    answer, end, relay = relayed(cut(closing(body), reads), old=old, reset=True)
    assert relay.observer.ends == [EndReason.UPSTREAM_FAILED]
    assert end == "reset" or not answer.whole


@given(st.binary(max_size=300), CUTS, CUTS)
def test_an_upload_in_any_cuts_reaches_the_provider_whole(body: bytes, chunks: list[int], reads: list[int]) -> None:
    relay = Relay(watermarks=Watermarks(200, 50, 4))
    client, provider = relay.client(), relay.provider()
    request = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in cut(body, chunks))
    client.says(*cut(request + framed + b"0\r\n\r\n", reads))
    got = provider.hears().partition(b"\r\n\r\n")[2]
    provider.says(sized(b""))
    assert understood(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + got).body == body
    assert relay.observer.ends == [EndReason.COMPLETE]
    assert client.end == "open"
