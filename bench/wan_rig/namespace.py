"""Network namespaces without names: each lives as long as its descriptor, or a program in it."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000

_SETTINGS = {
    # A connection starts as if it were the first one, whatever those before it have met.
    "ipv4/tcp_no_metrics_save": "1",
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv6/conf/default/disable_ipv6": "1",
}

_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network namespace that has its loopback and nothing else."""

    def __init__(self) -> None:
        with _coming_back():
            _check(_libc.unshare(_CLONE_NEWNET))
            self._descriptor = _own_namespace()
            try:
                for name, value in _SETTINGS.items():
                    with contextlib.suppress(FileNotFoundError):
                        Path("/proc/sys/net", name).write_text(value)
                _ip("link set lo up")
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """It vanishes with the last program in it."""
        os.close(self._descriptor)

    @property
    def path(self) -> str:
        """For `nsenter --net=PATH`, while this process runs."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is in the namespace. No `await` in here, other tasks would be in it too."""
        with _coming_back():
            _check(_libc.setns(self._descriptor, _CLONE_NEWNET))
            yield

    def add_device(self, name: str, address: str, *, mtu: int) -> int:
        """A TUN device with an address such as 10.0.0.1/30. Returns its descriptor, with which it vanishes. Every
        packet has a header of virtio in front."""
        with self.entered():
            descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR)
                fcntl.ioctl(descriptor, _TUNSETIFF, request)
                # The queue is long: packets are to be dropped by the link, never because it was late to fetch them.
                _ip(f"address add {address} dev {name}", f"link set {name} mtu {mtu} txqueuelen 20000 up")
            except BaseException:
                os.close(descriptor)
                raise
        return descriptor


def why_not() -> str | None:
    """Why there can be no rig on this machine; None: there can."""
    if shutil.which("ip") is None:
        return "there is no ip (iproute2)"
    try:
        namespace = Namespace()
    except (OSError, subprocess.CalledProcessError) as problem:
        return f"no network namespace can be made: {problem}"
    try:
        os.close(namespace.add_device("probe", "198.18.0.1/30", mtu=1500))
    except (OSError, subprocess.CalledProcessError) as problem:
        return f"no TUN device can be made: {problem}"
    finally:
        namespace.close()
    return None


@contextlib.contextmanager
def _coming_back() -> Iterator[None]:
    """Whatever namespace the calling thread enters in here, it is back in its own one afterwards."""
    home = _own_namespace()
    try:
        yield
    finally:
        _check(_libc.setns(home, _CLONE_NEWNET))
        os.close(home)


def _own_namespace() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _check(status: int) -> None:
    if status:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _ip(*commands: str) -> None:
    """Runs them in the namespace that the thread is in."""
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True, capture_output=True)
