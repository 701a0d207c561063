"""A worker's end of the socket to the parent: calls, each with an answer, and events, in order, in both directions.

A late answer fails only its own call. When the socket is lost, all calls fail, and there is no other socket: a worker
whose parent is gone ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from ..quota.limits import StoreUnavailable
from .frames import BrokenFrame, FrameReader, Message, pack

STEPS = 10
"""Steps of a deadline; see `ParentChannel`."""

EVENT = 0
"""Marks an event, in place of a call's number."""
CLIENTS = -1
"""Marks events of clients, in place of a provider's number."""


class ParentChannel(asyncio.Protocol):
    """The worker's end. `event` gets the parent's events, without the zero; `lost` is called once, at the end.

    One timer measures the time of calls in steps, each of which begins when the end of the previous one was noticed: in
    between the event loop reads its sockets, where the answer may be, so a busy loop does not count.
    """

    def __init__(self, deadline: float, *, event: Callable[[Message], None], lost: Callable[[], None]) -> None:
        """`deadline` in seconds."""
        self._loop = asyncio.get_running_loop()
        self._step = deadline / STEPS
        self._steps = 0
        self._timer: asyncio.TimerHandle | None = None
        self._event = event
        self._lost = lost
        self._frames = FrameReader()
        self._calls: dict[int, tuple[asyncio.Future[Message], int]] = {}
        """By number, the oldest first, with the step at which each is late."""
        self._last = EVENT
        self._transport: asyncio.Transport | None = None

    def __repr__(self) -> str:
        return f"<ParentChannel {'open' if self.is_open else 'closed'}: {len(self._calls)} calls under way>"

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    async def call(self, *call: Any) -> Message:
        """Make a call. Returns the answer. Raises StoreUnavailable."""
        if self._transport is None:
            raise StoreUnavailable("the parent process is gone")
        self._last += 1
        self._transport.write(pack([self._last, *call]))
        answer: asyncio.Future[Message] = self._loop.create_future()
        self._calls[self._last] = answer, self._steps + STEPS
        if self._timer is None:
            self._timer = self._loop.call_later(self._step, self._on_step)
        return await answer

    def tell(self, *event: Any) -> None:
        """Send an event. Harmless if the parent is gone."""
        if self._transport is not None:
            self._transport.write(pack([EVENT, *event]))

    def close(self) -> None:
        """Close it: no callback is called any more, not even `lost`."""
        self._event, self._lost = _ignore, _nothing
        self._end("the connection to the parent process was closed here")

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._frames.feed(data)
        except BrokenFrame as error:
            self._end(f"the parent process sent {error}")
            return
        for message in messages:
            number = message.pop(0)
            if number == EVENT:
                self._event(message)
            elif (call := self._calls.pop(number, None)) is not None and not call[0].done():
                call[0].set_result(message)

    def connection_lost(self, error: Exception | None) -> None:
        self._end("the parent process is gone")

    # --- inside ---

    def _on_step(self) -> None:
        self._timer = None
        self._steps += 1
        for number, (answer, late) in list(self._calls.items()):
            if late > self._steps:
                break
            del self._calls[number]
            if not answer.done():
                answer.set_exception(StoreUnavailable("no answer from the parent process in time"))
        if self._calls:
            self._timer = self._loop.call_later(self._step, self._on_step)

    def _end(self, why: str) -> None:
        transport, self._transport = self._transport, None
        if transport is None:
            return
        transport.abort()
        if self._timer is not None:
            self._timer.cancel()
        calls, self._calls = self._calls, {}
        for answer, _ in calls.values():
            if not answer.done():
                answer.set_exception(StoreUnavailable(why))
        self._lost()


def _ignore(event: Message) -> None: ...


def _nothing() -> None: ...
