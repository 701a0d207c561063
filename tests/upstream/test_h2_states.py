"""What connections and streams say of their state, for debugging."""

from __future__ import annotations

from ..support import h2_frames as frames
from ..support.h2_upstream import H2Provider, ask


def test_a_stream_tells_what_it_waits_for() -> None:
    provider = H2Provider(initial_window_size=100)
    stream, _ = ask(provider, b"POST", has_body=True)
    provider.credits = False
    stream.send_data(b"x" * 150)
    provider.talk()
    state = "request_ended=False head_received=False held=50 window=0 reading=True"
    assert repr(stream) == f"<H2Stream 1 open {state}>"
    stream.cancel()
    assert "over" in repr(stream)


def test_a_connection_tells_its_phase() -> None:
    provider = H2Provider()
    ask(provider)
    windows = "<SendWindows left=65535 initial=65535 streams=1>"
    assert repr(provider.connection) == f"<UpstreamH2 open streams=1 served=1 ready=0 blocked=False {windows}>"
    provider.talk(frames.goaway(1))
    assert "leaving" in repr(provider.connection)
    provider.resets()
    assert "broken" in repr(provider.connection)
