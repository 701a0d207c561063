"""Who held an answer: the seconds of all parties are the time from its first byte to its end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.errors import EndReason
from flowserver.flow.read_gate import Reason
from flowserver.http.messages import RequestHead, ResponseHead
from flowserver.relay.exchange import Exchange
from flowserver.relay.limited_time import Holder, LimitedTime
from flowserver.relay.record import ExchangeRecord

from ..support.clock import FakeClock
from ..support.recording import RecordingDownstream, RecordingObserver, RecordingUpstream, account, exchange_context

D, Q = Reason.DOWNSTREAM, Reason.QUOTA
OK = ResponseHead(200, [])


def by(record: ExchangeRecord) -> tuple[float, float, float, float]:
    """Client, network, provider, relay."""
    client, network, provider, relay = (record.limited.get(holder, 0.0) for holder in Holder)
    return client, network, provider, relay


class Accounts:
    """A `LimitedTime` whose client tells what a test says. The first byte comes at once."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.began = self.clock.now
        self.down = RecordingDownstream()
        self.observer = RecordingObserver()
        self.time = LimitedTime(self.down, self.observer, self.clock.now)

    def pass_(self, seconds: float, *, shut: float | None = None) -> None:
        """So much time passes; for `shut` seconds of it the client's window is shut."""
        self.clock.advance(seconds)
        if shut is not None:
            self.down.client_limited = (self.down.client_limited or 0.0) + shut

    def told(self) -> tuple[float, float, float, float]:
        self.time.settle(self.clock.now)
        client, network, provider, relay = self.time.seconds.values()
        return client, network, provider, relay


@pytest.fixture
def accounts() -> Accounts:
    return Accounts()


def test_what_nobody_else_holds_is_the_provider_s(accounts: Accounts) -> None:
    accounts.pass_(3)
    assert accounts.told() == (0, 0, 3, 0)
    assert accounts.time.holder is Holder.PROVIDER


def test_a_pause_is_divided_by_the_client_s_window(accounts: Accounts) -> None:
    accounts.down.client_limited = 100.0
    accounts.pass_(1, shut=0.5)
    accounts.time.hold(D, accounts.clock.now)
    accounts.pass_(4, shut=3)
    accounts.time.release(D, accounts.clock.now)
    accounts.pass_(2, shut=2)  # no pause: whatever the kernel counts
    assert accounts.told() == (3, 1, 3, 0)


def test_where_nobody_can_tell_a_pause_is_the_client_s(accounts: Accounts) -> None:
    accounts.time.hold(D, accounts.clock.now)
    accounts.pass_(4)
    assert accounts.time.holder is Holder.CLIENT
    assert accounts.told() == (4, 0, 0, 0)


def test_a_wait_for_tokens_is_the_relay_s_unless_the_client_could_not_take_them(accounts: Accounts) -> None:
    accounts.time.hold(Q, accounts.clock.now)
    accounts.pass_(1)
    assert accounts.time.holder is Holder.RELAY
    accounts.time.hold(D, accounts.clock.now)
    accounts.pass_(2)
    accounts.time.release(D, accounts.clock.now)
    accounts.pass_(4)
    accounts.time.release(Q, accounts.clock.now)
    assert accounts.told() == (2, 0, 0, 5)


def test_who_holds_it_at_present_is_told_by_the_last_part_of_a_pause(accounts: Accounts) -> None:
    accounts.down.client_limited = 0.0
    accounts.time.hold(D, accounts.clock.now)
    told = [accounts.time.holder]
    for seconds, shut in ((10, 10), (1, 0), (0.001, 0.001)):  # the last is too short to tell
        accounts.pass_(seconds, shut=shut)
        accounts.told()
        told.append(accounts.time.holder)
    assert told == [Holder.CLIENT, Holder.CLIENT, Holder.NETWORK, Holder.NETWORK]


def test_ticks_of_the_kernel_s_clock_even_out(accounts: Accounts) -> None:
    """Four pauses of a millisecond are one tick of 4 ms, which is counted at the end of one."""
    accounts.down.client_limited = 0.0
    for _ in range(100):
        for shut in (0.0, 0.0, 0.0, 0.004):
            accounts.time.hold(D, accounts.clock.now)
            accounts.pass_(0.001, shut=shut)
            accounts.time.release(D, accounts.clock.now)
    client, network, _, _ = accounts.told()
    assert client == pytest.approx(0.4, abs=0.01)
    assert network == pytest.approx(0.0, abs=0.01)


def test_the_oldest_byte_s_wait_is_told_at_the_end_of_each_pause(accounts: Accounts) -> None:
    accounts.pass_(5)
    accounts.down.held_since = accounts.clock.now - 2
    accounts.time.hold(D, accounts.clock.now)
    accounts.down.held_since = None
    accounts.pass_(1)
    accounts.time.release(D, accounts.clock.now)
    accounts.time.hold(D, accounts.clock.now)
    accounts.pass_(4)
    accounts.time.end(accounts.clock.now)
    accounts.time.end(accounts.clock.now)
    assert accounts.observer.waits == [3.0, 4.0]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["hold", "release", "ask", "lose", "last"]),
        st.sampled_from([D, Q]),
        st.floats(0, 100),
        st.floats(0, 1),
    ),
    max_size=30,
)


@given(STEPS)
def test_the_parties_seconds_are_the_time_that_passed_and_never_fall(
    steps: list[tuple[str, Reason, float, float]],
) -> None:
    accounts = Accounts()
    before = accounts.told()
    for what, reason, seconds, share in steps:
        now = accounts.clock.now
        if what == "hold":
            accounts.time.hold(reason, now)
        elif what == "release":
            accounts.time.release(reason, now)
        elif what == "lose":
            accounts.down.client_limited = None
        elif what == "last":
            accounts.time.hold_to_end(now)
        else:
            told = accounts.told()
            assert all(was <= is_ for was, is_ in zip(before, told, strict=True))
            before = told
        accounts.pass_(seconds, shut=seconds * share)
    accounts.time.end(accounts.clock.now)
    assert sum(accounts.told()) == pytest.approx(accounts.clock.now - accounts.began)
    accounts.pass_(10)
    assert sum(accounts.told()) == pytest.approx(accounts.clock.now - accounts.began - 10)


# In an exchange


class Scene:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.down = RecordingDownstream()
        self.observer = RecordingObserver()
        context = exchange_context(clock=self.clock, observer=self.observer)
        self.exchange = Exchange(RequestHead(b"GET", b"/", []), self.down, context, request_id=b"i", account=account())
        self.exchange.start(RecordingUpstream())

    def told(self) -> tuple[float, float, float, float]:
        return by(self.exchange.record())

    @property
    def slow(self) -> Holder | None:
        return self.exchange.record().slow


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_time_counts_from_the_first_byte_to_the_end(scene: Scene) -> None:
    scene.clock.advance(5)
    scene.exchange.on_upstream_head(OK)
    scene.clock.advance(5)
    assert (scene.told(), scene.slow) == ((0, 0, 0, 0), None)
    scene.exchange.on_upstream_data(b"hello")
    scene.clock.advance(2)
    assert (scene.told(), scene.slow) == ((0, 0, 2, 0), Holder.PROVIDER)
    scene.clock.advance(1)
    scene.exchange.on_upstream_end()
    scene.exchange.on_downstream_finished()
    scene.clock.advance(5)
    assert (scene.told(), scene.slow) == ((0, 0, 3, 0), None)


def test_a_pause_before_the_first_byte_does_not_count_and_goes_on_behind_it(scene: Scene) -> None:
    scene.exchange.on_upstream_head(OK)
    scene.exchange.on_downstream_full()
    scene.clock.advance(3)
    scene.exchange.on_upstream_data(b"hello")
    scene.clock.advance(2)
    scene.exchange.on_downstream_drained()
    scene.clock.advance(1)
    assert scene.told() == (2, 0, 1, 0)


def test_a_pause_counts_while_it_lasts_and_when_the_client_leaves_in_it(scene: Scene) -> None:
    scene.exchange.on_upstream_head(OK)
    scene.exchange.on_upstream_data(b"hello")
    scene.clock.advance(1)
    scene.down.client_limited = 0.0
    scene.exchange.on_downstream_full()
    scene.clock.advance(4)
    scene.down.client_limited = 1.0
    assert (scene.told(), scene.slow) == ((1, 3, 1, 0), Holder.NETWORK)
    scene.clock.advance(4)
    scene.down.client_limited = 5.0
    scene.exchange.on_downstream_reset(EndReason.CLIENT_STALLED)
    assert (scene.told(), scene.slow) == ((5, 3, 1, 0), None)
    assert scene.observer.waits == [8.0]


def test_the_rest_of_a_whole_answer_is_the_client_s_side_s(scene: Scene) -> None:
    scene.exchange.on_upstream_head(OK)
    scene.exchange.on_upstream_data(b"hello")
    scene.down.held, scene.down.held_since = 5, scene.clock.now
    scene.clock.advance(1)
    scene.exchange.on_upstream_end()
    scene.clock.advance(4)
    scene.exchange.on_downstream_drained()  # of what was above the marks: the end is still to come
    scene.clock.advance(2)
    assert scene.told() == (6, 0, 1, 0)
    scene.exchange.on_downstream_finished()
    assert scene.told() == (6, 0, 1, 0)
    assert scene.observer.waits == [7.0]


def test_a_rest_that_is_blocked_later_is_noticed_by_the_sweep(scene: Scene) -> None:
    scene.exchange.on_upstream_head(OK)
    scene.exchange.on_upstream_data(b"hello")
    scene.exchange.on_upstream_end()
    scene.down.held, scene.down.held_since = 5, scene.clock.now
    scene.exchange.sweep(scene.clock.advance(1))
    scene.clock.advance(9)
    assert scene.told() == (9, 0, 1, 0)


def test_an_answer_of_the_relay_s_own_has_no_seconds(scene: Scene) -> None:
    scene.down.held_since = scene.clock.now
    scene.exchange.on_downstream_reset(EndReason.CLIENT_GONE)
    scene.clock.advance(3)
    assert (scene.told(), scene.slow) == ((0, 0, 0, 0), None)


def test_what_is_held_has_an_age(scene: Scene) -> None:
    scene.exchange.on_upstream_head(OK)
    scene.exchange.on_upstream_data(b"hello")
    assert scene.exchange.record().held_seconds == 0.0
    scene.down.held_since = scene.clock.now
    scene.clock.advance(2)
    assert scene.exchange.record().held_seconds == 2.0
    scene.exchange.on_downstream_full()
    scene.clock.advance(3)
    assert scene.exchange.record().held_seconds == 5.0
