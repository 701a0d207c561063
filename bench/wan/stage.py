"""Where a part plays: client, relay and provider, and the link that is between two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from bench.client import Connection
from bench.cores import LOAD_CORES
from bench.peers import PEERS, Running, Wiring
from bench.processes import Process, free_port
from bench.provider import simulator
from bench.wan import bulk
from bench.wan_rig import Joint, Link, Namespace, Rig

C = TypeVar("C", bound=Connection)

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Stage:
    """Two places that a link joins: client and relays are at the near one, the provider at the far one. `port` is the
    provider's."""

    near: Namespace
    far: Namespace
    joint: Joint
    port: int

    @contextmanager
    def start(self, name: str, *, keeps: bool = True) -> Iterator[Running]:
        """A relay in front of the provider; it ends with the context. `keeps` its connections to the provider."""
        wiring = Wiring(keeps=keeps, provider_host=self.joint.far, uploads=True)
        with ExitStack() as stack:
            with self.near.entered():
                relay = stack.enter_context(PEERS[name].start(self.port, wiring))
            yield relay

    def connect(self, relay: Running, make: Callable[..., C]) -> C:
        """A connection of the client to the relay, or to the provider itself; `make` is its class."""
        with self.near.entered():
            return make(relay.port, host=_LOOPBACK if relay.pid is not None else self.joint.far)


@contextmanager
def _joined(link: Link) -> Iterator[tuple[Rig, Joint]]:
    with Rig("near", "far") as rig:
        yield rig, rig.join("near", "far", link)


@contextmanager
def bulk_stage(round_trip: float) -> Iterator[Stage]:
    """A provider of large bodies so many seconds away from client and relays."""
    with _joined(Link(round_trip / 2)) as (rig, joint), ExitStack() as stack:
        with rig["far"].entered():
            port = free_port()
            stack.enter_context(Process(bulk.command(port), port, cpus=LOAD_CORES))
        yield Stage(rig["near"], rig["far"], joint, port)


@contextmanager
def simulator_stage(round_trip: float) -> Iterator[Stage]:
    """The package's simulator as the provider, likewise."""
    with _joined(Link(round_trip / 2)) as (rig, joint), ExitStack() as stack:
        with rig["far"].entered():
            provider = stack.enter_context(simulator("0.0.0.0"))
        yield Stage(rig["near"], rig["far"], joint, provider.port)
