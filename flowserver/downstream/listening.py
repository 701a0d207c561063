"""From addresses to listening sockets."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from ..config.addresses import Address
from ..net import reuse_port
from ..net.send_queue import limit_unsent
from .unix_socket import SocketFile, listen_on_path

BACKLOG = 4096
"""Connections that may wait to be accepted. The kernel drops further ones, which their clients retry after a second."""

_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)
"""Errors on a system without IPv6."""


class ListenError(Exception):
    """`address` can't be listened on; the text says why. `may_pass`: whether that may change by itself, for example
    because another program uses it. `code` is the system's errno; None if there is none."""

    def __init__(self, text: str, address: Address, *, may_pass: bool, code: int | None) -> None:
        super().__init__(text)
        self.address = address
        self.may_pass = may_pass
        self.code = code


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """Options of listening sockets."""

    notsent_lowat: int | None = None
    """For their connections: see `limit_unsent`. None: the kernel's default."""
    reuse_port: bool = False
    """Whether other processes of this user may listen on the same address (SO_REUSEPORT)."""
    is_owners: bool = False
    """Whether a Unix socket is only for this user, not for its group."""


def listen(addresses: Iterable[Address], options: SocketOptions) -> list[socket.socket]:
    """Returns a listening socket for each address, in their order. Raises ListenError if an address can't be used, and
    then leaves no socket open."""
    with contextlib.ExitStack() as undo:
        sockets = []
        for address in addresses:
            try:
                listening = _bind(address, options)
            except (OSError, UnicodeError) as error:  # UnicodeError: not a valid host name
                reason = getattr(error, "strerror", None) or error
                may_pass = not isinstance(error, UnicodeError | PermissionError)
                code = getattr(error, "errno", None)
                text = f"can't listen on {address}: {reason}"
                raise ListenError(text, address, may_pass=may_pass, code=code) from None
            undo.callback(listening.close)
            file = file_of(listening)
            if file is not None:
                undo.callback(file.remove)
            sockets.append(listening)
        undo.pop_all()
    return sockets


def file_of(listening: socket.socket) -> SocketFile | None:
    """The file of a Unix socket; None if there is none."""
    if listening.family != socket.AF_UNIX:
        return None
    try:
        return SocketFile(listening.getsockname())
    except OSError:
        return None


def address_of(listening: socket.socket) -> Address:
    """The address of `listening`, with its actual port."""
    name = listening.getsockname()
    return Address("", 0, name) if listening.family == socket.AF_UNIX else Address(*name[:2])


def _bind(address: Address, options: SocketOptions) -> socket.socket:
    if address.path:
        return listen_on_path(address.path, BACKLOG, is_owners=options.is_owners)
    if address.host:
        return _listen(socket.AF_INET6 if ":" in address.host else socket.AF_INET, address, options)
    try:
        return _listen(socket.AF_INET6, Address("::", address.port), options, both=True)
    except OSError as error:
        if error.errno not in _NO_IPV6:
            raise
    return _listen(socket.AF_INET, Address("0.0.0.0", address.port), options)


def _listen(
    family: socket.AddressFamily, address: Address, options: SocketOptions, *, both: bool = False
) -> socket.socket:
    """`both`: an IPv6 socket also accepts IPv4 clients, whatever the system's default."""
    with contextlib.ExitStack() as undo:
        listening = socket.socket(family, socket.SOCK_STREAM)
        undo.callback(listening.close)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if both:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if options.notsent_lowat is not None:
            limit_unsent(listening, options.notsent_lowat)
        if options.reuse_port:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind((address.host, address.port))
        listening.listen(BACKLOG)
        listening.setblocking(False)
        if options.reuse_port:
            reuse_port.join(listening)
        undo.pop_all()
    return listening
