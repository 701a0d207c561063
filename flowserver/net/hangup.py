"""Detects that a client has closed its connection while its transport is not being read.

A transport that does not read (its upload is held back, or the client closed its sending side) does not notice a close.
One epoll set for all such sockets does: the kernel always reports errors and hang-ups to it, and a FIN on request.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import Callable
from typing import Protocol


class HangupWatcher(Protocol):
    """Calls back once when a watched socket's connection is gone."""

    def watch(self, descriptor: int, callback: Callable[[], None], *, half_close: bool) -> None:
        """Call `callback` when the connection of `descriptor` is reset or closed in both directions; with `half_close`
        also when the client closes its sending side, though bytes may wait before its FIN."""

    def forget(self, descriptor: int, callback: Callable[[], None]) -> None:
        """The opposite of `watch` with the same arguments; harmless if it is not watched."""


class EpollHangups:
    """A `HangupWatcher` with an epoll set. On systems without epoll it never calls back; there the next write or the
    sweep notices."""

    __slots__ = ("_callbacks", "_epoll", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        if self._epoll is not None:
            loop.add_reader(self._epoll.fileno(), self._on_ready)

    @property
    def watched(self) -> int:
        """Number of watched connections."""
        return len(self._callbacks)

    def watch(self, descriptor: int, callback: Callable[[], None], *, half_close: bool) -> None:
        if self._epoll is None:
            return
        # The number may still be registered for a socket that is closed, whose protocol has not been told yet.
        self._callbacks[descriptor] = callback
        events = select.EPOLLRDHUP if half_close else 0  # EPOLLERR and EPOLLHUP are always reported
        try:
            self._epoll.register(descriptor, events)
        except FileExistsError:
            self._epoll.modify(descriptor, events)

    def forget(self, descriptor: int, callback: Callable[[], None]) -> None:
        if self._epoll is None or self._callbacks.get(descriptor) != callback:
            return
        del self._callbacks[descriptor]
        with contextlib.suppress(OSError):  # closed already, and so out of the set
            self._epoll.unregister(descriptor)

    def close(self) -> None:
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _on_ready(self) -> None:
        assert self._epoll is not None
        for descriptor, _ in self._epoll.poll(0):
            callback = self._callbacks.get(descriptor)
            if callback is None:
                self._epoll.unregister(descriptor)
                continue
            self.forget(descriptor, callback)
            callback()
