"""What a listener does with all of its connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from flowserver.downstream.clients_by_address import UNKNOWN, Client
from flowserver.downstream.context import ListenerContext
from flowserver.downstream.listener import Listener

from ..support.clock import FakeClock
from ..support.dialogue import listener_context
from ..support.h1_client import Instant


class Open:
    """A `context.Connection`."""

    client: Client = UNKNOWN

    def __init__(self, *, breaks: bool) -> None:
        self.breaks = breaks
        self.looks = self.aborts = 0

    def sweep(self, now: float) -> None:
        self.looks += 1
        if self.breaks:
            raise ValueError("broken")

    def drain(self) -> None: ...

    def end_drain(self) -> None: ...

    def abort(self) -> None:
        self.aborts += 1


@pytest.fixture
def context() -> ListenerContext:
    return listener_context(Instant().open_exchange, clock=FakeClock())


@pytest.fixture
def connections(context: ListenerContext) -> list[Open]:
    connections = [Open(breaks=number == 4) for number in range(10)]
    for each in connections:
        context.connections.add(each)
    return connections


def test_a_connection_that_fails_when_it_is_looked_at_is_ended(
    context: ListenerContext, connections: list[Open]
) -> None:
    with pytest.raises(ValueError, match="broken"):
        list(Listener(context).sweep())
    assert [each.aborts for each in connections] == [int(each.breaks) for each in connections]


def test_each_step_is_one_connection_and_none_that_is_gone(context: ListenerContext, connections: list[Open]) -> None:
    connections[4].breaks = False
    look = Listener(context).sweep()
    next(look)
    assert sum(each.looks for each in connections) == 1
    left = next(each for each in connections if not each.looks)
    context.connections.discard(left)
    assert len(list(look)) == 8
    assert not left.looks


@pytest.mark.parametrize("error", [ConnectionAbortedError, RuntimeError])
async def test_a_connection_that_cannot_be_adopted_is_closed_and_no_longer_counted(
    context: ListenerContext, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    class Failing:
        async def connect_accepted_socket(self, factory: object, connection: socket.socket) -> None:
            raise error

    monkeypatch.setattr(asyncio, "get_running_loop", Failing)
    ours, theirs = socket.socketpair()
    arrived: list[bool] = []
    listener = Listener(context)
    with theirs, contextlib.nullcontext() if error is ConnectionAbortedError else pytest.raises(error):
        listener.adopt(ours, lambda: arrived.append(True))
    monkeypatch.undo()
    assert (arrived, listener.connections, ours.fileno()) == ([True], 0, -1)
