"""Requests to a provider of HTTP/2: heads, and bodies within the windows."""

from __future__ import annotations

from ..support.h2_upstream import H2Provider, ask


def test_a_request_has_its_pseudo_headers_first() -> None:
    provider = H2Provider()
    ask(provider)
    request = provider.requests[1]
    assert request.fields == [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", b"api.test"),
        (b":path", b"/v1"),
        (b"x-a", b"b"),
    ]
    assert request.whole
    assert provider.connection.busy == provider.connection.served == 1


def test_over_tls_the_scheme_says_so() -> None:
    provider = H2Provider(tls=True)
    ask(provider)
    assert (b":scheme", b"https") in provider.requests[1].fields


def test_a_body_goes_out_with_its_announced_length() -> None:
    provider = H2Provider()
    stream, _ = ask(provider, b"POST", has_body=True, length=5)
    assert (b"content-length", b"5") in provider.requests[1].fields
    stream.send_data(b"he")
    stream.send_data(b"llo")
    stream.send_end()
    provider.talk()
    assert (provider.requests[1].body, provider.requests[1].whole) == (b"hello", True)
    assert provider.requests[1].sizes[0] == 5  # what waits leaves joined


def test_an_upload_keeps_to_both_windows_and_to_the_frame_size() -> None:
    provider = H2Provider(initial_window_size=20_000)
    provider.credits = False
    first, events = ask(provider, b"POST", has_body=True)
    second, _ = ask(provider, b"POST", has_body=True)
    first.send_data(b"x" * 50_000)
    second.send_data(b"y" * 10)
    first.send_end()
    provider.talk()
    assert provider.requests[1].body == b"x" * 20_000
    assert max(provider.requests[1].sizes) <= 16_384
    assert provider.requests[3].body == b"y" * 10
    assert events.log == ["full"]
    provider.server.increment_flow_control_window(29_000, 1)
    provider.talk()
    assert provider.requests[1].body == b"x" * 49_000
    assert events.log == ["full"]
    provider.change(initial_window_size=40_000)
    assert events.log == ["full", "drained"]
    assert (provider.requests[1].body, provider.requests[1].whole) == (b"x" * 50_000, True)


def test_a_shut_connection_window_holds_all_uploads_and_opens_for_all() -> None:
    provider = H2Provider(initial_window_size=1_000_000)
    provider.credits = False
    streams = [ask(provider, b"POST", has_body=True)[0] for _ in range(3)]
    for stream in streams:
        stream.send_data(b"x" * 40_000)
        stream.send_end()
    provider.talk()
    assert sum(len(request.body) for request in provider.requests.values()) == 65_535
    assert min(len(request.body) for request in provider.requests.values()) >= 16_384  # each had its turn
    provider.server.increment_flow_control_window(100_000)
    provider.talk()
    assert all(request.whole for request in provider.requests.values())


def test_many_uploads_do_not_fill_a_transport_that_is_blocked() -> None:
    provider = H2Provider(initial_window_size=1_000_000)
    provider.server.increment_flow_control_window(10_000_000)
    provider.talk()
    streams = [ask(provider, b"POST", has_body=True)[0] for _ in range(50)]
    provider.stops_reading()
    for stream in streams:
        stream.send_data(b"x" * 16_384)
    provider.turns.run()
    assert len(provider.transport.buffer) <= 4 * 16_384 + 64 * 1024
    provider.reads()
    provider.talk()
    assert all(request.body == b"x" * 16_384 for request in provider.requests.values())
