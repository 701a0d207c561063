"""The relays under test behind one interface.

A further one is a module here and one entry in `PEERS`. Each is set up as its manual advises for streams, with one
process or thread that does the work and no access log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from bench.figures import rotated
from bench.peers.base import PLAIN, Certificate, Direct, Peer, Running, Wiring, certificate
from bench.peers.caddy import CADDY_PEER
from bench.peers.envoy import ENVOY_PEER
from bench.peers.flowserver import Flowserver
from bench.peers.haproxy import HAPROXY_PEER
from bench.peers.litellm import LITELLM_PEER
from bench.peers.nginx import NGINX_PEER
from bench.processes import wait_until_at_rest, wait_until_quiet

__all__ = [
    "PEERS",
    "PLAIN",
    "Certificate",
    "Peer",
    "Running",
    "SideBySide",
    "Wiring",
    "certificate",
    "in_round",
    "side_by_side",
    "those_that",
]

PEERS: dict[str, Peer] = {
    peer.name: peer for peer in (Flowserver(), NGINX_PEER, HAPROXY_PEER, ENVOY_PEER, CADDY_PEER, LITELLM_PEER, Direct())
}


CLOSE = ("flowserver", "other", "nginx")
"""Those that are near each other: it takes rounds to tell how near."""


def in_round(relays: Iterable[str], number: int, others: int | None) -> list[str]:
    """Who is measured in round `number`, in its order: all of `relays` in the first `others` rounds (None: in all),
    then those that are CLOSE. These come directly after one another, so that they are compared within seconds, and take
    turns at who is first; the others go around them. A relay that is given a part of the load only is so far off that
    one round tells: it comes last in the first one."""
    names = list(relays)
    close = rotated((name for name in names if name in CLOSE), number)
    if others is not None and number >= others:
        return close
    whole = [[name] for name in names if name not in CLOSE and _carries_all(name)]
    light = [name for name in names if not _carries_all(name)] if number == 0 else []
    return [name for turn in rotated([close, *whole], number) for name in turn] + light


def _carries_all(name: str) -> bool:
    """Is it given the whole load of a case?"""
    return PEERS[name].share == 1


ROUNDS_OF_A_START = 4
"""Rounds before those that are CLOSE are started anew: where in memory a process happens to lie moves its figures by 3
to 5 % for as long as it lives, which no number of rounds shows."""


class SideBySide:
    """Relays in front of one provider that take turns at being measured: those of `names` that are given the whole
    load, which run beside each other, and others, which are started when it is their turn."""

    def __init__(self, names: Sequence[str], start: Callable[[str], AbstractContextManager[Running]]) -> None:
        self._names = names
        self._start = start
        self._running: dict[str, tuple[ExitStack, Running]] = {}

    def begin(self) -> None:
        for name in self._names:
            if _carries_all(name):
                self._begin(name)

    def close(self) -> None:
        with ExitStack() as all_of_them:
            for stack, _ in self._running.values():
                all_of_them.callback(stack.close)
        self._running.clear()

    def round(self, number: int, others: int | None) -> Iterator[Running]:
        """Whom to measure in round `number`, as `in_round` has it, once the machine is quiet. What one leaves behind is
        over before the next comes."""
        if number and number % ROUNDS_OF_A_START == 0:
            for name in [name for name in self._running if name in CLOSE]:
                self._end(name)
                self._begin(name)
        wait_until_quiet()
        for name in in_round(self._names, number, others):
            with nullcontext(self._running[name][1]) if name in self._running else self._start(name) as relay:
                yield relay
            wait_until_at_rest()

    def _begin(self, name: str) -> None:
        with ExitStack() as stack:
            relay = stack.enter_context(self._start(name))
            self._running[name] = stack.pop_all(), relay

    def _end(self, name: str) -> None:
        self._running.pop(name)[0].close()


@contextmanager
def side_by_side(relays: Iterable[str], upstream_port: int, wiring: Wiring = PLAIN) -> Iterator[SideBySide]:
    """Starts those of `relays` that speak so, for all rounds: what the machine does in a round falls on all of them
    alike, and one that is idle takes nothing of it. A relay that is given a part of the load only does not stay beside
    the others, as it has work when it is idle."""

    def start(name: str) -> AbstractContextManager[Running]:
        return PEERS[name].start(upstream_port, wiring)

    started = SideBySide(those_that(relays, wiring), start)
    try:
        started.begin()
        yield started
    finally:
        started.close()


def those_that(relays: Iterable[str], wiring: Wiring) -> list[str]:
    """The ones of `relays` that speak so."""
    return [name for name in relays if PEERS[name].supports(wiring)]
