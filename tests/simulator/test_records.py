"""What is remembered, and for how long."""

from __future__ import annotations

from flowserver.simulator.records import Records, RequestHead, StreamRecord


class Wire:
    def __init__(self, unsent: int = 0, unacknowledged: int = 0) -> None:
        self.left = (unsent, unacknowledged)

    def unsent(self) -> int:
        return self.left[0]

    def unacknowledged(self) -> int:
        return self.left[1]


def made(number: int, wire: Wire | None = None) -> StreamRecord:
    return StreamRecord(number, str(number), head=RequestHead("POST", "/", {}), started=0.0, wire=wire or Wire())


def test_accepted_is_what_the_kernel_has_and_acknowledged_what_arrived() -> None:
    record = made(1, Wire(unsent=100, unacknowledged=50))
    record.bytes_written = 1000
    assert (record.bytes_accepted, record.bytes_acknowledged) == (900, 850)
    record.detach(30, 20)
    assert (record.bytes_accepted, record.bytes_acknowledged) == (970, 950)


def test_what_is_forgotten_stays_in_the_totals() -> None:
    records = Records(kept=2)
    for number in range(5):
        record = made(number)
        record.events, record.bytes_written = 1, 10
        records.add(record)
        if number:
            records.finished(record)
    assert [record.number for record in records] == [0, 3, 4]
    totals = records.totals()
    assert [totals[name] for name in ("open", "events", "bytes_written", "bytes_accepted")] == [1, 5, 50, 50]
    assert records.forget_finished() == 2
    assert [record.number for record in records] == [0]
    assert records.totals()["events"] == 5
