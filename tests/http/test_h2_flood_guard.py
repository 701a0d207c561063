"""What the guard in front of h2 lets pass, and where it draws the line."""

from __future__ import annotations

import pytest

from flowserver.http.h2_flood_guard import (
    ENHANCE_YOUR_CALM,
    PERIOD,
    PROVIDER,
    SMALL,
    TINY,
    FrameGuard,
    H2Limits,
    Violation,
)
from flowserver.http.h2_frames import TURN
from tests.support import h2_frames as frames

NOW = 1000.0
LIMITS = H2Limits(
    resets=5, pings=5, settings=5, priorities=5, empty_frames=5, window_updates=5, continuations=2, strays=5
)


@pytest.fixture
def guard() -> FrameGuard:
    return FrameGuard(LIMITS)


def _count(guard: FrameGuard, data: bytes, now: float = NOW) -> int:
    """Frames that pass, in as many turns as they take."""
    count = sum(1 for _ in guard.frames(data, now))
    while guard.splitter.left <= 0:
        guard.splitter.rest()
        count += sum(1 for _ in guard.frames(b"", now))
    return count


def _refused(guard: FrameGuard, data: bytes, now: float = NOW) -> Violation:
    with pytest.raises(Violation) as caught:
        _count(guard, data, now)
    return caught.value


def test_frames_come_whole_whatever_the_pieces(guard: FrameGuard) -> None:
    data = frames.headers(1, end=False) + frames.data(1, b"x" * 300) + frames.ping()
    for size in (1, 2, 8, 9, 10, 100):
        fresh = FrameGuard(LIMITS)
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        raws = [frame.raw for piece in pieces for frame in fresh.frames(piece, NOW)]
        assert b"".join(raws) == data
        assert len(raws) == 3


def test_a_frame_that_was_not_asked_for_again_is_not_given_again(guard: FrameGuard) -> None:
    """A reader that stops in the middle, as at an error, leaves the rest for later."""
    first = next(guard.frames(frames.ping(b"1" * 8) + frames.ping(b"2" * 8), NOW))
    assert first.raw.endswith(b"1" * 8)
    [second] = guard.frames(b"", NOW)
    assert second.raw.endswith(b"2" * 8)


def test_an_over_long_frame_is_refused_when_it_is_announced(guard: FrameGuard) -> None:
    violation = _refused(guard, frames.frame(frames.DATA, 0, 1, length=16_385))
    assert (violation.code, violation.reason) == (frames.FRAME_SIZE_ERROR, "frame_size")


def test_a_frame_of_the_full_size_passes(guard: FrameGuard) -> None:
    assert _count(guard, frames.data(1, b"x" * 16_384)) == 1


FLOODS = {
    "ping_flood": frames.ping(),
    "settings_flood": frames.settings(),
    "priority_flood": frames.priority(1),
    "window_update_flood": frames.window_update(0, 1),
    "empty_frame_flood": frames.data(1),
    "stray_frame_flood": frames.frame(0x42),
}


@pytest.mark.parametrize(("reason", "frame"), FLOODS.items(), ids=FLOODS.keys())
def test_one_frame_more_than_the_limit_is_a_flood(guard: FrameGuard, reason: str, frame: bytes) -> None:
    assert _count(guard, frame * 5) == 5
    violation = _refused(guard, frame)
    assert (violation.code, violation.reason) == (ENHANCE_YOUR_CALM, reason)


@pytest.mark.parametrize("frame", FLOODS.values(), ids=FLOODS.keys())
def test_the_same_number_in_time_is_none(guard: FrameGuard, frame: bytes) -> None:
    for number in range(50):
        assert _count(guard, frame, NOW + number * PERIOD / 5) == 1


@pytest.mark.parametrize(
    "frame",
    [
        frames.data(1, pad=0),
        frames.data(1, pad=200),
        frames.frame(frames.HEADERS, 0, 1),
        frames.frame(frames.DATA, frames.PADDED, 1),  # malformed too
    ],
    ids=["no-padding", "padding", "headers", "malformed"],
)
def test_a_frame_without_content_is_empty_whatever_it_looks_like(guard: FrameGuard, frame: bytes) -> None:
    assert _refused(guard, frame * 6).reason == "empty_frame_flood"


def test_a_hundred_frames_smaller_than_their_headers_count_as_an_empty_one(guard: FrameGuard) -> None:
    assert _count(guard, frames.data(1, b"x") * 499) == 499
    assert _refused(guard, frames.data(1, b"x" * (TINY - 1)) * 2).reason == "empty_frame_flood"


@pytest.mark.parametrize(
    "frame",
    [
        frames.data(1, b"x", end=True),
        frames.data(1, end=True),
        frames.data(1, b"x" * TINY),
        frames.data(1, b"x" * TINY, pad=200),
    ],
)
def test_ends_and_pieces_that_bring_something_are_not_counted(guard: FrameGuard, frame: bytes) -> None:
    assert _count(guard, frame * 5000) == 5000


def test_a_turn_ends_in_the_middle_of_a_read_and_the_next_goes_on_where_it_stopped(guard: FrameGuard) -> None:
    pieces = [frames.data(1, b"piece %04d" % number) for number in range(3 * TURN)]
    data = b"".join(pieces)
    came = []
    for turn in range(1, 5):
        came += [frame.raw for frame in guard.frames(data, NOW)]
        assert len(came) == min(turn, 3) * TURN
        guard.splitter.rest()
        data = b""
    assert came == pieces


@pytest.mark.parametrize("frame", [frames.ping(), frames.headers(1), frames.rst_stream(1)])
def test_costly_frames_end_a_turn_earlier(frame: bytes) -> None:
    guard = FrameGuard(H2Limits())
    assert sum(1 for _ in guard.frames(frame * 90, NOW)) <= TURN // 4


def test_a_long_settings_frame_counts_by_its_length() -> None:
    guard = FrameGuard(H2Limits())
    assert _refused(guard, frames.settings(*((code, 1) for code in range(100, 2800)))).reason == "settings_flood"
    assert _count(FrameGuard(PROVIDER), frames.settings(*((code, 1) for code in range(100, 130)))) == 1


def test_late_frames_are_expected_after_an_end_from_here(guard: FrameGuard) -> None:
    guard.expect_late(1000)
    for _ in range(10):
        guard.count_late(100, NOW)
    for _ in range(5):
        guard.count_late(100, NOW)
    with pytest.raises(Violation):
        guard.count_late(100, NOW)


def test_frames_that_were_sent_explain_two_window_updates_each(guard: FrameGuard) -> None:
    for _ in range(100):
        guard.note_sent(SMALL)
        assert _count(guard, frames.window_update(0, 1) * 2) == 2


def test_frames_that_a_window_cut_to_a_byte_explain_none(guard: FrameGuard) -> None:
    for _ in range(100):
        guard.note_sent(1, whole=False)
    assert _refused(guard, frames.window_update(1, 1) * 6).reason == "window_update_flood"


def test_continuations_are_limited_by_number(guard: FrameGuard) -> None:
    block = frames.frame(frames.HEADERS, 0, 1, b"x") + frames.frame(frames.CONTINUATION, 0, 1, b"x") * 2
    assert _count(guard, block) == 3
    assert _refused(guard, frames.frame(frames.CONTINUATION, 0, 1, b"x")).reason == "continuation_flood"


def test_continuations_begin_anew_with_each_head(guard: FrameGuard) -> None:
    block = frames.frame(frames.HEADERS, 0, 1, b"x") + frames.frame(frames.CONTINUATION, 4, 1, b"x") * 2
    assert _count(guard, block * 10) == 30


def test_a_header_block_is_limited_by_size() -> None:
    guard = FrameGuard(H2Limits())
    block = (
        frames.frame(frames.HEADERS, 0, 1, b"x" * 16_384) + frames.frame(frames.CONTINUATION, 0, 1, b"x" * 16_384) * 4
    )
    assert _refused(guard, block).reason == "continuation_flood"


@pytest.mark.parametrize("count", ["count_reset", "count_stray"])
def test_what_the_connection_counts_overflows_too(guard: FrameGuard, count: str) -> None:
    for _ in range(5):
        getattr(guard, count)(NOW)
    with pytest.raises(Violation):
        getattr(guard, count)(NOW)
