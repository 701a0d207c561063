"""The on/off of reading, with its reasons."""

from __future__ import annotations

from flowserver.net.read_pause import ReadPause


class Transport:
    def __init__(self) -> None:
        self.log: list[str] = []
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.log.append("pause")

    def resume_reading(self) -> None:
        self.log.append("resume")


def test_reading_goes_on_when_the_last_reason_is_gone() -> None:
    transport = Transport()
    reads = ReadPause(transport)
    reads.pause(1)
    reads.pause(2)
    reads.pause(1)
    reads.resume(1)
    assert (transport.log, reads.reasons) == (["pause"], 2)
    reads.resume(2)
    reads.resume(2)
    assert (transport.log, reads.reasons) == (["pause", "resume"], 0)


def test_a_reason_that_does_not_hold_changes_nothing() -> None:
    transport = Transport()
    reads = ReadPause(transport)
    reads.resume(1)
    reads.pause(2)
    reads.resume(1)
    assert transport.log == ["pause"]


def test_a_transport_that_is_closing_is_not_read_again() -> None:
    transport = Transport()
    reads = ReadPause(transport)
    reads.pause(1)
    transport.closing = True
    reads.resume(1)
    assert transport.log == ["pause"]
