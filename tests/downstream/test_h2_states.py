"""What connections and streams say of their state, for debugging."""

from __future__ import annotations

from tests.support.h2_dialogue import Room
from tests.support.h2_peer import H2Peer


def test_a_stream_tells_what_it_waits_for() -> None:
    room = Room()
    client = room.client(peer=H2Peer(window=100))
    client.peer.stalled.add(client.asks("POST", end=False))
    [opened] = room.opened
    assert repr(opened.stream) == "<H2Stream 1 POST open head_sent=False sent=0 held=0 window=100 reading=True>"
    opened.answers(b"x" * 150)
    client.talk()
    assert repr(opened.stream) == "<H2Stream 1 POST clean head_sent=True sent=100 held=50 window=0 reading=True>"
    client.peer.reset(1)
    client.talk()
    assert "closed" in repr(opened.stream)


def test_a_connection_tells_its_phase() -> None:
    client = Room().client()
    client.asks()
    windows = "<SendWindows left=65535 initial=65535 streams=1>"
    assert repr(client.connection) == f"<DownstreamH2 open streams=1 ready=0 starved=0 blocked=False {windows}>"
    client.connection.drain()
    assert "leaving" in repr(client.connection)
    client.talk(b"\0" * 9)
    assert "failed" in repr(client.connection)
