"""Namespaces, and the links between them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Self

from bench.processes import python_module, repository
from bench.wan_rig.link import Link
from bench.wan_rig.namespace import Namespace

MTU = 1500

STOP_TIMEOUT = 3.0
"""Seconds that a forwarder may take to end."""


class Joint:
    """A link that joins two namespaces. `near` and `far` are the addresses of the two."""

    def __init__(self, near: str, far: str, process: subprocess.Popen[bytes]) -> None:
        self.near = near
        self.far = far
        self._process = process

    @property
    def pid(self) -> int:
        """The forwarder's."""
        return self._process.pid

    def outage(self, seconds: float) -> float:
        """From now on everything is dropped for so long, also what is under way. Returns when it ends
        (CLOCK_MONOTONIC)."""
        until = time.monotonic() + seconds
        self._tell({"cut": until})
        return until

    def change(self, link: Link) -> None:
        """So is the link from now on."""
        self._tell({"link": asdict(link)})

    def _tell(self, command: dict[str, object]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()

    def wait_until_it_carries(self) -> None:
        """Raises RuntimeError if it does not come to that."""
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError("the link's forwarder has ended")

    def close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class Rig:
    """Namespaces of the given names, and what joins them. A context manager that removes everything.

    Programs in the namespaces are to be ended before that: one that runs on keeps its namespace."""

    def __init__(self, *names: str) -> None:
        self._stack = contextlib.ExitStack()
        self._joints = 0
        self._spaces: dict[str, Namespace] = {}
        with contextlib.ExitStack() as made:
            for name in names:
                self._spaces[name] = Namespace()
                made.callback(self._spaces[name].close)
            self._stack = made.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __getitem__(self, name: str) -> Namespace:
        return self._spaces[name]

    def join(self, near: str, far: str, link: Link, *, seed: int = 1) -> Joint:
        """Join two namespaces. `seed` decides which packets are lost or late."""
        number = self._joints
        self._joints += 1
        addresses = [f"198.18.{number}.{host}" for host in (1, 2)]
        with contextlib.ExitStack() as own:
            devices = []
            for space, address in zip((near, far), addresses, strict=True):
                device = self._spaces[space].add_device(f"link{number}", f"{address}/30", mtu=MTU)
                own.callback(os.close, device)
                devices.append(device)
            joint = Joint(addresses[0], addresses[1], _start_forwarder(devices, link, seed))
        self._stack.callback(joint.close)
        joint.wait_until_it_carries()
        return joint


def _start_forwarder(devices: Sequence[int], link: Link, seed: int) -> subprocess.Popen[bytes]:
    """It has descriptors of its own afterwards."""
    options = ["--devices", *map(str, devices), "--link", json.dumps(asdict(link)), "--seed", str(seed)]
    return subprocess.Popen(
        python_module("bench.wan_rig.forwarder", *options),
        cwd=repository(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=devices,
        start_new_session=True,
    )
