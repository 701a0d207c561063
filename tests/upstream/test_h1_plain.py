"""Plain answers, read without h11, are the same to the relay as those that h11 reads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowserver.http.h1_chunked import encode_chunk

from .test_h1 import Scene

FOR_H11 = b"connection: x-unknown\r\n"
"""Changes nothing, but makes an answer one for h11."""


def seen(wire: bytes, cuts: list[int], method: bytes, *, ends: bool) -> tuple[list[str], bytes, object, list[str]]:
    """What is told of the answer, its body, its head, and what becomes of the connection."""
    scene = Scene(method)
    edges = sorted({0, *(cut for cut in cuts if cut < len(wire)), len(wire)})
    for start, end in zip(edges, edges[1:], strict=False):  # noqa: RUF007
        scene.provider.says(wire[start:end])
    if ends:
        scene.provider.shuts()
    told = [
        (head.status, head.reason, head.content_length, [field for field in head.headers if field[0] != b"connection"])
        for head in scene.events.heads
    ]
    return scene.events.course, scene.events.body, told, scene.owner.log


@given(
    st.sampled_from([b"GET", b"HEAD"]),
    st.sampled_from([200, 204, 304, 404, 503]),
    st.sampled_from(["length", "chunks", "trailers", "close"]),
    st.lists(st.binary(min_size=1, max_size=20), max_size=3),
    st.binary(max_size=3),
    st.lists(st.integers(0, 250), max_size=6),
)
def test_an_answer(
    method: bytes, status: int, framing: str, pieces: list[bytes], surplus: bytes, cuts: list[int]
) -> None:
    body = b"".join(pieces)
    line = b"HTTP/1.1 %d As it is\r\nx-of: provider\r\n" % status
    bodiless = method == b"HEAD" or status in (204, 304)
    if framing == "length":
        head, sent = b"content-length: %d\r\n\r\n" % len(body), body
    elif framing == "close":
        head, sent, surplus = b"\r\n", body, b""
    else:
        head = b"transfer-encoding: chunked\r\n\r\n"
        trailer = b"x-trailer: t\r\n" if framing == "trailers" else b""
        sent = b"".join(map(encode_chunk, pieces)) + b"0\r\n" + trailer + b"\r\n"
    rest = head + (b"" if bodiless else sent) + surplus
    ends = framing == "close" and not bodiless
    # Cuts behind what the two do not share, so that they fall at the same places.
    plain = seen(line + rest, [len(line) + cut for cut in cuts], method, ends=ends)
    by_h11 = seen(line + FOR_H11 + rest, [len(line) + len(FOR_H11) + cut for cut in cuts], method, ends=ends)
    assert plain == by_h11


def test_a_connection_that_stays_is_nothing_for_h11() -> None:
    scene = Scene()
    scene.provider.says(b"HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok")
    assert scene.connection._h11 is None
    assert scene.events.body == b"ok"
    assert scene.owner.log == ["idle"]


def test_a_malformed_trailer_is_a_failure() -> None:
    scene = Scene()
    scene.provider.says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nno colon\r\n\r\n")
    assert scene.events.course[-1] == "failed 502"
