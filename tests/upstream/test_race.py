"""Which of several addresses is connected to, and when the next one is tried."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import pytest

from flowserver.upstream.race import FinalFailure, Progress, Race, interleave
from flowserver.upstream.resolver import HostAddress

from ..support.lab import eventually, finishes

DELAY = 0.02


def address(host: str) -> HostAddress:
    if ":" in host:
        return HostAddress(socket.AF_INET6, (host, 443, 0, 0))
    return HostAddress(socket.AF_INET, (host, 443))


A, B, C, D = (address(f"192.0.2.{number}") for number in (1, 2, 3, 4))


class Attempts:
    """Each address does what the test says: a string is what it connects to, an exception what it raises, None hangs.

    An event stands before it.
    """

    def __init__(self, **behaviour: object) -> None:
        self._behaviour = {address: behaviour.get(name) for name, address in zip("abcd", (A, B, C, D), strict=True)}
        self.gates: dict[HostAddress, asyncio.Event] = {}
        self.progress: dict[HostAddress, Progress] = {}
        self.begun: list[HostAddress] = []
        self.cancelled: list[HostAddress] = []
        self.disposed: list[str] = []

    async def __call__(self, address: HostAddress, progress: Progress) -> str:
        self.begun.append(address)
        self.progress[address] = progress
        try:
            if address in self.gates:
                await self.gates[address].wait()
            outcome = self._behaviour[address]
            if outcome is None:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.append(address)
            raise
        if isinstance(outcome, Exception):
            raise outcome
        return str(outcome)

    def race(
        self, *addresses: HostAddress, delay: float = DELAY, more: Sequence[HostAddress] | Exception | None = None
    ) -> Race[str]:
        async def look() -> Sequence[HostAddress]:
            if isinstance(more, Exception):
                raise more
            return more or ()

        return Race(addresses, self, self.disposed.append, more=None if more is None else look, delay=delay)


async def test_the_first_one_wins_and_no_other_is_tried() -> None:
    attempts = Attempts(a="one", b="two")
    race = attempts.race(A, B, delay=60)
    assert await finishes(race.run()) == "one"
    assert (attempts.begun, race.winner) == ([A], A)


async def test_after_a_failure_the_next_one_is_tried_at_once() -> None:
    attempts = Attempts(a=ConnectionRefusedError(), b=ConnectionRefusedError(), c="three")
    race = attempts.race(A, B, C, delay=60)
    assert await finishes(race.run()) == "three"
    assert (race.failed, race.winner) == ([A, B], C)


async def test_one_that_hangs_costs_the_delay_and_is_given_up_by_the_winner() -> None:
    attempts = Attempts(b="two")
    race = attempts.race(A, B)
    assert await finishes(race.run()) == "two"
    assert race.tried == [A, B]
    await eventually(lambda: attempts.cancelled == [A])


async def test_a_slow_one_still_wins_over_others_that_hang() -> None:
    attempts = Attempts(a="one")
    attempts.gates[A] = asyncio.Event()
    race = attempts.race(A, B, C)
    running = asyncio.create_task(race.run())
    await eventually(lambda: attempts.begun == [A, B, C])
    attempts.gates[A].set()
    assert await finishes(running) == "one"
    await eventually(lambda: attempts.cancelled == [B, C])


async def test_the_failure_of_an_earlier_one_does_not_hurry_the_one_under_way() -> None:
    attempts = Attempts(a=ConnectionRefusedError(), b="two", c="three")
    attempts.gates = {A: asyncio.Event(), B: asyncio.Event()}
    race = attempts.race(A, B, C, delay=0.5)
    running = asyncio.create_task(race.run())
    await eventually(lambda: attempts.begun == [A, B])
    attempts.gates[A].set()
    await asyncio.sleep(0.05)
    assert attempts.begun == [A, B]
    attempts.gates[B].set()
    assert await finishes(running) == "two"


async def test_progress_puts_the_next_one_off() -> None:
    attempts = Attempts(a="one", b="two")
    attempts.gates = {A: asyncio.Event()}
    race = attempts.race(A, B, delay=0.5)
    running = asyncio.create_task(race.run())
    await asyncio.sleep(0.1)
    progress_at = asyncio.get_running_loop().time()
    attempts.progress[A]()
    assert await finishes(running) == "two"
    assert asyncio.get_running_loop().time() - progress_at >= 0.5


async def test_all_that_fail_end_with_the_last_error() -> None:
    attempts = Attempts(a=ConnectionRefusedError("one"), b=ConnectionResetError("two"))
    with pytest.raises(ConnectionResetError, match="two"):
        await finishes(attempts.race(A, B).run())


async def test_a_final_failure_is_reported_at_once() -> None:
    attempts = Attempts(a=FinalFailure(ValueError("no trust")), b="two")
    with pytest.raises(ValueError, match="no trust"):
        await finishes(attempts.race(A, B, delay=60).run())
    assert attempts.begun == [A]


async def test_no_address_is_a_failure() -> None:
    with pytest.raises(OSError, match="no address"):
        await finishes(Attempts().race().run())


@pytest.mark.parametrize("what", [ConnectionRefusedError(), None])
async def test_further_addresses_are_looked_for_when_the_first_ones_fail_or_hang(what: object) -> None:
    attempts = Attempts(a=what, b="two")
    race = attempts.race(A, more=[A, B])
    assert await finishes(race.run()) == "two"
    assert race.tried == [A, B]


@pytest.mark.parametrize("more", [(), OSError("DNS is down")])
async def test_a_failure_stays_what_it_is_when_there_are_no_further_addresses(
    more: Sequence[HostAddress] | Exception,
) -> None:
    attempts = Attempts(a=ConnectionRefusedError("refused"))
    with pytest.raises(ConnectionRefusedError):
        await finishes(attempts.race(A, more=more).run())


async def test_nothing_further_is_looked_for_without_need() -> None:
    attempts = Attempts(a="one")
    assert await finishes(attempts.race(A, more=OSError("never called"), delay=60).run()) == "one"


async def test_who_gives_up_ends_all_attempts() -> None:
    attempts = Attempts()
    running = asyncio.create_task(attempts.race(A, B).run())
    await eventually(lambda: attempts.begun == [A, B])
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await eventually(lambda: attempts.cancelled == [A, B])


async def test_of_two_that_connect_at_once_one_is_closed() -> None:
    attempts = Attempts(a="one", b="two")
    attempts.gates = {A: asyncio.Event(), B: asyncio.Event()}
    running = asyncio.create_task(attempts.race(A, B).run())
    await eventually(lambda: attempts.begun == [A, B])
    attempts.gates[A].set()
    attempts.gates[B].set()
    assert await finishes(running) == "one"
    await eventually(lambda: attempts.disposed == ["two"])


@pytest.mark.parametrize(
    ("given", "ordered"),
    [
        ("", ""),
        ("1.1.1.1 1.1.1.2", "1.1.1.1 1.1.1.2"),
        ("::1 ::2 ::3 1.1.1.1 1.1.1.2", "::1 1.1.1.1 ::2 1.1.1.2 ::3"),
        ("1.1.1.1 1.1.1.2 ::1", "1.1.1.1 ::1 1.1.1.2"),
        ("1.1.1.1 ::1 ::2 1.1.1.2", "1.1.1.1 ::1 1.1.1.2 ::2"),
    ],
)
def test_families_take_turns(given: str, ordered: str) -> None:
    assert [each.address[0] for each in interleave(map(address, given.split()))] == ordered.split()
