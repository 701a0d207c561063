"""`python -m bench.wan_rig.forwarder`: carries packets between two TUN devices, as a `Link` says.

Both devices come as descriptors. A line on stdout says that it has begun. A line on stdin is JSON: {"link": {...}} is
how the link is from now on, {"cut": ...} the time (CLOCK_MONOTONIC, seconds) until which everything is dropped. The end
of stdin ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gc
import json
import os
import select
import time

from bench.wan_rig.link import Direction, Link

AT_ONCE = 64
"""Packets of one direction that are fetched before the other one gets its turn."""

LARGEST = 65_536 + 10
"""Bytes of a packet, with the header of virtio."""

STDIN = 0

_TUNSETOFFLOAD = 0x400454D0
_OFFLOADS = 0x01 | 0x02
"""TUN_F_CSUM and TUN_F_TSO4."""


class Forwarder:
    """Carries packets until stdin ends."""

    def __init__(self, devices: tuple[int, int], link: Link, seed: int) -> None:
        one, other = devices
        self._control = b""
        self._cut_until = 0.0
        self._directions = (
            (one, other, Direction(link, seed)),
            (other, one, Direction(link, seed + 1)),
        )
        self._set(link)

    def run(self) -> None:
        sources = [STDIN, *(source for source, _, _ in self._directions)]
        while True:
            # select() waits for microseconds, where epoll rounds up to a millisecond.
            readable, _, _ = select.select(sources, (), (), self._pause())
            if STDIN in readable and not self._listen():
                return
            for source, target, direction in self._directions:
                if source in readable:
                    self._fetch(source, direction)
                self._deliver(target, direction)

    def _set(self, link: Link) -> None:
        for device, _, direction in self._directions:
            direction.link = link
            fcntl.ioctl(device, _TUNSETOFFLOAD, _OFFLOADS if link.joins_segments else 0)

    def _pause(self) -> float | None:
        """Seconds until the next packet arrives."""
        due = [direction.waiting[0][0] for _, _, direction in self._directions if direction.waiting]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _listen(self) -> bool:
        """False at the end of stdin."""
        data = os.read(STDIN, 4096)
        *lines, self._control = (self._control + data).split(b"\n")
        for line in lines:
            command = json.loads(line)
            if "link" in command:
                self._set(Link(**command["link"]))
            else:
                self._cut_until = command["cut"]
                for _, _, direction in self._directions:
                    direction.cut()
        return bool(data)

    def _fetch(self, source: int, direction: Direction) -> None:
        now = time.monotonic()
        is_cut = now < self._cut_until
        with contextlib.suppress(BlockingIOError):
            for _ in range(AT_ONCE):
                packet = os.read(source, LARGEST)
                if not is_cut:
                    direction.take(packet, now)

    def _deliver(self, target: int, direction: Direction) -> None:
        waiting = direction.waiting
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            # A packet that the kernel does not take is lost, as on any network.
            with contextlib.suppress(OSError):
                os.write(target, waiting.popleft()[1])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.wan_rig.forwarder", description=__doc__.split("\n")[0])
    parser.add_argument("--devices", nargs=2, type=int, required=True, help="descriptors")
    parser.add_argument("--link", type=json.loads, required=True, help="fields of Link, as JSON")
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    # The lowest numbers that are free: select() takes none from 1024 on.
    one, other = (os.dup(descriptor) for descriptor in arguments.devices)
    gc.disable()  # there are no cycles, and a collection would be a late packet
    forwarder = Forwarder((one, other), Link(**arguments.link), arguments.seed)
    print(flush=True)
    forwarder.run()


if __name__ == "__main__":
    main()
