"""Clients that leave: how long it takes until the provider knows.

In each situation all clients are brought to the same state, and then leave one after the other, by a close (a FIN, as
long as all that came was read) or by a reset. The time is from the client's close() to the moment at which the
provider's connection is lost. A provider that does not accept is a listening socket with a full queue: it never
knows of anything, so there it is the end of the relay's own connection attempt that counts.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from bench.client import READ_SIZE, Client, Connection, drain, request
from bench.figures import CaseResult, Collector, rotated
from bench.peers import PEERS, Running
from bench.processes import free_port, process_tree, wait_until_quiet
from bench.provider import Provider, Streams, simulator
from bench.stats import percentile

SPACING = 0.005
"""Seconds between two clients that leave."""

PATIENCE = 5.0
"""Seconds that are waited for a provider to know, and counted for one that does not."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`clients` leave in each situation and each way."""

    clients: int = 100
    rounds: int = 3


QUICK = Settings(clients=50, rounds=1)


@dataclass(frozen=True, slots=True)
class Situation:
    """A state that a stream is in when its client leaves.

    `simulate` is the simulator's script that leads there, `holds` recognises it in the simulator's records, `limit` is
    how many bytes the client reads, `spacing` the seconds between two clients that leave.
    """

    name: str
    simulate: str
    holds: Callable[[Streams], bool]
    limit: int = 1 << 60
    spacing: float = SPACING


def _in_state(*states: str) -> Callable[[Streams], bool]:
    return lambda streams: all(stream["state"] in states for stream in streams.values())


SITUATIONS = (
    Situation("before the first byte", "delay=600", _in_state("waiting")),
    Situation("provider silent", "events=0 rate=50 silence_after=3", _in_state("silent")),
    Situation("mid-stream", "events=0 rate=50", _in_state("streaming")),
    Situation("gate shut", "events=0 rate=0", _in_state("paused"), limit=32 * 1024),
    Situation("mid-stream, all at once", "events=0 rate=50", _in_state("streaming"), spacing=0),
)

WAYS = {"close": False, "reset": True}
"""How a client leaves -> whether it resets its connection."""


class Leaver(Connection):
    """Reads up to `limit` bytes."""

    __slots__ = ("limit",)

    def __init__(self, port: int, limit: int) -> None:
        super().__init__(port)
        self.limit = limit

    def room(self) -> int:
        return min(READ_SIZE, self.limit - self.received)


def run(relays: Sequence[str], settings: Settings) -> CaseResult:
    """Every situation and way for each of `relays`, in turn, `settings.rounds` times."""
    collector = Collector()
    with simulator() as provider, _deaf_provider() as deaf_port:
        for number in range(settings.rounds):
            for name in rotated(relays, number):
                wait_until_quiet()
                with PEERS[name].start(deaf_port) as relay:
                    _leave_while_connecting(relay, deaf_port, settings, collector)
                with PEERS[name].start(provider.port) as relay:
                    for situation, way in product(SITUATIONS, WAYS):
                        _leave(relay, provider, situation, way, settings, collector)
    return CaseResult(
        "abort",
        f"{settings.clients} clients leave, one every {SPACING * 1e3:g} ms: time until the provider knows",
        {"clients": settings.clients, "spacing": SPACING},
        collector.figures(),
        (
            f"{PATIENCE * 1e3:g} ms: the provider never knew.",
            "While connecting: until the relay's connection attempt is gone, since the provider never saw it.",
            "Gate shut: the kernel makes a reset of a close with bytes unread, so close and reset are the same there.",
        ),
    )


def _collect(relay: Running, situation: str, way: str, times: Sequence[float], collector: Collector) -> None:
    """`times` in seconds."""
    collector.add(relay.name, f"{situation}, {way}, p50", "ms", percentile(times, 50) * 1e3)
    collector.add(relay.name, f"{situation}, {way}, p99", "ms", percentile(times, 99) * 1e3)


def _leave(
    relay: Running, provider: Provider, situation: Situation, way: str, settings: Settings, collector: Collector
) -> None:
    provider.forget()
    with Client[Leaver]() as client:
        leavers = _bring_there(client, relay, provider, situation, settings.clients)
        left = {}
        for name, leaver in leavers.items():
            client.run(situation.spacing)
            client.forget(leaver)
            if situation.limit > leaver.received:
                drain(leaver)
            left[name] = time.monotonic()
            leaver.leave(reset=WAYS[way])
        streams = provider.wait(lambda streams: len(_cancelled(streams, left)) == len(left), PATIENCE)
    cancelled = _cancelled(streams, left)
    times = [cancelled[name] - at if name in cancelled else PATIENCE for name, at in left.items()]
    _collect(relay, situation.name, way, times, collector)


def _bring_there(
    client: Client[Leaver], relay: Running, provider: Provider, situation: Situation, clients: int
) -> dict[str, Leaver]:
    """So many clients in the situation, by the names of their streams."""
    leavers = {f"leaver-{number}": Leaver(relay.port, situation.limit) for number in range(clients)}
    for name, leaver in leavers.items():
        client.add(leaver).send(request(f"id={name} {situation.simulate}"))

    def there(streams: Streams) -> bool:
        client.run(0.3)
        present = {name: stream for name, stream in streams.items() if name in leavers}
        return len(present) == len(leavers) and situation.holds(present)

    if not there(provider.wait(there, 20)):
        raise RuntimeError(f"{relay.name}: not all streams became {situation.name}")
    client.run(0.5)
    return leavers


def _cancelled(streams: Streams, names: Iterable[str]) -> dict[str, float]:
    """When those were cancelled that are."""
    at = {name: streams[name]["cancelled"] for name in names if name in streams}
    return {name: moment for name, moment in at.items() if moment is not None}


# --- while connecting ---


@contextmanager
def _deaf_provider() -> Iterator[int]:
    """The port of a listening socket whose queue is full: the kernel drops each further SYN."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", free_port()))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        time.sleep(0.1)
        yield listener.getsockname()[1]


def _leave_while_connecting(relay: Running, deaf_port: int, settings: Settings, collector: Collector) -> None:
    if relay.pid is None:
        return
    for way, reset in WAYS.items():
        clients: list[Connection] = []
        attempts: dict[Path, str] = {}
        known = _attempts(deaf_port)
        for _ in range(settings.clients):
            connection = Connection(relay.port)
            connection.send(request())
            socket_name = _new_attempt(deaf_port, known)
            known.add(socket_name)
            clients.append(connection)
            attempts[_descriptor(relay.pid, socket_name)] = socket_name
        times = [_time_to_give_up(client, attempts, reset=reset) for client in clients]
        _collect(relay, "while connecting", way, times, collector)


def _attempts(port: int) -> set[str]:
    """The sockets, as /proc names them, that try to connect to `port` (SYN-SENT)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if row[3] == "02" and row[2].endswith(f":{port:04X}")}


def _new_attempt(port: int, known: set[str]) -> str:
    """The one that is not yet known."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if new := _attempts(port) - known:
            return new.pop()
        time.sleep(0.002)
    raise RuntimeError("the relay is not connecting to its provider")


def _descriptor(pid: int, socket_name: str) -> Path:
    """Where /proc shows the relay's hold on the socket."""
    for member in process_tree(pid):
        for descriptor in Path(f"/proc/{member}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(descriptor) == socket_name:
                    return descriptor
    raise RuntimeError(f"no descriptor of the relay has {socket_name}")


def _time_to_give_up(connection: Connection, attempts: dict[Path, str], *, reset: bool) -> float:
    """Seconds until the relay closes one of its connecting sockets, or PATIENCE if it closes none. Any of them counts,
    because waiting requests share connection attempts."""
    left = time.monotonic()
    connection.leave(reset=reset)
    while (now := time.monotonic()) < left + PATIENCE:
        for descriptor, socket_name in attempts.items():
            if _link(descriptor) != socket_name:
                del attempts[descriptor]
                return now - left
    return PATIENCE


def _link(descriptor: Path) -> str | None:
    try:
        return os.readlink(descriptor)
    except OSError:
        return None
