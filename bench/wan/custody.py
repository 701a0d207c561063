"""What a relay holds for a slow reader, in its own memory and in its kernel's queues, as the time that the reader takes
for it: how old a token is when it is read.

The provider sends as fast as it is let. The reader's own kernel holds little, so that it is the relay that waits. Each
reader has a relay of its own, and all of them run at once.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

from bench.background import in_background
from bench.client import Client, request
from bench.figures import rotated
from bench.peers import Running
from bench.processes import process_tree
from bench.stats import percentile
from bench.wan.findings import Findings, size_in_words, trip_in_words
from bench.wan.reader import Reader, read_for
from bench.wan.stage import Stage, simulator_stage
from bench.wan_rig import Namespace

SAMPLE = 0.05
"""Seconds between two looks."""

RECEIVE_BUFFER = 4096
"""SO_RCVBUF of a reader, at least."""

AHEAD = 0.02
"""Seconds that a fast reader's kernel may hold: with less it would not come to its pace."""

FIRST_EVENT = 30.0
"""Seconds that are waited for it."""

AGE = 0.5
"""Seconds that a token may be old."""

SPARE = 4096
"""Bytes that a relay may hold beyond one event, however slow its reader is."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`paces` in bytes/s, `sizes` of events in bytes, the others in seconds. Within `warm_up` the slowest reader has
    read what was queued before its pace could be known."""

    round_trips: tuple[float, ...] = (0, 0.05)
    paces: tuple[float, ...] = (5_000, 50_000, 1_000_000)
    sizes: tuple[int, ...] = (300, 1000)
    warm_up: float = 20
    window: float = 10
    rounds: int = 1


QUICK = Settings(round_trips=(0.05,), paces=(50_000, 1_000_000), sizes=(1000,), warm_up=3, window=3)


@dataclass(slots=True)
class Watch:
    """A reader of events of `size` bytes behind a relay of its own, and what that relay held for it."""

    relay: Running
    reader: Reader
    pace: float
    size: int
    sockets: frozenset[str] = frozenset()
    """Inodes of the relay's sockets."""
    held: list[tuple[float, int]] = field(default_factory=list)
    """(CLOCK_MONOTONIC, bytes)"""
    _admin: HTTPConnection | None = None

    def begin(self) -> None:
        """The relay has the connection to the provider. To be called in its namespace."""
        assert self.relay.pid is not None
        self.sockets = frozenset(_sockets(self.relay.pid))
        if self.relay.admin is not None:
            self._admin = HTTPConnection("127.0.0.1", self.relay.admin, timeout=10)
            self._admin.connect()

    def look(self, queues: dict[str, tuple[int, int]]) -> None:
        """`queues` has the bytes to be sent to a client, and to be read from a provider, by inode."""
        queued = sum(sum(queues.get(inode, (0, 0))) for inode in self.sockets)
        self.held.append((time.monotonic(), queued + self._in_memory()))

    def end(self) -> None:
        if self._admin is not None:
            self._admin.close()

    def _in_memory(self) -> int:
        """Bytes that flowserver itself holds; 0 for others, which do not tell."""
        if self._admin is None:
            return 0
        self._admin.request("GET", "/streams")
        return sum(stream["held_bytes"] for stream in json.loads(self._admin.getresponse().read()))


def measure(relays: Sequence[str], settings: Settings, findings: Findings) -> None:
    """Readers of all paces and sizes behind each of `relays`."""
    between = [name for name in relays if name != "direct"]
    for round_trip in settings.round_trips:
        with simulator_stage(round_trip) as (stage, _):
            for number in range(settings.rounds):
                with ExitStack() as stack, Client[Reader]() as client:
                    watches = [
                        _start(stack.enter_context(stage.start(name)), pace, size, stage, client)
                        for pace in settings.paces
                        for size in settings.sizes
                        for name in rotated(between, number)
                    ]
                    _play(stage.near, client, watches, settings)
                    for watch in watches:
                        _tell(watch, round_trip, settings, findings)


def _start(relay: Running, pace: float, size: int, stage: Stage, client: Client[Reader]) -> Watch:
    receive_buffer = max(RECEIVE_BUFFER, int(pace * AHEAD))
    reader = client.add(stage.connect(relay, partial(Reader, rate=0, receive_buffer=receive_buffer)))
    return Watch(relay, reader, pace, size)


def _play(place: Namespace, client: Client[Reader], watches: Sequence[Watch], settings: Settings) -> None:
    """All read at once, and are looked at."""
    readers = [watch.reader for watch in watches]
    for watch in watches:
        watch.reader.start(watch.pace)
        watch.reader.send(request(f"events=0 rate=0 size={watch.size}"))
    deadline = time.monotonic() + FIRST_EVENT
    while not all(reader.body.size for reader in readers):
        if time.monotonic() > deadline:
            raise RuntimeError("a relay passed no event")
        read_for(client, readers, SAMPLE)
    for watch in watches:
        with place.entered():
            watch.begin()
    with in_background(lambda stop: _look(place, watches, stop)):
        read_for(client, readers, settings.warm_up + settings.window)
    for watch in watches:
        watch.end()


def _look(place: Namespace, watches: Sequence[Watch], stop: threading.Event) -> None:
    """Every `SAMPLE` seconds."""
    with place.entered():
        while not stop.wait(SAMPLE):
            queues = _queues()
            for watch in watches:
                watch.look(queues)


def _tell(watch: Watch, round_trip: float, settings: Settings, findings: Findings) -> None:
    relay = watch.relay.name
    load = f"{watch.size} B at {size_in_words(watch.pace)}/s, {trip_in_words(round_trip)}"
    begun, ended = watch.held[0][0], watch.held[-1][0]
    for moment, held in watch.held:
        tenth = round(moment - begun, 1)
        findings.point(relay, f"custody, {load}", "s", "seconds", (tenth, held / watch.pace))
    most = percentile([held for moment, held in watch.held if moment >= ended - settings.window], 99)
    findings.figures.add(relay, f"custody p99, {load}", "s", most / watch.pace)
    findings.figures.add(relay, f"custody p99 in bytes, {load}", "KB", most / 1024)
    findings.figures.add(relay, f"custody of the aim, {load}", "%", 100 * most / allowed(watch.pace, watch.size))
    findings.figures.add(relay, f"read of the pace, {load}", "%", 100 * watch.reader.share_read())


def allowed(pace: float, size: int) -> float:
    """Bytes that may be held for a reader of `pace` bytes/s and events of `size` bytes: the aim."""
    return max(AGE * pace, size + SPARE)


def _sockets(pid: int) -> Iterator[str]:
    """Inodes of the sockets of a process and its descendants."""
    for member in process_tree(pid):
        for descriptor in Path(f"/proc/{member}/fd").iterdir():
            with suppress(FileNotFoundError):
                kind, _, inode = os.readlink(descriptor).partition(":")
                if kind == "socket":
                    yield inode.strip("[]")


def _queues() -> dict[str, tuple[int, int]]:
    """Bytes to be sent and to be read of each TCP connection in the thread's namespace, by inode."""
    queues = {}
    for line in Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        to_send, to_read = fields[4].split(":")
        queues[fields[9]] = (int(to_send, 16), int(to_read, 16))
    return queues
