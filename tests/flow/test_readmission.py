"""What was kept out comes back at a rate that grows."""

from __future__ import annotations

from itertools import pairwise

from flowserver.flow.readmission import FEW, LEAST, Readmission


def _seconds(readmission: Readmission, first: int, seconds: int, *, rate: int, is_limited: bool = True) -> list[int]:
    """How many of `rate` per second come in, in each second."""
    return [
        sum(readmission.admits(first + second + n / rate, is_limited=is_limited) for n in range(rate))
        for second in range(seconds)
    ]


def test_without_a_shortage_all_come_in() -> None:
    assert _seconds(Readmission(), 0, 3, rate=1000, is_limited=False) == [1000] * 3


def test_those_who_come_in_anyway_still_do() -> None:
    readmission = Readmission()
    _seconds(readmission, 0, 5, rate=300, is_limited=False)
    assert min(_seconds(readmission, 5, 5, rate=300)) >= 299


def test_others_come_in_at_a_rate_that_grows() -> None:
    readmission = Readmission()
    _seconds(readmission, 0, 5, rate=50, is_limited=False)
    admitted = _seconds(readmission, 5, 20, rate=1000)
    assert admitted[0] <= 3 * 50
    assert all(a < b < 1.5 * a for a, b in pairwise(admitted[1:]) if b < 990)
    assert admitted[-1] == 1000


def test_a_few_always_do() -> None:
    readmission = Readmission()
    assert all(readmission.admits(1.0, is_limited=True) for _ in range(int(FEW)))
    assert not readmission.admits(1.0 + 0.5 / LEAST, is_limited=True)
    assert readmission.admits(1.0 + 1.1 / LEAST, is_limited=True)
    assert readmission.admits(100.0, is_limited=True)
