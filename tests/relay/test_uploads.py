"""How much unfinished uploads may hold together, who waits, and who goes on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.flow.memory_budget import MemoryBudget
from flowserver.relay.uploads import MEDIUM, MEDIUM_ROOM, SMALL, TURN, Upload, Uploads

from ..support.clock import FakeClock
from ..support.later import Later

LARGE = 4 * SMALL
LIMIT = 10 * LARGE


class Client:
    """An `Uploader`."""

    def __init__(self, bound: Uploads, announced: int | None = None) -> None:
        self.goes_on = True
        self.upload = Upload(bound, self, announced)

    def stop_upload(self) -> None:
        assert self.goes_on
        self.goes_on = False

    def go_on_uploading(self) -> None:
        assert not self.goes_on
        self.goes_on = True


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def later() -> Later:
    return Later()


@pytest.fixture
def all_of_them(clock: FakeClock, later: Later) -> Uploads:
    return Uploads(LIMIT, clock=clock, later=later, busy_timeout=60.0)


def filled(bound: Uploads, count: int = 8) -> list[Client]:
    """Clients with large uploads: at eight of them the bound is reached."""
    clients = [Client(bound) for _ in range(count)]
    for client in clients:
        client.upload.hold(LARGE)
    return clients


def test_below_the_bound_all_go_on(all_of_them: Uploads) -> None:
    clients = filled(all_of_them, 7)
    assert all(client.goes_on for client in clients)
    assert all_of_them.held == 7 * LARGE


def test_at_the_bound_whoever_asks_for_more_waits_but_the_first(all_of_them: Uploads) -> None:
    first, *others = filled(all_of_them)
    assert [client.goes_on for client in others] == [True] * 6 + [False]
    for client in (first, *others):
        client.upload.hold(1)
    assert first.goes_on
    assert not any(client.goes_on for client in others)


def test_small_uploads_take_what_is_left_of_the_bound(all_of_them: Uploads) -> None:
    filled(all_of_them)
    small = [Client(all_of_them) for _ in range(9)]
    for client in small:
        client.upload.hold(SMALL)
    assert [client.goes_on for client in small] == [True] * 7 + [False] * 2


def test_what_ends_lets_others_go_on_in_their_order(all_of_them: Uploads, later: Later) -> None:
    first, *others = filled(all_of_them)
    for client in reversed(others):
        client.upload.hold(1)
    assert not any(client.goes_on for client in others)
    others[6].upload.end()
    later.run()
    assert all_of_them.held == 7 * LARGE + 6
    assert [client.goes_on for client in others[:6]] == [False] * 4 + [True] * 2
    first.upload.end()
    later.run()
    assert others[0].goes_on


def test_the_next_one_that_began_goes_on_though_there_is_no_room(all_of_them: Uploads, later: Later) -> None:
    first, second, third = (Client(all_of_them) for _ in range(3))
    for client in (first, second, third):
        client.upload.hold(LIMIT)
    assert [client.goes_on for client in (first, second, third)] == [True, False, False]
    first.upload.end()
    later.run()
    assert [client.goes_on for client in (second, third)] == [True, False]


def test_who_waits_too_long_is_overdue_and_progress_begins_anew(
    all_of_them: Uploads, clock: FakeClock, later: Later
) -> None:
    first, second, third = (Client(all_of_them) for _ in range(3))
    for client in (first, second, third):
        client.upload.hold(LIMIT)
    assert not second.upload.is_overdue(clock.advance(59.9))
    first.upload.end()
    later.run()
    second.upload.hold(1)
    assert not second.upload.is_overdue(clock.advance(1))
    assert third.upload.is_overdue(clock.now)
    third.upload.end()
    assert not third.upload.is_overdue(clock.now)


def test_without_a_timeout_nobody_is_overdue(clock: FakeClock, later: Later) -> None:
    bound = Uploads(1, clock=clock, later=later)
    filled(bound, 1)
    [client] = filled(bound, 1)
    assert not client.upload.is_overdue(clock.advance(1e9))


def test_a_connection_s_bound_stands_below_that_of_all(all_of_them: Uploads, later: Later) -> None:
    one, other = all_of_them.below(LARGE), all_of_them.below(LARGE)
    first, second = filled(one, 2)
    [alone] = filled(other, 1)
    assert (first.goes_on, second.goes_on, alone.goes_on) == (True, False, True)
    assert (one.held, other.held, all_of_them.held) == (2 * LARGE, LARGE, 3 * LARGE)
    filled(all_of_them)
    alone.upload.hold(1)
    assert not alone.goes_on  # the first of its connection, and not of all
    first.upload.end()
    later.run()
    assert (second.goes_on, alone.goes_on) == (True, False)  # now that of all
    second.upload.end()
    later.run()
    assert (alone.goes_on,) == (True,)
    alone.upload.end()
    assert (one.held, other.held) == (0, 0)


def test_an_upload_that_ends_starts_nothing_in_the_same_call_stack(all_of_them: Uploads, later: Later) -> None:
    first, second, third = (Client(all_of_them) for _ in range(3))
    for client in (first, second, third):
        client.upload.hold(LIMIT)
    first.upload.end()
    assert [client.goes_on for client in (second, third)] == [False, False]
    second.upload.end()
    later.run()
    assert [client.goes_on for client in (second, third)] == [True, True]


def test_whoever_ends_before_it_can_go_on_is_left_out(all_of_them: Uploads, later: Later) -> None:
    first, second = (Client(all_of_them) for _ in range(2))
    for client in (first, second):
        client.upload.hold(LIMIT)
    first.upload.end()
    second.upload.end()
    assert second.goes_on
    later.run()
    assert all_of_them.held == 0


def test_its_state_shows(all_of_them: Uploads) -> None:
    first, second = (Client(all_of_them) for _ in range(2))
    for client in (first, second):
        client.upload.hold(LIMIT)
    assert repr(all_of_them) == f"<Uploads {2 * LIMIT} of {LIMIT} bytes, 2 held, 1 waiting>"
    assert repr(second.upload) == f"<Upload waiting: {LIMIT} bytes>"


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 3 * SMALL), st.booleans()), max_size=200))
def test_one_always_goes_on_and_the_bound_is_kept(steps: list[tuple[int, int, bool]]) -> None:
    later = Later()
    bound = Uploads(8 * SMALL, clock=FakeClock(), later=later)
    connections = [bound.below(4 * SMALL), bound.below(4 * SMALL)]
    live: dict[int, Client] = {}
    over = 0
    for number, size, ends in steps:
        if number in live and ends:
            live.pop(number).upload.end()
        elif number not in live or live[number].goes_on:
            client = live.setdefault(number, Client(connections[number % 2], MEDIUM if number % 3 else None))
            if client is next(iter(live.values())):
                over += size
            client.upload.hold(size)
        later.run()
        assert bound.held == sum(client.upload.size for client in live.values())
        assert not live or any(client.goes_on for client in live.values())
        assert bound.held <= 8 * SMALL + over + 8 * 3 * SMALL
        assert bound.large == sum(not client.upload.is_medium for client in live.values())
    for client in list(live.values()):
        client.upload.end()
        later.run()
        assert client.goes_on
    assert (bound.held, connections[0].held, connections[1].held) == (0, 0, 0)


def test_where_memory_is_short_only_the_first_goes_on(all_of_them: Uploads, later: Later) -> None:
    first, second, third = filled(all_of_them, 3)
    all_of_them.fit(small=0, large=0)
    for client in (first, second, third):
        client.upload.hold(LARGE)
    assert [client.goes_on for client in (first, second, third)] == [True, False, False]
    all_of_them.fit(small=LIMIT, large=LIMIT)
    later.run()
    assert second.goes_on
    assert third.goes_on


def test_small_ones_go_on_while_large_ones_wait(all_of_them: Uploads) -> None:
    filled(all_of_them, 1)
    all_of_them.fit(small=2 * SMALL, large=0)
    large, small = Client(all_of_them), Client(all_of_them)
    small.upload.hold(SMALL // 2)
    large.upload.hold(LARGE // 2)
    assert small.goes_on
    assert not large.goes_on


def test_where_memory_is_short_those_that_are_not_large_wait_only_for_one_another(
    clock: FakeClock, later: Later
) -> None:
    all_of_them = Uploads(16 * MEDIUM, clock=clock, later=later)
    large = filled(all_of_them, 3)
    all_of_them.fit(small=0, large=0)
    medium = [Client(all_of_them, MEDIUM) for _ in range(3)]
    others = [Client(all_of_them, size) for size in (MEDIUM + 1, None)]
    for client in (*large, *others):
        client.upload.hold(LARGE)
    for client in medium:
        client.upload.hold(MEDIUM_ROOM // 2)
    assert going(*medium) == [True, False, False], "the second has used up their room"
    assert going(*large, *others) == [True, False, False, False, False]
    assert all_of_them.large == 5
    medium[0].upload.end()
    assert not medium[1].goes_on, "nothing begins in the same call stack"
    medium[1].upload.hold(1)  # what was on its way
    later.run()
    assert not any(going(*medium[1:]))
    medium[1].upload.end()
    later.run()
    assert medium[2].goes_on
    assert not any(going(*large[1:], *others))


def test_at_the_configured_bound_they_wait_like_large_ones(all_of_them: Uploads) -> None:
    filled(all_of_them)
    medium = Client(all_of_them, MEDIUM)
    medium.upload.hold(LARGE)
    assert not medium.goes_on


def test_memory_never_leaves_more_than_the_bound(all_of_them: Uploads) -> None:
    all_of_them.fit(small=100 * LIMIT, large=100 * LIMIT)
    assert [client.goes_on for client in filled(all_of_them)][-1] is False


def test_an_upload_that_never_ends_does_not_keep_others_waiting(
    all_of_them: Uploads, clock: FakeClock, later: Later
) -> None:
    for_ever, second = filled(all_of_them, 2)
    all_of_them.fit(small=0, large=0)
    second.upload.hold(1)
    all_of_them.pass_turn(clock())
    all_of_them.pass_turn(clock.advance(TURN / 2))
    later.run()
    assert going(for_ever, second) == [True, False]
    all_of_them.pass_turn(clock.advance(TURN / 2))
    later.run()
    for_ever.upload.hold(1)
    assert going(for_ever, second) == [False, True], "the other one is the first now"
    all_of_them.pass_turn(clock.advance(TURN))
    all_of_them.pass_turn(clock.advance(TURN))
    later.run()
    assert going(for_ever, second) == [True, True], "none waits for ever"


def going(*clients: Client) -> list[bool]:
    return [client.goes_on for client in clients]


def test_memory_is_told_what_is_held(clock: FakeClock, later: Later) -> None:
    looks: list[int] = []
    bound = Uploads(LIMIT, clock=clock, later=later, memory=MemoryBudget(1 << 30, lambda: looks.append(1)))
    Client(bound.below(LIMIT)).upload.hold(1)
    assert looks == [1], "once, however many bounds there are"
