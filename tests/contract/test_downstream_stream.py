"""What every `relay.interfaces.DownstreamStream` does."""

from __future__ import annotations

import pytest

from flowserver.http.messages import ResponseHead

from .rigs import DOWNSTREAM, MARKS, DownstreamRig, head


@pytest.fixture(params=DOWNSTREAM, ids=lambda rig: rig.__name__)
def rig(request: pytest.FixtureRequest) -> DownstreamRig:
    made = request.param()
    assert isinstance(made, DownstreamRig)
    return made


def test_it_names_its_protocol(rig: DownstreamRig) -> None:
    rig.open()
    assert rig.stream.protocol in ("h1", "h2")


def test_a_request_without_a_body_ends_at_once(rig: DownstreamRig) -> None:
    rig.open()
    assert rig.events.log == ["end"]


def test_a_request_s_body_comes_and_ends(rig: DownstreamRig) -> None:
    rig.open(b"POST", has_body=True)
    rig.client_sends(b"hel")
    rig.client_sends(b"lo")
    assert rig.events.body == b"hello"
    assert "end" not in rig.events.log
    rig.client_ends()
    assert rig.events.log[-1] == "end"


@pytest.mark.parametrize("length", [None, 5])
def test_an_answer_goes_out_and_is_finished_once(rig: DownstreamRig, length: int | None) -> None:
    rig.open()
    rig.stream.send_head(head(length=length))
    rig.stream.send_data(b"hel")
    assert rig.answer().body == b"hel"
    rig.stream.send_data(b"lo")
    rig.stream.send_end()
    answer = rig.answer()
    assert (answer.status, answer.body, answer.whole) == (200, b"hello", True)
    assert answer.headers.get(b"content-length") == (None if length is None else b"5")
    assert rig.events.log == ["end", "finished"]
    assert rig.stream.writes == (2, 0)


def test_an_interim_answer_comes_first(rig: DownstreamRig) -> None:
    rig.open()
    rig.stream.send_interim(ResponseHead(103, [(b"link", b"x")]))
    rig.stream.send_head(head(length=0))
    rig.stream.send_interim(ResponseHead(103, []))
    rig.stream.send_end()
    assert (rig.answer().interim, rig.answer().whole) == ([103], True)


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
def test_an_answer_that_has_no_body_gets_none(rig: DownstreamRig, method: bytes, status: int) -> None:
    rig.open(method)
    rig.stream.send_head(head(status))
    rig.stream.send_data(b"dropped")
    rig.stream.send_end()
    answer = rig.answer()
    assert (answer.status, answer.body, answer.whole, answer.rest) == (status, b"", True, b"")


@pytest.mark.parametrize("length", [None, 5])
@pytest.mark.parametrize("body", [b"", b"hel"])
def test_a_broken_end_never_looks_clean(rig: DownstreamRig, length: int | None, body: bytes) -> None:
    rig.open()
    rig.stream.send_head(head(length=length))
    if body:
        rig.stream.send_data(body)
    rig.stream.break_off()
    assert rig.is_broken
    assert rig.answer().body == body
    assert rig.events.log == ["end"]  # nothing is called back


def test_a_client_that_does_not_read_is_told_once_and_loses_nothing(rig: DownstreamRig) -> None:
    rig.open()
    rig.stream.send_head(head())
    rig.client_stops_reading()
    sent = b""
    while "full" not in rig.events.log:
        rig.stream.send_data(b"%0100d" % len(sent))
        sent += b"%0100d" % len(sent)
        assert len(sent) < 100_000
    rig.stream.send_data(b"one read more")
    assert rig.stream.held <= MARKS.high + 1000
    assert rig.stream.writes[1] > 0
    rig.client_reads()
    assert rig.events.log == ["end", "full", "drained"]
    assert rig.answer().body == sent + b"one read more"
    rig.stream.send_end()
    assert rig.answer().whole
    assert rig.stream.held == 0


def test_full_and_drained_alternate(rig: DownstreamRig) -> None:
    rig.open()
    rig.stream.send_head(head())
    for _ in range(5):
        rig.client_stops_reading()
        for _ in range(30):
            rig.stream.send_data(b"x" * 100)
        rig.client_reads()
    assert rig.events.log == ["end", *["full", "drained"] * 5]


def test_what_the_client_does_not_take_has_an_age_until_it_does(rig: DownstreamRig) -> None:
    rig.open()
    rig.stream.send_head(head())
    held_since = [rig.stream.held_since]
    rig.client_stops_reading()
    rig.time_passes(5)
    rig.stream.send_data(b"x" * 2000)
    assert rig.events.log[-1] == "full"
    began = rig.now
    held_since.append(rig.stream.held_since)
    rig.time_passes(3)
    rig.stream.send_data(b"more")
    held_since.append(rig.stream.held_since)
    assert rig.stream.unacknowledged() >= 2004
    rig.client_reads()
    assert rig.events.log[-1] == "drained"
    assert [*held_since, rig.stream.held_since] == [None, began, began, None]
    assert rig.stream.unacknowledged() == 0


def test_the_client_s_own_seconds_are_those_of_its_receive_window(rig: DownstreamRig) -> None:
    rig.open()
    rig.stream.send_head(head())
    rig.stream.send_data(b"x")
    before = rig.stream.client_seconds(rig.now)
    rig.time_passes(5)
    rig.window_is_shut_for(3)
    after = rig.stream.client_seconds(rig.now)
    assert before is not None
    assert after is not None
    assert after - before == 3


def test_a_client_that_is_gone_has_nothing_held(rig: DownstreamRig) -> None:
    rig.open()
    rig.stream.send_head(head())
    rig.client_stops_reading()
    rig.stream.send_data(b"x" * 2000)
    assert rig.events.log[-1] == "full"
    rig.client_leaves()
    assert (rig.stream.held_since, rig.stream.unacknowledged()) == (None, 0)


def test_a_clean_end_waits_behind_the_data(rig: DownstreamRig) -> None:
    rig.open()
    rig.stream.send_head(head())
    rig.client_stops_reading()
    rig.stream.send_data(b"x" * 2000)
    rig.stream.send_data(b"last")
    rig.stream.send_end()
    assert "finished" not in rig.events.log
    rig.client_reads()
    assert rig.events.log.count("finished") == 1
    assert rig.answer().body.endswith(b"xlast")


def test_a_broken_end_waits_behind_the_data(rig: DownstreamRig) -> None:
    rig.open()
    rig.stream.send_head(head())
    rig.client_stops_reading()
    rig.stream.send_data(b"x" * 2000)
    rig.stream.send_data(b"last")
    rig.stream.break_off()
    rig.client_reads()
    assert rig.answer().body.endswith(b"xlast")
    assert rig.is_broken
    assert "finished" not in rig.events.log


@pytest.mark.parametrize("when", ["asked", "head", "data", "waiting", "ending"])
def test_a_client_that_leaves_is_told_once(rig: DownstreamRig, when: str) -> None:
    rig.open()
    if when != "asked":
        rig.stream.send_head(head())
    if when in ("waiting", "ending"):
        rig.client_stops_reading()
        rig.stream.send_data(b"x" * 2000)
    if when in ("data", "waiting", "ending"):
        rig.stream.send_data(b"x")
    if when == "ending":
        rig.stream.send_end()
    rig.client_leaves()
    assert [line for line in rig.events.log if line.startswith("reset")] == ["reset client_gone"]
    told = list(rig.events.log)
    for _ in range(2):
        rig.stream.send_data(b"y")
        rig.stream.pause_reading()
        rig.stream.resume_reading()
        rig.stream.send_end()
        rig.stream.break_off()
    assert rig.events.log == told
    assert rig.stream.held == 0


def test_an_end_counts_once(rig: DownstreamRig) -> None:
    rig.open()
    rig.stream.send_head(head())
    rig.stream.send_end()
    rig.stream.send_end()
    rig.stream.break_off()
    assert rig.events.log == ["end", "finished"]
    assert rig.answer().whole
    assert not rig.is_broken


def test_while_paused_the_client_s_body_is_bounded(rig: DownstreamRig) -> None:
    rig.open(b"POST", has_body=True)
    rig.stream.pause_reading()
    rig.stream.pause_reading()
    for _ in range(20):
        rig.client_sends(b"x" * 10_000)
    assert len(rig.events.body) <= 64 * 1024
    assert rig.body_waits_unread()
    rig.stream.resume_reading()
    rig.stream.resume_reading()
    rig.client_reads()
    assert rig.events.body == b"x" * 200_000


def test_an_answer_before_the_body_is_over(rig: DownstreamRig) -> None:
    rig.open(b"POST", has_body=True)
    rig.client_sends(b"hel")
    rig.stream.send_head(head(401, length=2))
    rig.stream.send_data(b"no")
    rig.stream.send_end()
    assert (rig.answer().status, rig.answer().whole) == (401, True)
    told = list(rig.events.log)
    assert told[-1] == "finished"
    rig.client_sends(b"lo")
    rig.client_ends()
    assert rig.events.log == told
