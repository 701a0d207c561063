"""What every `relay.interfaces.UpstreamStream` does."""

from __future__ import annotations

import pytest

from .rigs import MARKS, UPSTREAM, UpstreamRig


@pytest.fixture(params=UPSTREAM, ids=lambda rig: rig.__name__)
def rig(request: pytest.FixtureRequest) -> UpstreamRig:
    made = request.param()
    assert isinstance(made, UpstreamRig)
    return made


def test_an_answer_comes_and_ends(rig: UpstreamRig) -> None:
    rig.open()
    rig.stream.send_end()
    rig.provider_answers()
    rig.provider_sends(b"hel")
    rig.provider_sends(b"lo")
    assert rig.events.log == ["head 200", "data", "data"]
    rig.provider_ends()
    assert rig.events.log == ["head 200", "data", "data", "end"]
    assert rig.events.body == b"hello"
    assert rig.events.heads[0].content_length is None


def test_names_of_headers_are_in_lower_case(rig: UpstreamRig) -> None:
    rig.open()
    rig.stream.send_end()
    rig.provider_answers()
    assert all(name == name.lower() for name, _ in rig.events.heads[0].headers)


def test_an_empty_answer_of_known_length_ends_with_its_head(rig: UpstreamRig) -> None:
    rig.open()
    rig.stream.send_end()
    rig.provider_answers(length=0)
    assert rig.events.log == ["head 200", "end"]
    assert rig.events.heads[0].content_length == 0


def test_the_end_gives_the_provider_back_unharmed(rig: UpstreamRig) -> None:
    rig.open()
    rig.stream.send_end()
    rig.provider_answers(length=0)
    rig.stream.cancel()
    assert not rig.is_cancelled


@pytest.mark.parametrize("length", [None, 5])
def test_a_request_s_body_goes_out(rig: UpstreamRig, length: int | None) -> None:
    rig.open(has_body=True, length=length)
    rig.stream.send_data(b"hel")
    rig.stream.send_data(b"lo")
    assert rig.request() == (b"hello", False) or length is not None
    rig.stream.send_end()
    assert rig.request() == (b"hello", True)


def test_a_provider_that_does_not_read_is_told_once_and_loses_nothing(rig: UpstreamRig) -> None:
    rig.open(has_body=True)
    rig.provider_stops_reading()
    sent = b""
    while "full" not in rig.events.log:
        rig.stream.send_data(b"%0100d" % len(sent))
        sent += b"%0100d" % len(sent)
        assert len(sent) <= MARKS.high + 1000
    rig.stream.send_data(b"one read more")
    rig.stream.send_end()
    rig.provider_reads()
    assert rig.events.log == ["full", "drained"]
    assert rig.request() == (sent + b"one read more", True)


def test_a_pause_holds_the_answer_back(rig: UpstreamRig) -> None:
    rig.open()
    rig.stream.send_end()
    rig.provider_answers()
    rig.stream.pause_reading()
    rig.stream.pause_reading()
    for _ in range(100):
        rig.provider_sends(b"x" * 10_000)
    assert len(rig.events.body) <= 64 * 1024
    rig.stream.resume_reading()
    rig.stream.resume_reading()
    rig.deliver()
    assert rig.events.body == b"x" * 1_000_000


@pytest.mark.parametrize("when", ["asked", "uploading", "head", "data"])
def test_a_provider_that_breaks_off_is_told_once_and_as_no_end(rig: UpstreamRig, when: str) -> None:
    rig.open(has_body=when == "uploading")
    if when == "uploading":
        rig.stream.send_data(b"x")
    else:
        rig.stream.send_end()
    if when in ("head", "data"):
        rig.provider_answers()
    if when == "data":
        rig.provider_sends(b"x")
    rig.provider_breaks_off()
    assert rig.events.log[-1] == "failed 502"
    assert rig.events.errors[0].end == "upstream_failed"
    told = list(rig.events.log)
    rig.stream.cancel()
    rig.stream.send_data(b"x")
    rig.stream.send_end()
    assert rig.events.log == told


@pytest.mark.parametrize("when", ["asked", "uploading", "head", "data", "paused"])
def test_a_cancelled_request_ends_the_provider_s_work_and_nothing_is_called_back(rig: UpstreamRig, when: str) -> None:
    rig.open(has_body=when == "uploading")
    if when != "uploading":
        rig.stream.send_end()
    if when in ("head", "data", "paused"):
        rig.provider_answers()
    if when in ("data", "paused"):
        rig.provider_sends(b"x")
    if when == "paused":
        rig.stream.pause_reading()
    told = list(rig.events.log)
    for _ in range(2):
        rig.stream.cancel()
        rig.stream.resume_reading()
        rig.stream.pause_reading()
        rig.stream.send_data(b"x")
        rig.stream.send_end()
    assert rig.is_cancelled
    rig.provider_breaks_off()
    assert rig.events.log == told
