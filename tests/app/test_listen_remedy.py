"""What is said of an address that can't be listened on."""

from __future__ import annotations

import errno
import os

import pytest

from flowserver.app.listen_remedy import listen_remedy
from flowserver.config.addresses import Address

PORT, LOW, SOCKET = Address("", 8080), Address("", 443), Address("", 0, "/run/none/a.sock")


@pytest.mark.parametrize(
    ("address", "code", "remedy"),
    [
        (LOW, errno.EACCES, "choose a port above 1023"),
        (SOCKET, errno.EACCES, f"let user {os.geteuid()} write to /run/none"),
        (SOCKET, errno.ENOENT, "create the folder /run/none"),
        (SOCKET, errno.EADDRINUSE, "remove the file"),
        (Address("", 1), errno.EADDRINUSE, "end the process that uses it, or choose another address"),
        (Address("::1", 8080), errno.EAFNOSUPPORT, "this system has no IPv6; choose an IPv4 address"),
        (Address("192.0.2.1", 8080), errno.EADDRNOTAVAIL, "choose one of its own"),
        (PORT, None, "choose another address"),
    ],
)
def test_each_error_has_its_remedy(address: Address, code: int | None, remedy: str) -> None:
    assert remedy in listen_remedy(address, code)
