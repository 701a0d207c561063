"""Messages and connections between two ends of a channel."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.workers.channel import MAX_SOCKETS, Channel, Kind, Message, MessageReader, as_sockets, framed

from ..support.lab import eventually

MESSAGES = st.lists(st.tuples(st.sampled_from(Kind), st.binary(max_size=300)), max_size=12)


@given(MESSAGES, st.data())
def test_messages_are_read_however_they_are_cut(sent: list[tuple[Kind, bytes]], data: st.DataObject) -> None:
    raw = b"".join(framed(kind, payload) for kind, payload in sent)
    reader, read, at = MessageReader(), list[Message](), 0
    while at < len(raw):
        size = data.draw(st.integers(1, len(raw) - at))
        read += reader.feed(raw[at : at + size])
        at += size
    assert [(message.kind, message.payload) for message in read] == sent


def test_descriptors_belong_to_the_connections_that_they_came_with() -> None:
    reader = MessageReader()
    first = framed(Kind.PING) + framed(Kind.ADOPT, b"2")
    assert [message.descriptors for message in reader.feed(first, [7, 8])] == [[], [7, 8]]
    cut = framed(Kind.ADOPT, b"1")
    assert reader.feed(cut[:3], [9]) == []
    [message] = reader.feed(cut[3:])
    assert message.descriptors == [9]


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="200"):
        MessageReader().feed(b"\0\0\0\0\xc8")


class End:
    """One end, and what it was told."""

    def __init__(self, sock: socket.socket) -> None:
        self.messages: list[Message] = []
        self.lost: list[socket.socket] | None = None
        self.roomy = 0
        self.channel = Channel(
            asyncio.get_running_loop(), sock, self.messages.append, self._on_lost, on_roomy=self._on_roomy
        )

    def _on_lost(self, unsent: list[socket.socket]) -> None:
        self.lost = unsent

    def _on_roomy(self) -> None:
        self.roomy += 1

    def kinds(self) -> list[Kind]:
        return [message.kind for message in self.messages]

    def descriptors(self) -> list[int]:
        return [each for message in self.messages for each in message.descriptors]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


Pair = tuple[socket.socket, socket.socket]


def connections(count: int) -> tuple[list[socket.socket], list[socket.socket]]:
    pairs = [socket.socketpair() for _ in range(count)]
    return [one for one, _ in pairs], [other for _, other in pairs]


async def test_messages_go_both_ways(pair: Pair) -> None:
    ours, theirs = End(pair[0]), End(pair[1])
    ours.channel.send(Kind.PING)
    theirs.channel.send_json(Kind.RELOADED, ["a problem"])
    await eventually(lambda: ours.messages and theirs.messages)
    assert theirs.kinds() == [Kind.PING]
    assert ours.messages[0].json() == ["a problem"]
    ours.channel.close()
    theirs.channel.close()


async def test_a_long_message_arrives_whole_while_its_reader_is_slow(pair: Pair) -> None:
    ours, theirs = End(pair[0]), pair[1]
    page = os.urandom(3_000_000)
    ours.channel.send(Kind.ANSWER, page)
    ours.channel.send(Kind.PONG)
    assert ours.channel.is_full
    reader = End(theirs)
    await eventually(lambda: len(reader.messages) == 2)
    assert reader.messages[0].payload == page
    assert ours.roomy == 1
    ours.channel.close()
    reader.channel.close()


async def test_connections_arrive_and_are_closed_here(pair: Pair) -> None:
    ours, theirs = End(pair[0]), End(pair[1])
    far, near = connections(MAX_SOCKETS)
    ours.channel.send(Kind.PING)
    ours.channel.give(near)
    ours.channel.send(Kind.DRAIN)
    assert all(each.fileno() < 0 for each in near)
    await eventually(lambda: len(theirs.messages) == 3)
    assert theirs.kinds() == [Kind.PING, Kind.ADOPT, Kind.DRAIN]
    adopted = as_sockets(theirs.messages[1])
    assert theirs.messages[1].json() == len(adopted) == MAX_SOCKETS
    assert not any(each.get_inheritable() for each in adopted)
    for number, each in enumerate(adopted):
        each.sendall(bytes([number]))
        assert far[number].recv(9) == bytes([number])
    for each in (*far, *adopted):
        each.close()
    ours.channel.close()
    theirs.channel.close()


async def test_connections_that_were_not_sent_come_back(pair: Pair) -> None:
    ours = End(pair[0])
    far, near = connections(3)
    ours.channel.send(Kind.ANSWER, bytes(1_000_000))
    ours.channel.give(near[:1])
    ours.channel.give(near[1:])
    pair[1].close()
    await eventually(lambda: ours.lost is not None)
    assert ours.lost == near
    assert ours.channel.is_closed
    ours.channel.send(Kind.PING)  # harmless
    for each in (*far, *near):
        each.close()


async def test_an_end_that_is_gone_is_told_once(pair: Pair) -> None:
    ours, theirs = End(pair[0]), End(pair[1])
    theirs.channel.send(Kind.PONG)
    theirs.channel.close()
    await eventually(lambda: ours.lost is not None)
    assert ours.kinds() == [Kind.PONG], "its last words"
    assert ours.lost == []
    assert theirs.lost is None, "it has closed itself"


async def test_connections_given_to_a_closed_channel_are_closed(pair: Pair) -> None:
    ours = End(pair[0])
    ours.channel.close()
    far, near = connections(1)
    ours.channel.give(near)
    assert far[0].recv(1) == b""
    far[0].close()
