"""The relays under test behind one interface.

A further one is a module here and one entry in `PEERS`. Each is set up as its manual advises for streams, with one
process or thread that does the work and no access log.
"""

from __future__ import annotations

from collections.abc import Iterable

from bench.figures import rotated
from bench.peers.base import PLAIN, Certificate, Direct, Peer, Running, Wiring, certificate
from bench.peers.caddy import CADDY_PEER
from bench.peers.envoy import ENVOY_PEER
from bench.peers.flowserver import Flowserver
from bench.peers.haproxy import HAPROXY_PEER
from bench.peers.litellm import LITELLM_PEER
from bench.peers.nginx import NGINX_PEER

__all__ = ["PEERS", "PLAIN", "Certificate", "Peer", "Running", "Wiring", "certificate", "in_round", "those_that"]

PEERS: dict[str, Peer] = {
    peer.name: peer for peer in (Flowserver(), NGINX_PEER, HAPROXY_PEER, ENVOY_PEER, CADDY_PEER, LITELLM_PEER, Direct())
}


CLOSE = ("flowserver", "nginx")
"""The two that are near each other: it takes rounds to tell how near."""


def in_round(relays: Iterable[str], number: int, others: int | None) -> list[str]:
    """Who is measured in round `number`, in its order: all of `relays` in the first `others` rounds (None: in all),
    then those that are CLOSE. A relay that is given a part of the load only is so far off that one round tells."""
    return [
        name
        for name in rotated(relays, number)
        if name in CLOSE or ((others is None or number < others) and (number == 0 or PEERS[name].share == 1))
    ]


def those_that(relays: Iterable[str], wiring: Wiring) -> list[str]:
    """The ones of `relays` that speak so."""
    return [name for name in relays if PEERS[name].supports(wiring)]
