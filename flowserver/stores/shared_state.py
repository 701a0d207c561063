"""The state that a worker shares with others: limits, and providers' places, breakers and cooldowns."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from functools import partial

from ..routing.provider_share import ProviderShare
from .frames import Message
from .shared_channel import CLIENTS, ParentChannel
from .shared_clients import ClientShare
from .shared_store import SharedStore

DEADLINE = 0.5
"""Seconds for a call. A dead parent is noticed at once; this is for one that hangs, and it may pause to fork."""


class SharedState:
    """State shared through the parent, while `is_open`. `store` is a `LimitStore`."""

    __slots__ = ("_channel", "_clients", "_shares", "store")

    def __init__(self, deadline: float) -> None:
        self._channel = ParentChannel(deadline, event=self._on_event, lost=self._on_lost)
        self._clients: ClientShare | None = None
        self._shares: list[ProviderShare] = []
        """The index in this list is the provider's number."""
        self.store = SharedStore(self._channel)

    def __repr__(self) -> str:
        return f"<SharedState of {len(self._shares)} providers over {self._channel}>"

    @property
    def is_open(self) -> bool:
        return self._channel.is_open

    @property
    def channel(self) -> ParentChannel:
        return self._channel

    def provider(self, key: str, *, failures: int, cooldown: float) -> ProviderShare:
        """This worker's part of the provider with this shared `key`. For the others see `CircuitBreaker`."""
        number = len(self._shares)
        tell: Callable[..., None] = partial(self._channel.tell, number)
        loop = asyncio.get_running_loop()
        share = ProviderShare(tell, failures=failures, cooldown=cooldown, clock=time.monotonic, later=loop.call_soon)
        self._shares.append(share)
        tell("join", key, failures, cooldown)
        if not self._channel.is_open:
            share.lost()
        return share

    def clients(self, most: int) -> ClientShare:
        """This worker's part of what clients have open; each may have `most`. Call this once."""
        self._clients = ClientShare(partial(self._channel.tell, CLIENTS), most)
        return self._clients

    async def close(self) -> None:
        """Close the socket, which releases what this worker holds."""
        self._channel.close()
        self._on_lost()

    def _on_event(self, event: Message) -> None:
        if event[0] != CLIENTS:
            self._shares[event[0]].hear(*event[1:])
        elif self._clients is not None:
            self._clients.hear(*event[1:])

    def _on_lost(self) -> None:
        for share in self._shares:
            share.lost()
        if self._clients is not None:
            self._clients.lost()


async def connect(sock: socket.socket, *, deadline: float = DEADLINE) -> SharedState:
    """Connect a worker over a socket that `SharedStoreServer` serves. `deadline` in seconds, of each call."""
    state = SharedState(deadline)
    await asyncio.get_running_loop().create_unix_connection(lambda: state.channel, sock=sock)
    return state
