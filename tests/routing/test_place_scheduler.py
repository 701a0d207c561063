"""Who gets the next place at a provider: by class, then by tenant."""

from __future__ import annotations

import pytest

from flowserver.routing.claim import Claim
from flowserver.routing.place_scheduler import PlaceScheduler
from flowserver.routing.turnover import WINDOW


class Served:
    input, output = 0, 0


class Provider:
    """Places, and requests that wait for them; all are expected to take one token."""

    def __init__(self, most: int, queue: int = 1000) -> None:
        self.scheduler: PlaceScheduler[str] = PlaceScheduler()
        self.scheduler.most, self.scheduler.queue = most, queue
        self.now = 0.0
        self.claims: dict[str, Claim] = {}

    def claim(self, name: str) -> Claim:
        """Names begin with the tenant's; batch requests end with a minus."""
        found = self.claims.get(name)
        if found is None:
            found = self.claims[name] = Claim(name[0], is_batch=name.endswith("-"), served=Served())
        return found

    def ask(self, *names: str) -> list[str]:
        """Those that have a place at once; others wait."""
        found = []
        for name in names:
            if self.scheduler.reserve(self.claim(name), 1, self.now):
                found.append(name)
            else:
                assert self.scheduler.join(name, self.claim(name), 1, self.now) is None
        return found

    def lost(self, name: str) -> str | None:
        """Who has to go when the queue is full and `name` comes."""
        if not self.scheduler.has_room(self.claim(name)):
            return name
        return self.scheduler.join(name, self.claim(name), 1, self.now)

    def end(self, *names: str) -> list[str]:
        """Their places are free, and those who get them instead."""
        for name in names:
            claim = self.claim(name)
            self.scheduler.release(claim.tenant, 0, is_batch=claim.is_batch, now=self.now)
        return self.served()

    def served(self) -> list[str]:
        found = []
        while (taken := self.scheduler.take(self.now)) is not None:
            found.append(taken[0])
        return found


def many(name: str, number: int, ending: str = "") -> list[str]:
    return [f"{name}{each}{ending}" for each in range(number)]


# Classes


def test_interactive_requests_come_before_those_of_batch_that_have_waited_longer() -> None:
    provider = Provider(1)
    provider.ask("a1", "b1-", "b2-", "a2", "a3")
    assert [provider.end("a1"), provider.end("a2"), provider.end("a3")] == [["a2"], ["a3"], ["b1-"]]


def test_a_tenth_of_the_grants_is_for_batch_while_it_waits() -> None:
    provider = Provider(1)
    provider.ask("a", *many("b", 3, "-"), *many("a", 40))
    order, last = [], ["a"]
    while last:
        last = provider.end(*last)
        order += last
    assert [number for number, name in enumerate(order[:33]) if name.endswith("-")] == [9, 19, 29]


def test_batch_that_has_a_tenth_of_the_places_is_owed_no_more() -> None:
    provider = Provider(10)
    provider.ask(*many("a", 10))
    provider.ask(*many("b", 10, "-"), *many("c", 100))
    assert provider.end(*many("a", 9)) == many("c", 9)
    assert provider.end("a9") == ["b0-"]
    served: list[str] = []
    for number in range(50):
        served += provider.end(f"c{number}")
    assert served == [f"c{number}" for number in range(9, 59)], "its stream is under way still"
    assert provider.end("b0-")[0].startswith("b")


def test_batch_has_all_places_where_there_is_no_interactive_traffic() -> None:
    provider = Provider(10)
    assert len(provider.ask(*many("b", 20, "-"))) == 10


def test_places_that_interactive_requests_needed_of_late_are_not_for_batch() -> None:
    provider = Provider(10)
    provider.ask(*many("a", 4))
    provider.end(*many("a", 4))
    assert len(provider.ask(*many("b", 20, "-"))) == 10 - 4 - 4
    assert provider.scheduler.is_full(is_batch=True, now=provider.now)
    assert not provider.scheduler.is_full(is_batch=False, now=provider.now)
    assert len(provider.ask(*many("c", 5))) == 5, "they find their places free"
    provider.end(*many("c", 5))
    provider.now += 2 * WINDOW + 1
    assert len(provider.served()) == 8, "there was none for some time"


def test_what_is_kept_for_interactive_requests_leaves_batch_a_tenth() -> None:
    provider = Provider(20)
    provider.ask(*many("a", 200))
    for name in many("a", 200):
        provider.end(name)
    assert len(provider.ask(*many("b", 20, "-"))) == 2


def test_a_single_place_is_for_both() -> None:
    provider = Provider(1)
    provider.ask("a1")
    provider.end("a1")
    assert provider.ask("b1-", "a2", "b2-") == ["b1-"]
    assert provider.end("b1-") == ["a2"]
    assert provider.end("a2") == ["b2-"]


# A full queue


def test_a_newcomer_gets_the_room_of_the_youngest_of_the_tenant_that_has_most() -> None:
    provider = Provider(1, queue=10)
    provider.ask("a", *many("a", 10))
    assert provider.lost("a10") == "a10"
    assert [provider.lost(f"b{number}") for number in range(6)] == ["a9", "a8", "a7", "a6", "a5", "b5"]
    assert provider.lost("a11") == "a11", "each has its half"
    assert provider.scheduler.waiting == 10


def test_batch_leaves_the_queue_first_down_to_a_tenth_of_it() -> None:
    provider = Provider(1, queue=20)
    provider.ask("a", *many("b", 20, "-"))
    lost = [provider.lost(f"a{number}") for number in range(20)]
    assert lost == [*(f"b{number}-" for number in range(19, 1, -1)), "a18", "a19"]
    assert provider.scheduler.waiting_of(is_batch=True) == 2


def test_batch_does_not_push_out_interactive_requests() -> None:
    provider = Provider(1, queue=3)
    provider.ask("a", *many("a", 3))
    assert provider.lost("b-") == "b-"


def test_without_a_queue_nobody_waits() -> None:
    provider = Provider(1, queue=0)
    provider.ask("a")
    assert provider.lost("b") == "b"


def test_fewer_places_than_are_taken_let_nobody_in_and_more_do() -> None:
    provider = Provider(4)
    provider.ask(*many("a", 4), *many("b", 4))
    provider.scheduler.most = 2
    assert provider.end("a0", "a1") == []
    assert provider.end("a2") == ["b0"]
    provider.scheduler.most = 4
    assert provider.served() == ["b1", "b2"]
    provider.scheduler.most = None
    assert provider.served() == ["b3"]


# What is told


def test_the_expected_wait_follows_from_how_long_places_are_held() -> None:
    provider = Provider(2)
    provider.ask("a0", "a1")
    assert provider.scheduler.refusal(provider.claim("a2"), provider.now).wait is None
    for number in range(2, 50, 2):
        provider.now += 10
        provider.end(f"a{number - 2}", f"a{number - 1}")
        provider.ask(f"a{number}", f"a{number + 1}")
    provider.ask(*many("b", 9))
    refusal = provider.scheduler.refusal(provider.claim("b9"), provider.now)
    assert refusal.waiting == 9
    assert refusal.wait == pytest.approx(10 * 10 / 2, rel=0.1)
    other = provider.scheduler.refusal(provider.claim("c"), provider.now)
    assert other.wait == pytest.approx(2 * 10 / 2, rel=0.1), "the second in turn"
    provider.now += 1000
    later = provider.scheduler.refusal(provider.claim("c"), provider.now)
    assert (later.wait or 0) > 3 * (other.wait or 0) > 0, "the present ones count before they end"


def test_it_is_the_tenant_s_own_doing_when_it_has_its_share_of_the_queue() -> None:
    provider = Provider(1, queue=10)
    provider.ask("a", *many("a", 6), *many("b", 4))
    own = {name: provider.scheduler.refusal(provider.claim(name), 0.0).is_own for name in ("a9", "b9", "c9")}
    assert own == {"a9": True, "b9": False, "c9": False}
    provider.ask()
    untold = Claim()
    assert not provider.scheduler.refusal(untold, 0.0).is_own, "without tenants it is the provider's"


def test_an_observer_is_told_what_is_open_and_what_has_ended() -> None:
    provider = Provider(1)
    scheduler = provider.scheduler
    told: list[tuple[float, int, int]] = []
    scheduler.on_change = lambda now, places, ended: told.append((now, places, ended))
    assert provider.ask("a1", "b1") == ["a1"]
    scheduler.release("a", 0, is_batch=False, now=2.0)
    assert scheduler.take(2.0) is not None
    scheduler.hold(3, 5.0)
    scheduler.hold(-2, 6.0)
    assert told == [(0.0, 1, 0), (2.0, 0, 1), (2.0, 1, 0), (5.0, 4, 0), (6.0, 2, 2)]
