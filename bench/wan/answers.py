"""Whole answers from a distant provider, and uploads to it: how long they take, over a new connection to the provider
and over one that carried the same before."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.client import Connection, request
from bench.figures import rotated
from bench.peers import Running
from bench.wan.findings import Findings, size_in_words, trip_in_words
from bench.wan.stage import Stage, bulk_stage

READ_SIZE = 1 << 20

SILENCE = 120.0
"""Seconds without a byte after which the bench gives up."""

DRAWN = 20_000_000
"""Bytes from which on the throughput is drawn."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`sizes` and `upload` in bytes; times in seconds. After `longest` an answer is given up, and the time that all of
    it takes is told from the part that came."""

    round_trips: tuple[float, ...] = (0.01, 0.05, 0.2)
    sizes: tuple[int, ...] = (20_000, 200_000, 2_000_000, 20_000_000)
    upload: int = 20_000_000
    longest: float = 20
    rounds: int = 3


QUICK = Settings(round_trips=(0.05,), sizes=(20_000, 2_000_000), upload=2_000_000, longest=5, rounds=1)


class Asker(Connection):
    """Sends requests, one at a time, and waits for the whole answer, which has a length."""

    __slots__ = ()

    def __init__(self, port: int, *, host: str) -> None:
        super().__init__(port, host=host)
        self.socket.settimeout(SILENCE)

    def ask(self, message: bytes, longest: float) -> float:
        """The share of the answer that is missing when the time is over; 0: nothing. Raises RuntimeError if it is not
        answered with 200, TimeoutError if nothing comes."""
        deadline = time.monotonic() + longest
        self.socket.sendall(message)
        head, body = self._head()
        whole = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        missing = whole - len(body)
        while missing > 0 and time.monotonic() < deadline:
            missing -= len(self._read())
        return missing / whole

    def _head(self) -> tuple[bytes, bytes]:
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._read()
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"expected a 200 answer, got {head!r}")
        return head, body

    def _read(self) -> bytes:
        data = self.socket.recv(READ_SIZE)
        if not data:
            raise RuntimeError("the connection was closed before the answer's end")
        return data


def measure(relays: Sequence[str], settings: Settings, findings: Findings) -> None:
    """Both ways for each of `relays`, in turn."""
    for round_trip in settings.round_trips:
        with bulk_stage(round_trip) as stage:
            for number in range(settings.rounds):
                for name in rotated(relays, number):
                    with stage.start(name, keeps=False) as relay:
                        _measure_new(stage, relay, round_trip, settings, findings)
                    with stage.start(name) as relay:
                        _measure_kept(stage, relay, round_trip, settings, findings)


def _messages(settings: Settings) -> list[tuple[str, int, bytes]]:
    """What is measured, its bytes, and the request for it."""
    wanted = [
        (f"answer of {size_in_words(size)}", size, request(f"whole={size}", stream=False)) for size in settings.sizes
    ]
    head = (
        "POST /v1/files HTTP/1.1\r\nhost: bench\r\ncontent-type: application/octet-stream\r\n"
        f"authorization: Bearer bench\r\ncontent-length: {settings.upload}\r\n\r\n"
    )
    upload = head.encode() + b"x" * settings.upload
    return [*wanted, (f"upload of {size_in_words(settings.upload)}", settings.upload, upload)]


def _measure_new(stage: Stage, relay: Running, round_trip: float, settings: Settings, findings: Findings) -> None:
    for what, _, message in _messages(settings):
        started = time.monotonic()
        asker = stage.connect(relay, Asker)
        taken = _taken(asker, message, started, settings.longest)
        asker.leave(reset=True)
        findings.figures.add(relay.name, f"{what} {trip_in_words(round_trip)}, new connection", "ms", taken * 1e3)


def _measure_kept(stage: Stage, relay: Running, round_trip: float, settings: Settings, findings: Findings) -> None:
    for what, size, message in _messages(settings):
        asker = stage.connect(relay, Asker)
        taken = _taken(asker, message, time.monotonic(), settings.longest)
        if taken < settings.longest:
            taken = _taken(asker, message, time.monotonic(), settings.longest)
        asker.leave(reset=True)
        findings.figures.add(relay.name, f"{what} {trip_in_words(round_trip)}, kept connection", "ms", taken * 1e3)
        if size >= DRAWN:
            findings.point(relay.name, what, "MB/s", "round trip in ms", (round_trip * 1e3, size / 1e6 / taken))


def _taken(asker: Asker, message: bytes, started: float, longest: float) -> float:
    """Seconds that the whole answer takes; projected if it is given up."""
    missing = asker.ask(message, longest)
    taken = time.monotonic() - started
    return taken / (1 - missing)
