"""From addresses to listening sockets."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterable

from ..config.addresses import Address
from ..net.send_queue import limit_unsent

BACKLOG = 4096
"""Connections that may wait until they are accepted. What comes beyond is dropped by the kernel, and tried again by its
client after a second."""

_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)
"""Errors of a system without IPv6."""


class ListenError(Exception):
    """An address can't be listened on; the text says which, and why."""


def listen(addresses: Iterable[Address], *, notsent_lowat: int | None) -> list[socket.socket]:
    """Returns a listening socket for each address, in their order. `notsent_lowat` is for their connections: see
    `limit_unsent`; None leaves it to the kernel. Raises ListenError if an address can't be used, and then leaves no
    socket open."""
    with contextlib.ExitStack() as undo:
        sockets = []
        for address in addresses:
            try:
                listening = _bind(address, notsent_lowat)
            except (OSError, UnicodeError) as error:  # the latter: no name of a host
                raise ListenError(f"can't listen on {address}: {getattr(error, 'strerror', None) or error}") from None
            undo.callback(listening.close)
            sockets.append(listening)
        undo.pop_all()
    return sockets


def address_of(listening: socket.socket) -> Address:
    """Where `listening` listens, with its real port."""
    host, port = listening.getsockname()[:2]
    return Address(host, port)


def _bind(address: Address, notsent_lowat: int | None) -> socket.socket:
    if address.host:
        return _listen(socket.AF_INET6 if ":" in address.host else socket.AF_INET, address, notsent_lowat)
    try:
        return _listen(socket.AF_INET6, Address("::", address.port), notsent_lowat, both=True)
    except OSError as error:
        if error.errno not in _NO_IPV6:
            raise
    return _listen(socket.AF_INET, Address("0.0.0.0", address.port), notsent_lowat)


def _listen(
    family: socket.AddressFamily, address: Address, notsent_lowat: int | None, *, both: bool = False
) -> socket.socket:
    """`both`: an IPv6 socket takes IPv4 clients too, whatever the system's default is."""
    with contextlib.ExitStack() as undo:
        listening = socket.socket(family, socket.SOCK_STREAM)
        undo.callback(listening.close)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if both:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if notsent_lowat is not None:
            limit_unsent(listening, notsent_lowat)
        listening.bind((address.host, address.port))
        listening.listen(BACKLOG)
        listening.setblocking(False)
        undo.pop_all()
    return listening
