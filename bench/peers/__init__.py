"""The relays under test behind one interface.

A further one is a module here and one entry in `PEERS`. Each is set up as its manual advises for streams, with one
process or thread that does the work and no access log.
"""

from __future__ import annotations

from collections.abc import Iterable

from bench.peers.base import PLAIN, Certificate, Direct, Peer, Running, Wiring, certificate
from bench.peers.caddy import CADDY_PEER
from bench.peers.envoy import ENVOY_PEER
from bench.peers.flowserver import Flowserver
from bench.peers.haproxy import HAPROXY_PEER
from bench.peers.litellm import LITELLM_PEER
from bench.peers.nginx import NGINX_PEER

__all__ = ["PEERS", "PLAIN", "Certificate", "Peer", "Running", "Wiring", "certificate", "those_that"]

PEERS: dict[str, Peer] = {
    peer.name: peer for peer in (Flowserver(), NGINX_PEER, HAPROXY_PEER, ENVOY_PEER, CADDY_PEER, LITELLM_PEER, Direct())
}


def those_that(relays: Iterable[str], wiring: Wiring) -> list[str]:
    """The ones of `relays` that speak so."""
    return [name for name in relays if PEERS[name].supports(wiring)]
