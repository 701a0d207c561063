"""Which connection serves a request, and what a stream does until then."""

from __future__ import annotations

import pytest

from flowserver.errors import Party, RelayError
from flowserver.http.messages import RequestHead
from flowserver.relay.interfaces import UpstreamStream

from ..support.pool import ANSWER, MARKS, REFUSED, Events, Many, Scene
from ..support.transport import kernel_of

# Connecting


def test_a_request_goes_out_when_its_connection_is_there() -> None:
    scene = Scene()
    stream, events = scene.ask()
    provider = scene.connect()
    assert provider.hears() == b"POST / HTTP/1.1\r\nhost: x\r\n\r\n"
    provider.says(ANSWER)
    assert events.log == ["head 200", "data", "end"]
    assert not stream.reused
    assert scene.figures == (1, 0, 1, 1)


def test_a_body_waits_for_its_connection_up_to_the_high_mark() -> None:
    scene = Scene()
    stream, events = scene.ask(has_body=True)
    stream.send_data(b"x" * 999)
    assert events.log == []
    stream.send_data(b"y")
    assert events.log == ["full"]
    stream.send_data(b"z")
    stream.send_end()
    provider = scene.connect()
    assert events.log == ["full", "drained"]
    assert provider.hears().endswith(b"\r\n\r\n3e9\r\n" + b"x" * 999 + b"yz\r\n0\r\n\r\n")


def test_a_body_that_waited_and_fills_the_transport_is_drained_by_it() -> None:
    scene = Scene()
    stream, events = scene.ask(has_body=True)
    stream.send_data(b"x" * 1500)
    stream.send_end()
    provider = scene.connect(blocked=True)
    assert events.log[0] == "full"
    assert "drained" not in events.log
    provider.reads()
    assert events.log[-1] == "drained"
    assert provider.hears().endswith(b"x\r\n0\r\n\r\n")


def test_no_connection_is_told_to_the_client() -> None:
    scene = Scene()
    _, events = scene.ask()
    assert events.log == []
    scene.dial.attempts[0].failed(REFUSED)
    assert events.errors == [REFUSED]
    assert scene.figures == (0, 0, 0, 0)
    assert scene.dial.under_way == []


def test_each_request_over_http_1_dials_for_itself_and_the_first_come_is_served_first() -> None:
    scene = Scene()
    asked = [scene.ask() for _ in range(3)]
    assert len(scene.dial.under_way) == 3
    provider = scene.connect()
    provider.says(ANSWER)
    assert [events.body for _, events in asked] == [b"hello", b"", b""]
    provider.says(ANSWER)  # kept, and taken by who waited longest
    provider.says(ANSWER)
    assert [events.body for _, events in asked] == [b"hello"] * 3
    assert scene.pool.reuses == 2


def test_one_failed_dial_of_several_fails_its_share_and_the_oldest_first() -> None:
    scene = Scene()
    asked = [scene.ask() for _ in range(3)]
    scene.dial.attempts[1].failed(REFUSED)
    assert [len(events.errors) for _, events in asked] == [1, 0, 0]
    assert len(scene.dial.under_way) == 2


def test_a_failed_dial_fails_all_that_it_was_made_for() -> None:
    scene = Scene(multiplexed=True)
    asked = [scene.ask() for _ in range(5)]
    assert len(scene.dial.attempts) == 1
    scene.dial.attempts[0].failed(REFUSED)
    assert [len(events.errors) for _, events in asked] == [1] * 5
    assert len(scene.dial.attempts) == 1


def test_who_asks_again_inside_its_failure_waits_for_the_next_connection() -> None:
    scene = Scene(multiplexed=True)

    class Again(Events):
        def on_upstream_failed(self, error: RelayError) -> None:
            super().on_upstream_failed(error)
            second.append(scene.ask())

    second: list[tuple[UpstreamStream, Events]] = []
    first = [Again() for _ in range(2)]
    for events in first:
        events.stream = scene.pool.open(RequestHead(b"GET", b"/", []), events)
    scene.dial.attempts[0].failed(REFUSED)
    assert [len(events.errors) for events in first] == [1, 1]
    assert [events.log for _, events in second] == [[], []]
    assert len(scene.dial.under_way) == 1


def test_who_leaves_inside_the_failure_of_another_is_told_nothing() -> None:
    scene = Scene(multiplexed=True)

    class Breaker(Events):
        def on_upstream_failed(self, error: RelayError) -> None:
            other.cancel()

    events = Breaker()
    events.stream = scene.pool.open(RequestHead(b"GET", b"/", []), events)
    other, told = scene.ask()
    scene.dial.attempts[0].failed(REFUSED)
    assert told.log == []


def test_a_client_that_leaves_while_connecting_gives_the_surplus_dial_up() -> None:
    scene = Scene()
    asked = [scene.ask() for _ in range(2)]
    asked[0][0].cancel()
    assert [attempt.state for attempt in scene.dial.attempts].count("cancelled") == 1
    asked[1][0].cancel()
    assert scene.dial.under_way == []
    assert all(events.log == [] for _, events in asked)


def test_who_leaves_from_the_middle_of_ten_thousand_changes_nothing_for_the_others() -> None:
    scene = Scene(max_connections=1)
    asked = [scene.ask() for _ in range(10_000)]
    for stream, _ in asked[1:-1]:
        stream.cancel()
    first = scene.connect()
    assert not asked[0][0].reused
    first.says(ANSWER)
    assert asked[-1][0].reused


def test_over_http_2_a_dial_goes_on_while_anyone_waits() -> None:
    scene = Scene(multiplexed=True)
    asked = [scene.ask() for _ in range(2)]
    asked[0][0].cancel()
    assert len(scene.dial.under_way) == 1
    asked[1][0].cancel()
    assert scene.dial.under_way == []


def test_a_connection_that_nobody_waits_for_any_more_is_kept() -> None:
    scene = Scene()
    scene.ask()
    second, _ = scene.ask()
    first = scene.connect()
    first.says(ANSWER)  # the second takes over this one, the dial for it is still under way
    assert second.reused
    first.says(ANSWER)
    scene.connect()
    assert scene.pool.idle_connections == 2


def test_a_pause_from_before_the_connection_holds() -> None:
    scene = Scene()
    stream, events = scene.ask()
    stream.pause_reading()
    provider = scene.connect()
    provider.says(ANSWER)
    assert events.log == []
    stream.resume_reading()
    provider.transport.deliver()
    assert events.log == ["head 200", "data", "end"]


# How many


@pytest.mark.parametrize(("multiplexed", "dials"), [(False, 4), (True, 1), (None, 1)])
def test_so_many_are_dialled(multiplexed: bool | None, dials: int) -> None:
    scene = Scene(multiplexed=multiplexed, max_connections=4)
    for _ in range(6):
        scene.ask()
    assert len(scene.dial.under_way) == dials


def test_the_first_connection_tells_how_many_are_needed() -> None:
    scene = Scene(multiplexed=None)
    for _ in range(4):
        scene.ask()
    scene.connect()
    assert len(scene.dial.under_way) == 3


def test_http_2_serves_all_that_wait_up_to_its_limit_and_another_one_the_rest() -> None:
    scene = Scene(multiplexed=None)
    asked = [scene.ask() for _ in range(7)]
    first = scene.connect_many(3)
    assert len(first.streams) == 3
    assert len(scene.dial.under_way) == 1
    second = scene.connect_many(10)
    assert len(second.streams) == 4
    assert scene.dial.under_way == []
    assert [stream.events for stream in first.streams + second.streams] == [events for _, events in asked]


def test_a_provider_that_goes_over_from_http_2_to_http_1_is_dialled_as_such() -> None:
    scene = Scene(multiplexed=None)
    scene.ask()
    scene.connect_many(100).lose()
    for _ in range(3):
        scene.ask()
    scene.connect()
    assert len(scene.dial.under_way) == 2


def test_a_busy_http_2_connection_takes_more() -> None:
    scene = Scene(multiplexed=True)
    scene.ask()
    connection = scene.connect_many(10)
    stream, _ = scene.ask()
    assert stream.reused
    assert connection.busy == 2
    assert scene.figures == (1, 1, 1, 0)


def test_a_lowered_limit_holds_and_what_waits_goes_on_as_others_end() -> None:
    scene = Scene(multiplexed=True, max_connections=1)
    asked = [scene.ask()[0] for _ in range(3)]
    connection = scene.connect_many(3)
    connection.limit = 1
    scene.pool.on_capacity(connection)
    _, waiting = scene.ask()
    asked[0].cancel()
    asked[1].cancel()
    [served] = connection.streams
    assert served.events is not waiting
    asked[2].cancel()
    [served] = connection.streams
    assert served.events is waiting


def test_a_raised_limit_serves_who_waits() -> None:
    scene = Scene(multiplexed=True, max_connections=1)
    for _ in range(3):
        scene.ask()
    connection = scene.connect_many(1)
    connection.limit = 2
    scene.pool.on_capacity(connection)
    assert connection.busy == 2


def test_an_idle_connection_that_takes_no_more_requests_is_closed() -> None:
    scene = Scene(multiplexed=True, max_connections=1)
    stream, _ = scene.ask()
    connection = scene.connect_many(1)
    connection.limit = 0
    stream.cancel()
    assert connection.closed
    connection.lose()
    scene.ask()
    assert len(scene.dial.under_way) == 1


def test_a_connection_that_takes_no_request_from_the_start_is_a_failure_and_no_reason_to_dial_on() -> None:
    scene = Scene(multiplexed=True)
    _, events = scene.ask()
    connection = scene.connect_many(0)
    assert connection.closed
    assert events.log == ["failed 502"]
    assert events.errors[0].not_processed
    assert scene.dial.under_way == []
    assert scene.pool.open_connections == 0


def test_no_more_connections_than_allowed_and_a_wait_has_its_end() -> None:
    scene = Scene(max_connections=1)
    scene.ask()
    provider = scene.connect()
    waiting, events = scene.ask()
    _, late = scene.ask()
    assert scene.dial.under_way == []
    scene.pool.sweep(scene.clock.advance(9))
    assert events.log == []
    waiting.cancel()
    scene.pool.sweep(scene.clock.advance(1))
    assert events.log == []
    assert late.log == ["failed 503"]
    error = late.errors[0]
    assert (error.party, error.not_processed, error.retry_after) == (Party.RELAY, True, 1)
    provider.says(ANSWER)
    assert scene.pool.idle_connections == 1


def test_a_lost_connection_makes_room_for_who_waits() -> None:
    scene = Scene(max_connections=1)
    scene.ask()
    provider = scene.connect()
    _, events = scene.ask()
    provider.transport.lose()
    assert len(scene.dial.under_way) == 1
    scene.connect().says(ANSWER)
    assert events.body == b"hello"


# Keeping


def test_a_kept_connection_is_taken_at_once() -> None:
    scene = Scene()
    provider = scene.answered()
    stream, events = scene.ask()
    assert stream.reused
    provider.says(ANSWER)
    assert events.body == b"hello"
    assert scene.figures == (1, 1, 1, 1)


def test_the_connection_used_last_is_taken_first() -> None:
    scene = Scene()
    for _ in range(2):
        scene.ask()
    first, second = scene.connect(), scene.connect()
    second.says(ANSWER)
    first.says(ANSWER)
    first.hears(), second.hears()
    scene.ask()
    assert first.hears()
    assert not second.hears()


def test_a_dead_connection_is_passed_over() -> None:
    scene = Scene()
    provider = scene.answered()
    with kernel_of(provider.transport) as theirs:
        theirs.close()
        stream, _ = scene.ask()
    assert provider.end == "reset"
    scene.connect()
    assert not stream.reused


def test_a_connection_that_the_provider_closed_is_forgotten() -> None:
    scene = Scene()
    provider = scene.answered()
    provider.shuts()
    provider.transport.lose()
    assert scene.figures == (1, 0, 0, 0)


def test_a_connection_that_was_idle_for_too_long_is_closed() -> None:
    scene = Scene()
    provider = scene.answered()
    scene.pool.sweep(scene.clock.advance(29))
    assert provider.end == "open"
    scene.pool.sweep(scene.clock.advance(1))
    assert provider.end == "reset"
    assert scene.pool.idle_connections == 0


def test_only_what_was_idle_for_too_long_is_closed() -> None:
    scene = Scene()
    for _ in range(2):
        scene.ask()
    first, second = scene.connect(), scene.connect()
    second.says(ANSWER)
    scene.clock.advance(20)
    first.says(ANSWER)
    scene.pool.sweep(scene.clock.advance(20))
    assert (first.end, second.end) == ("open", "reset")


def test_without_keepalive_no_connection_is_kept() -> None:
    scene = Scene(keepalive=None)
    provider = scene.answered()
    assert provider.end == "reset"
    assert scene.pool.idle_connections == 0


def test_closing_the_pool_closes_busy_and_idle_connections_and_ends_dials() -> None:
    scene = Scene()
    first = scene.answered()
    scene.ask()
    scene.ask()
    second = scene.connect()
    scene.ask()
    scene.pool.close()
    assert (first.end, second.end) == ("reset", "reset")
    assert scene.dial.under_way == []


def test_an_idle_connection_that_takes_more_than_at_first_carries_several() -> None:
    scene = Scene(multiplexed=None, max_connections=3)
    stream, _ = scene.ask()
    connection = Many(scene.pool, 1)
    scene.dial.under_way[0].connected(connection)
    stream.cancel()
    connection.limit = 2
    scene.pool.on_capacity(connection)
    scene.ask()
    scene.ask()
    assert connection.busy == 2
    assert not scene.dial.under_way


# Ending


def test_a_cancelled_stream_ignores_what_follows() -> None:
    scene = Scene()
    stream, events = scene.ask(has_body=True)
    provider = scene.connect()
    stream.cancel()
    stream.cancel()
    stream.send_data(b"x")
    stream.send_end()
    stream.pause_reading()
    stream.resume_reading()
    provider.transport.lose()
    assert provider.transport.calls == ["abort"]
    assert events.log == []


def test_a_stream_that_is_over_has_no_hand_in_the_next_one() -> None:
    scene = Scene()
    first, _ = scene.ask()
    provider = scene.connect()
    provider.says(ANSWER)
    _, events = scene.ask()
    first.pause_reading()
    first.cancel()
    provider.says(ANSWER)
    assert events.log == ["head 200", "data", "end"]


def test_its_state_can_be_seen() -> None:
    scene = Scene(max_connections=2)
    stream, _ = scene.ask(has_body=True)
    stream.send_data(b"hello")
    assert repr(stream) == "<WaitingStream WAITING held=5 stream=None>"
    assert repr(scene.pool) == "<Pool api open=0 idle=0 retired=0 dials=1 waiting=1>"
    scene.connect()
    assert repr(stream).startswith("<WaitingStream BEGUN held=0 stream=<H1Stream ")
    stream.cancel()
    scene.pool.close()
    assert repr(stream) == "<WaitingStream OVER held=0 stream=<H1Stream over>>"
    assert repr(scene.pool) == "<Pool api open=1 idle=0 retired=0 dials=0 waiting=0 closed>"


def test_many_small_chunks_that_wait_are_too_much_too() -> None:
    scene = Scene()
    stream, events = scene.ask(has_body=True)
    for _ in range(MARKS.chunks):
        assert events.log == []
        stream.send_data(b"x")
    assert events.log == ["full"]
