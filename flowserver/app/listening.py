"""The sockets at which a process listens: one or more for clients, and one for the admin pages."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from ..config.parsers import Auto
from ..config.settings import Config, ConfigError
from ..downstream.listening import ListenError, listen
from ..net.send_queue import UNSENT


@dataclass(frozen=True, slots=True)
class ListeningSockets:
    """Sockets that are bound and listen."""

    clients: tuple[socket.socket, ...]
    admin: socket.socket | None
    """None: there are no admin pages."""

    def close(self) -> None:
        for listening in (*self.clients, self.admin):
            if listening is not None:
                listening.close()


def listening_sockets(config: Config) -> ListeningSockets:
    """Bind FLOW_ADMIN_LISTEN and FLOW_LISTEN. Raises ConfigError if an address can't be used; none is bound then."""
    lowat = UNSENT if isinstance(config.notsent_lowat, Auto) else config.notsent_lowat
    admin: list[socket.socket] = []
    setting = "FLOW_ADMIN_LISTEN"
    try:
        if config.admin_listen is not None:
            admin = listen((config.admin_listen,), notsent_lowat=lowat)
        setting = "FLOW_LISTEN"
        clients = listen(config.listen, notsent_lowat=lowat)
    except ListenError as error:
        for listening in admin:
            listening.close()
        raise ConfigError([f"{setting}: {error}"]) from None
    return ListeningSockets(tuple(clients), admin[0] if admin else None)
