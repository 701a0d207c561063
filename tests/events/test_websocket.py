"""The text messages of a server, read from its frames."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from flowserver.events.websocket import KEPT, FrameError, MessageReader, TextMessage
from flowserver.http.websocket import close_frame


def frame(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    """As a server sends it."""
    return Frame(opcode, data, fin=fin).serialize(mask=False)


def read(reader: MessageReader, *reads: bytes) -> list[TextMessage]:
    return [message for data in reads for message in reader.feed(data)]


@st.composite
def _messages(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """Frames, and the texts that are in them."""
    wire, texts = bytearray(), []
    for _ in range(draw(st.integers(1, 5))):
        opcode = draw(st.sampled_from((Opcode.TEXT, Opcode.BINARY)))
        pieces = draw(st.lists(st.binary(max_size=300), min_size=1, max_size=4))
        if draw(st.booleans()):
            pieces[0] = pieces[0] + b"x" * draw(st.sampled_from((125, 126, 127, 65_535, 65_536)))
        for number, piece in enumerate(pieces):
            if draw(st.booleans()):
                wire += frame(Opcode.PING, draw(st.binary(max_size=125)))
            wire += frame(Opcode.CONT if number else opcode, piece, fin=number == len(pieces) - 1)
        if opcode is Opcode.TEXT:
            texts.append(b"".join(pieces))
    return bytes(wire), texts


@given(_messages(), st.data())
def test_texts_are_found_however_they_are_cut(messages: tuple[bytes, list[bytes]], data: st.DataObject) -> None:
    wire, texts = messages
    reader = MessageReader()
    found, position = [], 0
    while position < len(wire):
        size = data.draw(st.integers(1, 400) | st.just(len(wire)))
        found += reader.feed(wire[position : position + size])
        position += size
    assert [message.size for message in found] == [len(text) for text in texts]
    short = [(message.text, text) for message, text in zip(found, texts, strict=True) if len(text) <= KEPT]
    assert all(one == other for one, other in short)
    assert reader.at_boundary
    assert reader.held == 0


def test_where_a_message_ends() -> None:
    first, second = frame(Opcode.TEXT, b"one"), frame(Opcode.TEXT, b"second")
    reader = MessageReader()
    assert read(reader, first + second + first[:2]) == [(5, b"one", 3), (13, b"second", 6)]
    assert not reader.at_boundary
    assert read(reader, first[2:]) == [(3, b"one", 3)]
    assert reader.at_boundary


def test_of_a_large_message_what_matters_is_kept() -> None:
    event = {"type": "response.done", "response": {"output": ["x" * 1_000_000], "usage": {"input_tokens": 5}}}
    wire = frame(Opcode.TEXT, orjson.dumps(event))
    reader = MessageReader()
    [message] = read(reader, *(wire[start : start + 9000] for start in range(0, len(wire), 9000)))
    assert orjson.loads(message.text) == {"type": "response.done", "response": {"usage": {"input_tokens": 5}}}
    assert message.size > 1_000_000


def test_no_more_is_held_of_a_message_than_that() -> None:
    reader = MessageReader()
    wire = frame(Opcode.TEXT, b"x" * 5_000_000)
    most = 0
    for start in range(0, len(wire), 16384):
        reader.feed(wire[start : start + 16384])
        most = max(most, reader.held)
    assert 0 < most <= KEPT


MALFORMED = {
    "masked": Frame(Opcode.TEXT, b"text").serialize(mask=True),
    "compressed": b"\xc1\x01x",
    "reserved-bit": b"\xa1\x01x",
    "unknown-data-frame": b"\x83\x00",
    "unknown-control-frame": b"\x8b\x00",
    "long-ping": frame(Opcode.TEXT, b"") + b"\x89\x7e\x00\x7e",
    "fragmented-ping": b"\x09\x00",
    "continues-nothing": b"\x80\x00",
    "message-in-a-message": b"\x01\x01a\x81\x01b",
    "length-16-too-short": b"\x81\x7e\x00\x7d",
    "length-64-too-short": b"\x81\x7f" + (65_535).to_bytes(8, "big"),
    "length-64-too-long": b"\x81\x7f" + (1 << 63).to_bytes(8, "big"),
}


@pytest.mark.parametrize("wire", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("step", [1, 100])
def test_what_breaks_the_rules(wire: bytes, step: int) -> None:
    with pytest.raises(FrameError):
        read(MessageReader(), *(wire[start : start + step] for start in range(0, len(wire), step)))


@given(st.binary(max_size=200))
def test_nothing_else_is_raised(wire: bytes) -> None:
    reader = MessageReader()
    try:
        reader.feed(wire)
    except FrameError:
        return


@given(st.text(max_size=200))
def test_close_frames_are_what_the_library_reads(reason: str) -> None:
    wire = close_frame(1008, reason)
    assert wire[0] == 0x88
    assert wire[1] == len(wire) - 2 <= 125
    assert int.from_bytes(wire[2:4], "big") == 1008
    assert reason.startswith(wire[4:].decode())
    reader = MessageReader()
    reader.feed(wire)
    assert reader.closed
