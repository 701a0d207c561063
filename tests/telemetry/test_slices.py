"""Long work in slices of the loop: no slice is long, one job at a time, shared by all who ask for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flowserver.telemetry.slices import SLICE, Slices

from ..support.clock import FakeClock


class Loop:
    """What `call_soon` was told, turn by turn."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.due: list[object] = []
        self.log: list[str] = []
        self.slices = Slices(self.due.append, self.clock)

    def turn(self) -> None:
        due = self.due.copy()
        self.due.clear()
        assert len(due) <= 1
        for call in due:
            call()  # type: ignore[operator]

    def turns(self) -> int:
        count = 0
        while self.due:
            self.turn()
            count += 1
        return count

    def work(self, pieces: int, seconds: float) -> Iterator[bytes]:
        for number in range(pieces):
            self.clock.advance(seconds)
            yield b"%d " % number

    def ask(self, name: bytes, pieces: int = 3, seconds: float = 0.0) -> None:
        def done(parts: list[bytes] | None) -> None:
            self.log.append(f"{name.decode()}: {b'failed' if parts is None else b''.join(parts)!r}")

        self.slices.ask(name, lambda: self.work(pieces, seconds), done)


def test_short_work_is_done_at_once() -> None:
    loop = Loop()
    loop.ask(b"a")
    assert loop.log == ["a: b'0 1 2 '"]
    assert not loop.due


def test_long_work_takes_a_slice_of_each_turn() -> None:
    loop = Loop()
    begin = loop.clock()
    loop.ask(b"a", 100, SLICE / 4)
    assert loop.clock() - begin <= SLICE * 1.001
    while loop.due:
        assert loop.log == []
        before = loop.clock()
        loop.turn()
        assert loop.clock() - before <= SLICE * 1.001
    assert loop.log == [f"a: {b''.join(b'%d ' % number for number in range(100))!r}"]


def test_jobs_come_one_after_the_other() -> None:
    loop = Loop()
    loop.ask(b"a", 10, SLICE)
    loop.ask(b"b", 10, SLICE)
    loop.ask(b"c", 1)
    assert loop.turns() >= 20
    assert [line[0] for line in loop.log] == ["a", "b", "c"]


def test_who_asks_for_what_is_under_way_shares_it() -> None:
    loop = Loop()
    loop.ask(b"a", 5, SLICE)
    loop.ask(b"b", 5, SLICE)
    loop.ask(b"a", 5, SLICE)
    loop.ask(b"b", 5, SLICE)
    begin = loop.clock()
    loop.turns()
    assert loop.clock() - begin < 10 * SLICE
    assert [line[0] for line in loop.log] == ["a", "a", "b", "b"]
    assert len(set(loop.log)) == 2
    loop.ask(b"a", 1)  # anew, as nothing of it is under way
    assert loop.log[-1] == "a: b'0 '"


def test_who_asks_again_when_an_answer_came_is_served() -> None:
    loop = Loop()
    answers: list[list[bytes] | None] = []

    def done(parts: list[bytes] | None) -> None:
        answers.append(parts)
        if len(answers) < 3:
            loop.slices.ask(b"a", lambda: loop.work(1, 0), done)

    loop.slices.ask(b"a", lambda: loop.work(1, 0), done)
    loop.turns()
    assert answers == [[b"0 "]] * 3


def test_work_that_fails_is_told_and_holds_up_nobody() -> None:
    loop = Loop()

    def failing() -> Iterator[bytes]:
        yield b"x"
        loop.clock.advance(SLICE)
        yield b"y"
        raise RuntimeError("no")

    answers: list[list[bytes] | None] = []
    loop.slices.ask(b"f", failing, answers.append)
    loop.ask(b"b", 1)
    with pytest.raises(RuntimeError):
        loop.turns()
    loop.turns()
    assert answers == [None]
    assert loop.log == ["b: b'0 '"]
