"""Which worker gets the next connection, and what becomes of those that none can take."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.workers.load import ADOPTED, CONNECTIONS, STREAMS, LoadTable, WorkerLoad
from flowserver.workers.spread import MAX_PENDING, Acceptor, Spread, Taker

from ..support.lab import eventually


class FakeTaker:
    """A worker's channel."""

    def __init__(self) -> None:
        self.is_full = False
        self.given: list[socket.socket] = []

    def give(self, connections: list[socket.socket]) -> None:
        self.given += connections


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(0, 300))
def test_new_connections_even_out_what_is_there(before: list[int], arriving: int) -> None:
    """As far as they can: none is given to one that has more than another."""
    table = LoadTable(len(before))
    spread, loads = Spread(table), [WorkerLoad(table, number) for number in range(len(before))]
    counts = list(before)
    for load, count in zip(loads, counts, strict=True):
        load.changed(count)
    for _ in range(arriving):
        chosen = spread.choose(range(len(before)))
        assert chosen is not None
        assert counts[chosen] == min(counts)
        counts[chosen] += 1
        loads[chosen].adopt(1)
        assert spread.load(chosen) == counts[chosen]
        loads[chosen].changed(counts[chosen])
        loads[chosen].arrived()
        assert spread.load(chosen) == counts[chosen]


def test_streams_count_where_they_are_more() -> None:
    table = LoadTable(2)
    spread = Spread(table)
    table.write(0, CONNECTIONS, 1)
    table.write(0, STREAMS, 100)
    table.write(1, CONNECTIONS, 50)
    for _ in range(2):
        spread.settle()
    assert spread.choose([0, 1]) == 1
    assert (spread.load(0), spread.load(1)) == (100, 51)


@pytest.mark.parametrize("workers", [2, 4])
def test_connections_whose_streams_are_yet_to_come_are_spread_by_number(workers: int) -> None:
    """Some have all of their streams when the next one comes, some have none."""
    table = LoadTable(workers)
    spread = Spread(table)
    for burst in range(1, 4):
        for number in range(8):
            chosen = spread.choose(range(workers))
            assert chosen is not None
            table.write(chosen, STREAMS, table.read(chosen, STREAMS) + (100 if number % 3 else 0))
        assert [spread.pending(worker) for worker in range(workers)] == [8 * burst // workers] * workers
        for worker in range(workers):
            table.write(worker, STREAMS, 100 * spread.pending(worker))
        spread.settle()
        spread.settle()


def test_a_new_worker_gets_connections_until_it_has_as_many_streams() -> None:
    table = LoadTable(2)
    spread = Spread(table)
    table.write(0, CONNECTIONS, 4)
    table.write(0, STREAMS, 400)
    for _ in range(2):
        spread.settle()
    assert [spread.choose([0, 1]) for _ in range(4)] == [1] * 4
    assert {spread.choose([0, 1]) for _ in range(2)} == {0, 1}


def test_what_is_under_way_counts_too() -> None:
    spread = Spread(LoadTable(3))
    assert sorted(str(spread.choose([0, 1, 2])) for _ in range(9)) == [*"000111222"]


def test_equals_take_turns_though_all_has_ended() -> None:
    """Connections that are gone at once leave no trace but who had them."""
    table = LoadTable(2)
    spread = Spread(table)
    chosen = []
    for number in range(10):
        chosen.append(spread.choose([0, 1]))
        table.write(number % 2, ADOPTED, number // 2 + 1)
    assert chosen.count(0) == 5


def test_a_worker_that_adopts_nothing_gets_a_bounded_number() -> None:
    table = LoadTable(2)
    spread = Spread(table)
    for _ in range(MAX_PENDING):
        assert spread.choose([0]) == 0
    assert spread.room([0]) == 0
    assert spread.choose([0]) is None
    assert spread.choose([0, 1]) == 1
    spread.reset(0)
    assert spread.choose([0]) == 0, "a new process"


def test_the_limit_of_connections_holds_over_all_workers() -> None:
    table = LoadTable(3)
    loads = [WorkerLoad(table, number) for number in range(3)]
    for number, load in enumerate(loads):
        load.changed(number + 1)
    assert [load.elsewhere() for load in loads] == [5, 4, 3]


class Scene:
    def __init__(self, workers: int = 2) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.listening.setblocking(False)
        self.spread = Spread(LoadTable(workers))
        self.all = {number: FakeTaker() for number in range(workers)}
        self.complaints: list[OSError] = []
        self.clients: list[socket.socket] = []

    def accept(self, listening: socket.socket | None = None) -> Acceptor:
        def takers() -> dict[int, Taker]:
            return {**self.all}

        sockets = [listening or self.listening]
        loop = asyncio.get_running_loop()
        return Acceptor(loop, sockets, self.spread, takers, self.complaints.append)

    def connect(self, count: int) -> None:
        self.clients += [socket.create_connection(self.listening.getsockname()) for _ in range(count)]

    def shares(self) -> list[int]:
        return [len(taker.given) for taker in self.all.values()]

    def close(self) -> None:
        given = (each for taker in self.all.values() for each in taker.given)
        for each in (self.listening, *self.clients, *given):
            each.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.close()


async def test_connections_are_shared_out(scene: Scene) -> None:
    acceptor = scene.accept()
    scene.connect(10)
    await eventually(lambda: scene.shares() == [5, 5])
    acceptor.close()


async def test_a_full_channel_is_passed_over(scene: Scene) -> None:
    acceptor = scene.accept()
    scene.all[0].is_full = True
    scene.connect(4)
    await eventually(lambda: scene.shares() == [0, 4])
    acceptor.close()


async def test_without_anybody_to_take_them_connections_wait_in_the_kernel(scene: Scene) -> None:
    acceptor = scene.accept()
    for taker in scene.all.values():
        taker.is_full = True
    scene.connect(3)
    await asyncio.sleep(0.05)
    assert scene.shares() == [0, 0]
    scene.all[1].is_full = False
    await eventually(lambda: scene.shares() == [0, 3])
    acceptor.close()


async def test_what_a_dead_worker_did_not_get_goes_to_another(scene: Scene) -> None:
    acceptor = scene.accept()
    scene.connect(2)
    await eventually(lambda: scene.shares() == [1, 1])
    unsent = scene.all.pop(0).given
    scene.all[1].is_full = True
    acceptor.take(unsent)
    await asyncio.sleep(0.05)
    assert len(scene.all[1].given) == 1
    scene.all[1].is_full = False
    await eventually(lambda: len(scene.all[1].given) == 2)
    acceptor.close()


async def test_what_waits_at_the_end_is_taken(scene: Scene) -> None:
    acceptor, address = scene.accept(), scene.listening.getsockname()
    scene.connect(6)
    acceptor.close()
    assert scene.shares() == [3, 3]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


class Exhausted:
    """A listening socket for which no descriptor is free, so many times."""

    def __init__(self, listening: socket.socket, times: int) -> None:
        self._listening = listening
        self.times = times

    def fileno(self) -> int:
        return self._listening.fileno()

    def close(self) -> None:
        self._listening.close()

    def accept(self) -> tuple[socket.socket, object]:
        if self.times:
            self.times -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self._listening.accept()


async def test_running_out_of_descriptors_is_told_once_and_waited_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowserver.workers.spread.EXHAUSTED", 0.05)
    acceptor = scene.accept(Exhausted(scene.listening, 3))  # type: ignore[arg-type]
    scene.connect(1)
    await eventually(lambda: sum(scene.shares()) == 1)
    assert [error.errno for error in scene.complaints] == [errno.EMFILE]
    acceptor.close()
