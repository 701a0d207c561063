"""The sockets that a process listens on: one or more for clients, one for the admin pages, and one for control."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..config.addresses import Address
from ..config.errors import ConfigError, NotNowError
from ..config.parsers import Auto
from ..config.settings import Config
from ..downstream.listening import ListenError, SocketOptions, address_of, file_of, listen
from ..downstream.unix_socket import SocketFile
from ..net.send_queue import UNSENT, limit_unsent
from .inherited import ADMIN, CLIENTS, CONTROL, Inherited, PassedSocket
from .listen_remedy import listen_remedy


@dataclass(frozen=True, slots=True)
class ListeningSockets:
    """Sockets that are bound and listen."""

    clients: tuple[socket.socket, ...]
    admin: socket.socket | None
    """None: there are no admin pages."""
    control: socket.socket | None = None
    """None: there is no control socket."""
    files: tuple[SocketFile, ...] = ()
    """The files of Unix sockets, which are removed when nobody listens any more."""
    control_file: SocketFile | None = None
    """The file of the control socket, which listens until the end: a drain can be watched and cut short there."""

    def by_use(self) -> list[tuple[str, int]]:
        """Their descriptors by use, as `inherited` expects them; empty once they are closed."""
        uses = [(CLIENTS, listening) for listening in self.clients]
        uses += [(ADMIN, self.admin)] if self.admin is not None else []
        uses += [(CONTROL, self.control)] if self.control is not None else []
        return [(use, listening.fileno()) for use, listening in uses if listening.fileno() >= 0]

    def remove_files(self) -> None:
        """Remove the files, so that nobody connects any more. Call this while the sockets still listen."""
        for file in self.files:
            file.remove()

    def remove_control_file(self) -> None:
        """The same for the control socket."""
        if self.control_file is not None:
            self.control_file.remove()

    def close(self) -> None:
        for listening in (*self.clients, self.admin, self.control):
            if listening is not None:
                listening.close()


def listening_sockets(config: Config, given: Inherited | None = None) -> ListeningSockets:
    """The sockets that were passed to the process; FLOW_LISTEN, FLOW_ADMIN_LISTEN and FLOW_CONTROL_SOCKET are bound
    only if none was passed for them.

    Raises ConfigError if an address can't be used, or a passed socket does not fit the configuration, and NotNowError
    if an address may be free later; no socket is bound then.
    """
    lowat = UNSENT if isinstance(config.notsent_lowat, Auto) else config.notsent_lowat
    options = SocketOptions(lowat, config.reuse_port)
    passed = given.sockets if given is not None else ()
    clients = [each.listening for each in passed if _use(each, config) == CLIENTS]
    admin = [each.listening for each in passed if _use(each, config) == ADMIN]
    control = [each.listening for each in passed if _use(each, config) == CONTROL]
    _check_single("the admin pages", "FLOW_ADMIN_LISTEN", admin, config.admin_listen)
    _check_single("control", "FLOW_CONTROL_SOCKET", control, config.control_socket)
    if lowat is not None:
        for listening in (*clients, *admin):
            limit_unsent(listening, lowat)
    bound: list[socket.socket] = []
    setting = "FLOW_ADMIN_LISTEN"
    try:
        if not admin and config.admin_listen is not None:
            admin = listen((config.admin_listen,), options)
            bound += admin
        setting = "FLOW_CONTROL_SOCKET"
        if not control and config.control_socket is not None:
            control = listen((config.control_socket,), replace(options, is_owners=True))
            bound += control
        setting = "FLOW_LISTEN"
        if not clients:
            clients = listen(config.listen, options)
            bound += clients
    except ListenError as error:
        _close(bound)
        remedy = listen_remedy(error.address, error.code)
        raise (NotNowError if error.may_pass else ConfigError)([f"{setting}: {error}; {remedy}"]) from None
    # systemd removes the files of its own sockets.
    owned = bound if given is not None and passed and not given.is_successor else (*clients, *admin, *control)
    files = [(listening, file) for listening in owned if (file := file_of(listening)) is not None]
    return ListeningSockets(
        tuple(clients),
        admin[0] if admin else None,
        control[0] if control else None,
        files=tuple(file for listening, file in files if listening not in control),
        control_file=next((file for listening, file in files if listening in control), None),
    )


def _use(passed: PassedSocket, config: Config) -> str:
    """What a passed socket is for: by its name, or by its address; else for clients."""
    if passed.use is not None:
        return passed.use
    address = address_of(passed.listening)
    if address == config.control_socket:
        return CONTROL
    is_admin = config.admin_listen is not None and _is_same(address, config.admin_listen)
    return ADMIN if is_admin and not any(_is_same(address, each) for each in config.listen) else CLIENTS


def _is_same(address: Address, configured: Address) -> bool:
    return address == configured or (not configured.host and address == Address("::", configured.port))


def _check_single(what: str, setting: str, passed: Sequence[socket.socket], configured: Address | None) -> None:
    if len(passed) > 1:
        where = " and ".join(str(address_of(listening)) for listening in passed)
        raise ConfigError([f"two sockets were passed for {what}, {where}: expected one"])
    if passed and configured is None:
        text = f"{setting}: it is off, but a socket was passed for {what}"
        raise ConfigError([f"{text}, {address_of(passed[0])}; remove one of the two"])


def _close(sockets: Iterable[socket.socket]) -> None:
    for listening in sockets:
        listening.close()
