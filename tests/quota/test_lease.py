"""What one exchange may use of its tenant's limits, with a limiter that answers at once or when a test says so."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from itertools import permutations

import pytest

from flowserver.quota.lease import ADMITTED, LeaseState, TokenLease, Verdict
from flowserver.quota.limits import MAX_TOKENS, Cause, Decision, Limit, Quota, RequestBucket, Slots, TokenBucket
from flowserver.stores.limiter import StoreLimiter
from flowserver.stores.memory import MemoryStore

from ..support.clock import FakeClock
from ..support.quota import FakeLimiter

PASS, WAIT, END = Verdict.PASS, Verdict.WAIT, Verdict.END
QUOTA = Quota("{t}:quota", 10_000, ttl=60.0)
ID = "{t}:1"


class Scene:
    """A lease, and what was heard of it. The lease is 100 tokens, unless `limiter` says otherwise."""

    def __init__(self, limiter: FakeLimiter | None = None) -> None:
        self.limiter = limiter or FakeLimiter()
        self.decisions: list[Decision] = []
        self.resumed = 0
        self.lease = TokenLease(self.limiter, ID, resume=self._on_resume)

    def ask(self, *limits: Limit, need: int = 10) -> None:
        self.lease.ask(limits or (QUOTA,), need=need, done=self.decisions.append)

    def extensions(self) -> list[tuple[str | int, ...]]:
        return [call for call in self.limiter.log if call[0] == "extend"]

    def _on_resume(self) -> None:
        self.resumed += 1


def admitted(*, left: int = 1_000_000, most: int | None = None) -> Scene:
    """110 tokens are leased, and from now on the limiter answers when it is told to."""
    scene = Scene(FakeLimiter(left=left))
    scene.ask()
    scene.limiter.delayed = True
    scene.limiter.most = most
    return scene


def test_its_state_shows() -> None:
    scene = admitted()
    lease = scene.lease
    lease.verdict(40)
    assert repr(lease) == "<TokenLease {t}:1 held: 40 of 110 tokens used>"
    lease.verdict(120)
    assert repr(lease) == "<TokenLease {t}:1 extending: 120 of 110 tokens used, an event waits>"
    scene.limiter.left = 0
    scene.limiter.answer()
    assert repr(lease) == "<TokenLease {t}:1 exhausted: 120 of 110 tokens used>"
    lease.settle(110)
    assert lease.state is LeaseState.SETTLED


# Admission


@pytest.mark.parametrize("delayed", [False, True])
def test_it_is_admitted_with_a_first_lease(delayed: bool) -> None:
    scene = Scene(FakeLimiter(delayed=delayed))
    scene.ask(need=30)
    if delayed:
        assert scene.decisions == []
        assert scene.lease.decision is None
        scene.limiter.answer()
    assert [decision.admitted for decision in scene.decisions] == [True]
    assert scene.lease.decision is scene.decisions[0]
    assert (scene.lease.granted, scene.lease.left) == (130, 130)
    assert scene.limiter.ids == {ID}


@pytest.mark.parametrize("delayed", [False, True])
def test_who_is_refused_holds_nothing_and_gives_nothing_back(delayed: bool) -> None:
    scene = Scene(FakeLimiter(delayed=delayed))
    scene.limiter.refuses = Cause.QUOTA
    scene.ask()
    if delayed:
        scene.limiter.answer()
    assert [decision.cause for decision in scene.decisions] == [Cause.QUOTA]
    for now in (0, 100, 200):
        scene.lease.sweep(now)
    scene.lease.settle(5)
    assert scene.limiter.log == [("admit", 10)]


def test_without_limits_nobody_is_asked_anything() -> None:
    scene = Scene()
    scene.lease.ask((), need=10, done=scene.decisions.append)
    assert scene.decisions == [ADMITTED]
    assert scene.lease.verdict(1_000_000) is PASS
    for now in (0, 100):
        scene.lease.sweep(now)
    scene.lease.settle(1_000_000)
    assert scene.limiter.log == []


@pytest.mark.parametrize("limit", [RequestBucket("{t}:r", 5, 5), Slots("{t}:s", 5)])
def test_limits_that_count_no_tokens_never_stop_a_stream(limit: Limit) -> None:
    scene = Scene()
    scene.ask(limit)
    assert scene.lease.verdict(1_000_000) is PASS
    assert scene.extensions() == []
    scene.lease.settle(7)
    assert scene.limiter.settled == [7]


@pytest.mark.parametrize("limit", [TokenBucket("{t}:b", 5000, 5000), QUOTA])
def test_limits_of_tokens_are_drawn_on(limit: Limit) -> None:
    scene = Scene()
    scene.ask(Slots("{t}:s", 5), limit)
    scene.lease.verdict(110)
    assert len(scene.extensions()) == 1


# The lease


def test_a_lease_is_drawn_on_without_asking_and_extended_before_it_runs_out() -> None:
    scene = admitted()
    for used in range(10, 61):
        assert scene.lease.verdict(used) is PASS
    assert scene.extensions() == []
    assert scene.lease.verdict(61) is PASS
    assert scene.extensions() == [("extend", 61, 100)]
    for used in range(62, 111):
        assert scene.lease.verdict(used) is PASS
    assert len(scene.extensions()) == 1
    scene.limiter.answer()
    assert (scene.lease.granted, scene.lease.left) == (210, 100)
    assert scene.lease.verdict(160) is PASS
    assert len(scene.extensions()) == 1
    assert scene.resumed == 0


def test_a_late_extension_makes_an_event_wait_until_it_is_there() -> None:
    scene = admitted()
    scene.lease.verdict(100)
    assert scene.lease.verdict(111) is WAIT
    assert scene.lease.left == 0
    assert scene.resumed == 0
    scene.limiter.answer()
    assert scene.resumed == 1
    assert scene.lease.verdict(111) is PASS


def test_an_event_larger_than_a_lease_asks_for_all_of_itself() -> None:
    """Of which nothing is charged before it is leased."""
    scene = admitted()
    assert scene.lease.verdict(1000) is WAIT
    assert scene.extensions() == [("extend", 110, 990)]
    scene.limiter.answer()
    assert (scene.resumed, scene.lease.verdict(1000)) == (1, PASS)


def test_who_waits_near_a_quotas_end_goes_on_once_small_leases_are_enough() -> None:
    scene = admitted(most=30)
    assert scene.lease.verdict(200) is WAIT
    answers = 0
    while not scene.resumed:
        scene.limiter.answer()
        answers += 1
    assert answers == 3
    assert scene.lease.granted == 200
    assert scene.lease.verdict(200) is PASS


def test_small_leases_that_come_at_once_are_taken_until_they_are_enough() -> None:
    scene = admitted(most=30)
    scene.limiter.delayed = False
    assert scene.lease.verdict(200) is PASS
    assert scene.lease.granted >= 200
    assert scene.resumed == 0


def test_who_waits_in_vain_hears_of_it_too_and_that_is_the_end() -> None:
    scene = admitted(left=110)
    assert scene.lease.verdict(111) is WAIT
    scene.limiter.answer()
    assert scene.resumed == 1
    assert scene.lease.verdict(111) is END
    assert scene.lease.verdict(112) is END
    assert len(scene.extensions()) == 1


def test_less_than_is_wanted_may_not_be_enough_for_an_event() -> None:
    scene = admitted(left=150)
    assert scene.lease.verdict(200) is WAIT
    scene.limiter.answer()
    assert scene.resumed == 0
    scene.limiter.answer()
    assert scene.resumed == 1
    assert scene.lease.granted == 150
    assert scene.lease.verdict(200) is END
    assert scene.lease.verdict(150) is PASS


def test_a_refusal_is_told_when_the_lease_is_used_up_and_not_before() -> None:
    scene = admitted(left=110)
    assert scene.lease.verdict(61) is PASS
    scene.limiter.answer()
    for used in range(62, 111):
        assert scene.lease.verdict(used) is PASS
    assert scene.lease.verdict(111) is END
    assert len(scene.extensions()) == 1
    assert scene.resumed == 0


def test_a_limiter_that_answers_at_once_makes_nobody_wait() -> None:
    """Nor is anything resumed that did not wait: that would come in the midst of the event's own turn."""
    scene = Scene(FakeLimiter(left=450))
    scene.ask()
    verdicts = [scene.lease.verdict(used) for used in range(10, 500, 7)]
    assert verdicts == [PASS if used <= 450 else END for used in range(10, 500, 7)]
    jump = Scene(FakeLimiter(left=2000))
    jump.ask()
    assert jump.lease.verdict(1500) is PASS
    assert (scene.resumed, jump.resumed) == (0, 0)


# A report that falls below the count


def test_a_report_below_the_count_makes_room() -> None:
    scene = admitted()
    assert scene.lease.verdict(100) is PASS
    scene.limiter.answer()
    assert (scene.lease.granted, scene.lease.left, scene.lease.room(100)) == (210, 110, 60)
    assert scene.lease.verdict(30) is PASS
    assert (scene.lease.granted, scene.lease.left, scene.lease.room(30)) == (210, 180, 130)
    for used in range(31, 161):
        assert scene.lease.verdict(used) is PASS
    assert scene.extensions() == [("extend", 100, 100)]
    assert scene.lease.verdict(161) is PASS
    assert scene.extensions()[1:] == [("extend", 161, 100)]


def test_a_report_below_the_count_passes_while_more_is_on_its_way() -> None:
    scene = admitted()
    assert scene.lease.verdict(110) is PASS
    assert scene.lease.verdict(20) is PASS
    assert scene.lease.room(20) == 90
    scene.limiter.answer()
    assert (scene.lease.granted, scene.lease.left) == (210, 190)
    assert (scene.resumed, len(scene.extensions())) == (0, 1)


def test_who_got_no_more_may_use_what_a_report_gives_back() -> None:
    scene = admitted(left=110)
    assert scene.lease.verdict(110) is PASS
    scene.limiter.answer()
    assert scene.lease.verdict(70) is PASS
    assert (scene.lease.left, scene.lease.room(70)) == (40, 40)
    assert scene.lease.verdict(110) is PASS
    assert scene.lease.verdict(111) is END
    assert len(scene.extensions()) == 1


def test_a_renewal_tells_the_report_and_not_the_count_before() -> None:
    scene = admitted()
    scene.lease.verdict(50)
    scene.lease.verdict(20)
    for now in (0, 100):
        scene.lease.sweep(now)
    assert scene.extensions() == [("extend", 20, 0)]


@pytest.mark.parametrize("used", [MAX_TOKENS, MAX_TOKENS + 1, 1 << 62, 1 << 200])
def test_an_absurd_count_takes_few_leases(used: int) -> None:
    scene = Scene(FakeLimiter(left=1 << 300))
    scene.limiter.most = MAX_TOKENS
    scene.ask()
    assert scene.lease.verdict(used) is PASS
    assert len(scene.extensions()) == 1
    assert scene.lease.room(used) <= 110
    assert scene.lease.verdict(50) is PASS


# Renewal


def test_a_slow_streams_lease_is_renewed() -> None:
    scene = admitted()
    scene.lease.verdict(20)
    for now in range(1000, 1101, 5):
        scene.lease.sweep(now)
    assert scene.extensions() == [("extend", 20, 0)] * 5
    scene.limiter.answer()
    assert scene.lease.granted == 110
    scene.lease.settle(20)
    scene.lease.sweep(2000)
    assert len(scene.extensions()) == 5


def test_nothing_is_renewed_before_it_is_there() -> None:
    scene = Scene(FakeLimiter(delayed=True))
    scene.ask()
    for now in (0, 100, 200):
        scene.lease.sweep(now)
    assert scene.extensions() == []
    scene.limiter.answer()
    scene.lease.sweep(300)
    assert len(scene.extensions()) == 1


def test_a_renewal_does_not_end_a_wait() -> None:
    scene = admitted()
    for now in (0, 100):
        scene.lease.sweep(now)
    assert scene.lease.verdict(111) is WAIT
    scene.limiter.answer()
    assert scene.resumed == 0
    scene.limiter.answer()
    assert scene.resumed == 1


# The end


def test_it_settles_once() -> None:
    scene = admitted()
    scene.lease.settle(50)
    scene.lease.settle(70)
    assert scene.limiter.settled == [50]


def test_what_is_over_leaves_nothing_to_the_garbage_collector() -> None:
    """Its callbacks lead back to who holds it: a cycle for each request, and its collection, if they were kept."""
    scene = admitted()
    lease, gone = scene.lease, weakref.ref(scene)
    lease.settle(5)
    gc.disable()
    try:
        del scene
        assert gone() is None
    finally:
        gc.enable()


def test_a_lease_that_never_asked_settles_nothing() -> None:
    scene = Scene()
    scene.lease.settle(50)
    assert scene.limiter.log == []


def test_an_admission_after_the_client_left_is_given_back() -> None:
    scene = Scene(FakeLimiter(delayed=True))
    scene.ask()
    scene.lease.settle(0)
    assert scene.limiter.settled == []
    scene.limiter.answer()
    assert scene.limiter.settled == [0]
    assert scene.decisions == []


def test_a_refusal_after_the_client_left_gives_nothing_back() -> None:
    scene = Scene(FakeLimiter(delayed=True))
    scene.limiter.refuses = Cause.RATE
    scene.ask()
    scene.lease.settle(0)
    scene.limiter.answer()
    assert scene.limiter.settled == []
    assert scene.decisions == []


@pytest.mark.parametrize("left", [110, 150, 1_000_000])
def test_an_extension_after_the_client_left_moves_nothing(left: int) -> None:
    scene = admitted(left=left)
    assert scene.lease.verdict(200) is WAIT
    scene.lease.settle(110)
    scene.limiter.answer()
    assert scene.resumed == 0
    assert scene.limiter.waiting == 0
    assert scene.limiter.settled == [110]


@pytest.mark.parametrize("settles_first", [False, True])
async def test_an_extension_that_crosses_the_end_leaks_no_grant(settles_first: bool) -> None:
    """With a real store: whichever comes first there, what is charged is the final figure."""
    store = MemoryStore(FakeClock())
    near = StoreLimiter(store, lease=100, life=60.0, is_local=True)
    held: list[tuple[int, int, Callable[[int], None]]] = []

    class Late:
        lease, renewal = near.lease, near.renewal

        def admit(
            self, stream_id: str, limits: Sequence[Limit], *, need: int, want: int, done: Callable[[Decision], None]
        ) -> None:
            near.admit(stream_id, limits, need=need, want=want, done=done)

        def settle(self, stream_id: str, used: int) -> None:
            near.settle(stream_id, used)

        def extend(self, stream_id: str, used: int, want: int, done: Callable[[int], None]) -> None:
            held.append((used, want, done))

    resumed: list[bool] = []
    lease = TokenLease(Late(), ID, resume=lambda: resumed.append(True))
    lease.ask((QUOTA,), need=10, done=lambda decision: None)
    assert lease.verdict(200) is WAIT
    [(used, want, done)] = held
    if settles_first:
        lease.settle(40)
        near.extend(ID, used, want, done)
    else:
        near.extend(ID, used, want, lambda more: held.append((more, 0, done)))
        lease.settle(40)
        done(held[1][0])
    assert (resumed, len(held)) == ([], 1 if settles_first else 2)
    assert [(usage.used, usage.reserved) for usage in await store.usage((QUOTA,))] == [(40, 0)]


@pytest.mark.parametrize("order", sorted(set(permutations(["answer", "answer", "leave", "emit"]))))
def test_in_any_order_it_settles_once_and_nobody_is_resumed_who_left(order: tuple[str, ...]) -> None:
    """Answers of the limiter, a client that leaves and an event: some of them come when they mean nothing."""
    scene = Scene(FakeLimiter(delayed=True))
    scene.ask()
    left = False
    for step in order:
        if step == "answer" and scene.limiter.waiting:
            before = scene.resumed
            scene.limiter.answer()
            assert not (left and scene.resumed > before)
        elif step == "leave":
            scene.lease.settle(5)
            left = True
        elif step == "emit" and scene.decisions and not left:
            assert scene.lease.verdict(111) is WAIT
    while scene.limiter.waiting:
        scene.limiter.answer()
    assert len(scene.limiter.settled) == 1
