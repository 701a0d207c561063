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
from bench.provider import Provider, Streams, simulator
from bench.wan import bulk
from bench.wan_rig import Joint, Link, Namespace, Rig

C = TypeVar("C", bound=Connection)

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Stage:
    """Two places that a link joins: the client is at the near one, the provider at the far one, relays are beside one
    of the two. `port` is the provider's."""

    near: Namespace
    far: Namespace
    joint: Joint
    port: int
    relays_are_near: bool = True

    @contextmanager
    def start(self, name: str, *, keeps: bool = True) -> Iterator[Running]:
        """A relay in front of the provider; it ends with the context. `keeps` its connections to the provider."""
        place, provider = (self.near, self.joint.far) if self.relays_are_near else (self.far, _LOOPBACK)
        wiring = Wiring(keeps=keeps, listen="0.0.0.0", provider_host=provider, uploads=True)
        with ExitStack() as stack:
            with place.entered():
                relay = stack.enter_context(PEERS[name].start(self.port, wiring))
            yield relay

    def connect(self, relay: Running, make: Callable[..., C]) -> C:
        """A connection of the client to the relay, or to the provider itself; `make` is its class."""
        is_near = relay.pid is not None and self.relays_are_near
        with self.near.entered():
            return make(relay.port, host=_LOOPBACK if is_near else self.joint.far)


@dataclass(frozen=True, slots=True)
class Simulator:
    """The package's simulator at a stage's far place. It is asked there, without any distance."""

    provider: Provider
    place: Namespace

    def streams(self) -> Streams:
        with self.place.entered():
            return self.provider.streams()

    def forget(self) -> None:
        with self.place.entered():
            self.provider.forget()


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
def simulator_stage(round_trip: float, *, relays_are_near: bool = True) -> Iterator[tuple[Stage, Simulator]]:
    """The package's simulator as the provider, so many seconds away from the client."""
    with _joined(Link(round_trip / 2)) as (rig, joint), ExitStack() as stack:
        with rig["far"].entered():
            provider = stack.enter_context(simulator("0.0.0.0"))
        stage = Stage(rig["near"], rig["far"], joint, provider.port, relays_are_near)
        yield stage, Simulator(provider, rig["far"])
