"""What to do about an address that can't be listened on."""

from __future__ import annotations

import errno
import os

from ..config.addresses import Address
from ..net.port_holder import holder_of


def listen_remedy(address: Address, code: int | None) -> str:
    """The remedy for the message about `address`; `code` is the system's errno, None if the error has none."""
    if code == errno.EADDRINUSE:
        holder = holder_of(address.port, address.path)
        if holder is None and address.path:
            return "remove the file, or choose another path"
        return f"end {holder or 'the process that uses it'}, or choose another address"
    folder = os.path.dirname(address.path)
    if code == errno.EACCES:
        if folder:
            return f"let user {os.geteuid()} write to {folder}, or choose another path"
        return "choose a port above 1023, or grant CAP_NET_BIND_SERVICE (AmbientCapabilities= of systemd)"
    if code == errno.ENOENT and folder:
        return f"create the folder {folder} (RuntimeDirectory= of systemd)"
    if code == errno.EAFNOSUPPORT:
        return "this system has no IPv6; choose an IPv4 address"
    if code == errno.EADDRNOTAVAIL:
        return "this machine has no such address; choose one of its own, or :PORT for all interfaces"
    return "choose another address"
