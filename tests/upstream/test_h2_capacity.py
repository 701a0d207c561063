"""How many requests a connection to a provider of HTTP/2 takes, and whether it is still there."""

from __future__ import annotations

from flowserver.flow.bounded_buffer import Watermarks
from flowserver.upstream.h2 import MAX_STREAMS

from ..support import h2_frames as frames
from ..support.clock import FakeClock
from ..support.h2_upstream import H2Provider, RecordingOwner, ask, response
from ..support.transport import kernel_of


def test_no_more_streams_than_the_provider_takes_also_when_it_takes_fewer() -> None:
    owner = RecordingOwner()
    provider = H2Provider(owner, max_concurrent_streams=3)
    assert provider.connection.capacity == 3
    streams = [ask(provider)[0] for _ in range(3)]
    assert provider.connection.capacity == 0
    provider.change(max_concurrent_streams=1)
    assert provider.connection.capacity == 0
    for stream in streams[:2]:
        stream.cancel()
    assert provider.connection.capacity == 0
    streams[2].cancel()
    assert provider.connection.capacity == 1
    provider.change(max_concurrent_streams=10)
    assert owner.capacities[-1] == 10
    for _ in range(10):
        ask(provider)


def test_a_provider_without_a_limit_gets_a_bounded_number() -> None:
    assert H2Provider().connection.capacity <= MAX_STREAMS


def test_streams_that_ended_make_room_however_they_ended() -> None:
    provider = H2Provider(max_concurrent_streams=1)
    for round_ in range(20):
        stream_id = 2 * round_ + 1
        stream, _ = ask(provider)
        assert provider.connection.capacity == 0
        if round_ % 4 == 0:
            provider.head(stream_id, end=True)
        elif round_ % 4 == 1:
            stream.cancel()
            provider.talk()
        elif round_ % 4 == 2:
            provider.server.reset_stream(stream_id)
            provider.talk()
        else:
            provider.talk(response(stream_id, ("content-length", "x")))
        assert provider.connection.capacity == 1


def test_a_silent_provider_with_open_requests_is_pinged_and_given_up() -> None:
    clock = FakeClock()
    provider = H2Provider(ping_interval=30.0, clock=clock)
    _, events = ask(provider)
    for _ in range(3):
        for _ in range(31):
            provider.connection.sweep(clock.advance(1))
            provider.talk()
    assert provider.pings in (2, 3)
    assert events.log == []
    provider.answers_pings = False
    for _ in range(70):
        provider.connection.sweep(clock.advance(1))
        provider.talk()
    assert events.log == ["failed 502"]
    assert provider.end == "reset"


def test_an_idle_connection_is_not_pinged() -> None:
    clock = FakeClock()
    provider = H2Provider(ping_interval=30.0, clock=clock)
    for _ in range(200):
        provider.connection.sweep(clock.advance(1))
        provider.talk()
    assert provider.pings == 0


def test_a_close_that_was_not_read_yet_is_noticed_before_use() -> None:
    provider = H2Provider()
    with kernel_of(provider.transport) as theirs:
        assert provider.connection.is_alive()
        theirs.close()
        assert not provider.connection.is_alive()


def test_pings_of_the_provider_are_answered() -> None:
    provider = H2Provider()
    provider.server.ping(b"12345678")
    provider.talk()
    assert any(frame.kind == frames.PING and frame.flags & frames.ACK for frame in provider.frames)


def test_what_is_said_to_a_connection_that_ended_is_ignored() -> None:
    provider = H2Provider(watermarks=Watermarks(1000, 100, 8))
    stream, events = ask(provider, b"POST", has_body=True)
    provider.resets()
    told = list(events.log)
    stream.cancel()
    stream.send_end()
    stream.resume_reading()
    provider.turns.run()
    assert events.log == told
