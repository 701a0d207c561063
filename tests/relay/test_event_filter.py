"""An event filter passes what came, but for events that are withheld and for what exceeds the budget."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, cycle, pairwise

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowserver.dialects.base import RequestParams, Usage
from flowserver.dialects.byte_classes import PENDING, ByteClasses
from flowserver.dialects.event_template import EventTemplate
from flowserver.dialects.ollama import OLLAMA_CHAT
from flowserver.dialects.profiles import GENERIC
from flowserver.errors import RelayError
from flowserver.events.eventstream import EventStreamScanner
from flowserver.events.ndjson import NdjsonScanner
from flowserver.events.scanner import Scanner
from flowserver.events.sse import SseScanner
from flowserver.quota.lease import Verdict
from flowserver.relay.event_filter import BodyCollector, Budget, EventFilter, ModelListFilter, OpaqueFilter

from ..support.build import COMPILED
from ..support.scanning import by_bytes, frame, pieces


@dataclass
class FakeMeter:
    """A `Meter`: data that begin with "content" are content, and with "hidden" are withheld."""

    has_text: bool = True
    content_bytes: int = 0
    content_events: int = 0
    reasoning_bytes: int = 0
    unread: int = 0
    content: ByteClasses = field(default_factory=ByteClasses)
    calls: int = 0
    citations: int = 0
    other_output: bool = False
    usage: Usage = field(default_factory=Usage)
    running: bool = False
    is_final: bool = False
    answer_id: str | None = None
    model: str | None = None
    finish: str | None = None
    failed: str | None = None
    finished: bool = False
    seen: list[bytes] = field(default_factory=list)
    whole: list[bytes] = field(default_factory=list)
    template: EventTemplate | None = None

    def count_template(self, events: int, content_bytes: int) -> None:
        self.content_events += events
        self.content_bytes += content_bytes

    def read_head(self, fields: Mapping[bytes, bytes]) -> None:
        raise AssertionError("an event filter sees no head")

    def read(self, name: bytes, data: bytes) -> bool | bytes:
        self.seen.append(data)
        self.content_events += data.startswith(b"content")
        return not data.startswith(b"hidden")

    def read_whole(self, body: bytes) -> bool:
        self.whole.append(body)
        return True

    def ending(self, prompt: int, output: int) -> bytes:
        raise AssertionError("an event filter ends nothing")

    def failure(self, error: RelayError) -> bytes:
        raise AssertionError("an event filter tells nothing")


@dataclass
class Most:
    """A `Budget` of so many content events."""

    meter: FakeMeter
    content_events: int

    def verdict(self) -> Verdict:
        return Verdict.END if self.meter.content_events > self.content_events else Verdict.PASS

    def room(self) -> int:
        return self.content_events - self.meter.content_events


@dataclass
class Leased:
    """A `Budget` of so many content events, `most` in the end: what is more waits, or is the end behind `most`."""

    meter: FakeMeter
    granted: int
    most: int

    def verdict(self) -> Verdict:
        if self.meter.content_events <= self.granted:
            return Verdict.PASS
        return Verdict.WAIT if self.granted < self.most else Verdict.END

    def room(self) -> int:
        return self.granted - self.meter.content_events


@dataclass(frozen=True)
class Framing:
    scanner: Callable[[int], Scanner]
    event: Callable[[bytes], bytes]


FRAMINGS = {
    "sse": Framing(SseScanner, lambda data: b"data: %b\n\n" % data),
    "ndjson": Framing(NdjsonScanner, lambda data: data + b"\n"),
    "frames": Framing(EventStreamScanner, lambda data: frame({b":event-type": b"e"}, data)),
}
framings = pytest.mark.parametrize("framing", FRAMINGS.values(), ids=FRAMINGS.keys())
SSE = FRAMINGS["sse"]

patient = settings(deadline=None)
"""A busy machine is no failure."""

EVENTS = st.lists(
    st.builds(
        lambda kind, size: kind + b"x" * size,
        st.sampled_from([b"content", b"content", b"quiet", b"hidden"]),
        st.integers(0, 60),
    ),
    max_size=12,
)
SIZES = st.lists(st.one_of(st.integers(1, 30), st.integers(30, 400)), min_size=1, max_size=8)
HOLDS = st.one_of(st.integers(0, 100), st.just(10_000))


def event_filter(
    framing: Framing = SSE,
    *,
    hold: int = 10_000,
    withholds: bool = False,
    most: int | None = None,
    max_event: int = 10_000,
) -> tuple[EventFilter, FakeMeter]:
    meter = FakeMeter()
    budget: Budget | None = None if most is None else Most(meter, most)
    return EventFilter(framing.scanner(max_event), meter, hold=hold, withholds=withholds, budget=budget), meter


def content(*numbers: int) -> list[bytes]:
    return [SSE.event(b"content %d" % number) for number in numbers]


HIDDEN = SSE.event(b"hidden")
FORM = EventTemplate(b"data: content ", b"", b"", b"\n\n", reasoning=False)


# Unchanged


@framings
@patient
@given(events=EVENTS, sizes=SIZES, tail=st.binary(max_size=8))
def test_bytes_pass_as_they_come_where_nothing_is_edited(
    framing: Framing, events: list[bytes], sizes: list[int], tail: bytes
) -> None:
    """Also what the meter would withhold, and an event that has no end."""
    stream = b"".join(map(framing.event, events)) + tail
    plain, meter = event_filter(framing)
    assert not plain.edits
    for data in pieces(stream, cycle(sizes)):
        assert plain.feed(data) == data
    assert plain.finish() == b""
    assert meter.seen[: len(events)] == events
    assert not plain.spent


@framings
@pytest.mark.parametrize("withholds", [False, True])
def test_a_read_of_one_event_is_not_even_copied(framing: Framing, withholds: bool) -> None:
    passing, _ = event_filter(framing, withholds=withholds)
    for number in range(3):
        data = framing.event(b"content %d" % number)
        passed = passing.feed(data)
        assert passed is data or (COMPILED and passed == data)


def test_events_may_pass_unseen_only_where_one_begins_and_the_meter_knows_their_form() -> None:
    plain, meter = event_filter()
    one, two = content(1, 2)
    meter.template = FORM
    rooms = [plain.room]  # a byte order mark may come
    for data in (one, two[:5], two[5:]):
        plain.feed(data)
        rooms.append(plain.room)
    assert rooms == [None, PENDING, None, PENDING]
    meter.template = None
    assert plain.room is None


@framings
def test_the_piece_of_an_event_is_not_copied_where_nothing_is_edited(framing: Framing) -> None:
    plain, meter = event_filter(framing)
    event = framing.event(b"content of some length")
    for data in (event[:9], event[9:15], event[15:]):
        assert plain.feed(data) is data
    assert len(meter.seen) == 1


# Edited


def passes(
    events: list[bytes], raw: list[bytes], sizes: list[int], *, hold: int, withholds: bool, most: int | None
) -> list[int]:
    """The indexes of the events that pass: a plain reading of the rules."""
    cuts = list(accumulate(map(len, pieces(b"".join(raw), cycle(sizes)))))
    found = []
    begin = count = 0
    for index, (data, event) in enumerate(zip(events, raw, strict=True)):
        end = begin + len(event)
        count += data.startswith(b"content")
        over = most is not None and count > most and data.startswith(b"content")
        begun = any(begin < cut < end and cut - begin > hold for cut in cuts)
        if begun or not (over or (withholds and data.startswith(b"hidden"))):
            found.append(index)
        if over:
            break
        begin = end
    return found


@framings
@patient
@given(
    events=EVENTS,
    sizes=SIZES,
    hold=HOLDS,
    withholds=st.booleans(),
    most=st.one_of(st.none(), st.integers(0, 8)),
)
def test_what_is_edited_is_left_out_and_nothing_else(
    framing: Framing, events: list[bytes], sizes: list[int], hold: int, withholds: bool, most: int | None
) -> None:
    raw = [framing.event(data) for data in events]
    if not (withholds or most is not None):
        hold = 0
    expected = [raw[index] for index in passes(events, raw, sizes, hold=hold, withholds=withholds, most=most)]
    boundaries = {0, *accumulate(map(len, expected))}
    edited, meter = event_filter(framing, hold=hold, withholds=withholds, most=most)
    passed = b""
    came = 0
    for data in pieces(b"".join(raw), cycle(sizes)):
        came += len(data)
        passed += edited.feed(data)
        assert edited.at_boundary == (len(passed) in boundaries)
        if edited.spent:
            break
        if not withholds:
            assert came - len(passed) <= hold
    assert passed == b"".join(expected)
    spent = most is not None and sum(data.startswith(b"content") for data in events) > most
    assert edited.spent == spent
    if spent:
        assert edited.at_boundary
        assert meter.content_events == (most or 0) + 1
    else:
        assert edited.finish() == b""
        assert meter.seen == events


def test_a_withheld_event_that_came_with_others_leaves_only_itself_out() -> None:
    edited, _ = event_filter(withholds=True)
    one, two = content(1, 2)
    assert edited.feed(one + HIDDEN + two + two[:8]) == one + two
    assert edited.feed(two[8:]) == two


def test_a_withheld_event_by_itself_passes_nothing() -> None:
    edited, _ = event_filter(withholds=True)
    assert edited.feed(HIDDEN) == b""
    assert edited.at_boundary


def test_a_withheld_event_that_began_to_pass_passes_whole() -> None:
    edited, meter = event_filter(withholds=True, hold=4)
    assert edited.feed(HIDDEN[:4]) == b""
    boundaries = [edited.at_boundary]
    assert edited.feed(HIDDEN[4:5]) == HIDDEN[:5]
    boundaries.append(edited.at_boundary)
    assert edited.feed(HIDDEN[5:]) == HIDDEN[5:]
    boundaries.append(edited.at_boundary)
    assert boundaries == [True, False, True]
    assert meter.seen == [b"hidden"]


def test_the_event_that_is_too_much_is_the_last_that_is_looked_at() -> None:
    bounded, meter = event_filter(most=1)
    one, two, three = content(1, 2, 3)
    assert bounded.feed(one + two + three) == one
    assert bounded.spent
    assert bounded.at_boundary
    assert meter.seen == [b"content 1", b"content 2"]


def test_nothing_passes_of_the_event_that_is_too_much_though_it_came_in_pieces() -> None:
    bounded, _ = event_filter(most=1)
    one, two = content(1, 2)
    fed = [bounded.feed(data) for data in by_bytes(one + two)]
    assert b"".join(fed) == one
    assert bounded.spent


def test_the_event_that_is_too_much_passes_whole_once_it_has_begun_to() -> None:
    bounded, _ = event_filter(most=0, hold=6)
    [one] = content(1)
    assert bounded.feed(one[:8]) == one[:8]
    assert (bounded.spent, bounded.at_boundary) == (False, False)
    assert bounded.feed(one[8:] + HIDDEN) == one[8:]
    assert (bounded.spent, bounded.at_boundary) == (True, True)


def test_events_without_content_are_never_too_much() -> None:
    bounded, _ = event_filter(most=1)
    quiet = SSE.event(b"quiet")
    [one] = content(1)
    for data in (quiet, one, quiet, quiet + quiet):
        assert bounded.feed(data) == data
    assert not bounded.spent


@pytest.mark.parametrize("most", [None, 1])
@patient
@given(cuts=st.lists(st.integers(1, 33), max_size=6))
def test_line_ends_that_two_reads_share_stay_whole(most: int | None, cuts: list[int]) -> None:
    """Some clients look for CR LF CR LF, and for nothing else."""
    first = b"data: content\r\n\r\n"
    stream = first + (b"data: hidden\r\n\r\n" if most is None else b"data: content two\r\n\r\n")
    edited, _ = event_filter(withholds=True, most=most)
    places = sorted({0, *cuts, len(stream)})
    passed = b"".join([edited.feed(stream[begin:end]) for begin, end in pairwise(places)])
    assert passed == first or (most is None and passed == first + b"\n")  # a last LF that came by itself


# Waiting


def waiting_filter(granted: int, *, most: int = 100, withholds: bool = False) -> tuple[EventFilter, FakeMeter, Leased]:
    meter = FakeMeter()
    budget = Leased(meter, granted, most)
    return EventFilter(SseScanner(10_000), meter, hold=10_000, withholds=withholds, budget=budget), meter, budget


@framings
@patient
@given(
    events=EVENTS,
    sizes=SIZES,
    hold=HOLDS,
    withholds=st.booleans(),
    most=st.integers(0, 14),
    grants=st.lists(st.integers(0, 3), min_size=1, max_size=12).filter(any),
    patience=st.lists(st.integers(0, 4), min_size=1, max_size=8),
)
def test_what_waits_passes_in_its_order_at_any_moment_of_resuming(
    framing: Framing,
    events: list[bytes],
    sizes: list[int],
    hold: int,
    withholds: bool,
    most: int,
    grants: list[int],
    patience: list[int],
) -> None:
    """In the end the same has passed as by a budget that never lets wait. `grants` come one by one, each when as many
    reads came behind the wait as `patience` says, or when the answer is over."""
    raw = [framing.event(data) for data in events]
    fed = pieces(b"".join(raw), cycle(sizes))
    expected = b"".join(raw[index] for index in passes(events, raw, sizes, hold=hold, withholds=withholds, most=most))
    meter = FakeMeter()
    budget = Leased(meter, 0, most)
    parked = EventFilter(framing.scanner(10_000), meter, hold=hold, withholds=withholds, budget=budget)
    more, delays, passed = cycle(grants), cycle(patience), b""

    def resumed() -> bytes:
        budget.granted = min(most, budget.granted + next(more))
        return parked.resume()

    delay = next(delays)
    for data in fed:
        was_waiting = parked.is_waiting
        got = parked.feed(data)
        assert not (was_waiting and got)
        passed += got
        if parked.is_waiting:
            assert not parked.spent
            delay -= 1
            if delay < 0:
                delay = next(delays)
                passed += resumed()
        if parked.spent:
            break
    while parked.is_waiting:
        passed += resumed()
    assert passed == expected
    assert parked.spent == (sum(data.startswith(b"content") for data in events) > most)
    assert meter.content_events <= most + 1
    if not parked.spent:
        assert parked.finish() == b""
        assert meter.seen == events


def test_nothing_passes_while_an_event_waits_and_nothing_behind_it_is_read() -> None:
    parked, meter, budget = waiting_filter(1)
    one, two, three = content(1, 2, 3)
    assert parked.feed(one + two + three) == one
    assert parked.is_waiting
    assert parked.at_boundary
    assert parked.feed(content(4)[0]) == b""
    assert parked.feed(HIDDEN) == b""
    seen = list(meter.seen)
    assert parked.resume() == b""
    assert parked.is_waiting
    assert meter.seen == seen
    budget.granted = 3
    assert parked.resume() == two + three
    assert parked.is_waiting
    budget.granted = 4
    assert parked.resume() == content(4)[0] + HIDDEN
    assert not parked.is_waiting


def test_an_event_is_counted_once_however_often_it_waits() -> None:
    parked, meter, budget = waiting_filter(0)
    [one] = content(1)
    assert parked.feed(one) == b""
    for _ in range(3):
        assert parked.resume() == b""
    budget.granted = 1
    assert parked.resume() == one
    assert meter.content_events == 1


def test_nothing_passes_unseen_while_an_event_waits() -> None:
    parked, meter, budget = waiting_filter(1)
    meter.template = FORM
    one, two, three = content(1, 2, 3)
    parked.feed(one)
    rooms = [parked.room]
    parked.feed(two)
    rooms.append(parked.room)
    budget.granted = 5
    parked.resume()
    rooms.append(parked.room)
    parked.count_template(1, 9)
    parked.feed(three)
    assert [*rooms, parked.room] == [0, None, 3, 1]
    assert meter.content_events == 4


def test_what_waits_in_vain_never_passes() -> None:
    parked, meter, budget = waiting_filter(1, most=2)
    one, two, three, four = content(1, 2, 3, 4)
    assert parked.feed(one + two[:9]) == one
    assert parked.feed(two[9:] + three) == b""
    assert parked.feed(four) == b""
    budget.granted = 2
    assert parked.resume() == two
    assert parked.spent
    assert not parked.is_waiting
    assert parked.at_boundary
    assert meter.content_events == 3


def test_half_an_event_behind_one_that_waits_passes_with_its_other_half() -> None:
    parked, _, budget = waiting_filter(0)
    one, two = content(1, 2)
    assert parked.feed(one + two[:8]) == b""
    budget.granted = 2
    assert parked.resume() == one
    assert parked.feed(two[8:]) == two


def test_the_tail_behind_an_event_that_waited_passes_when_the_answer_is_whole() -> None:
    parked, _, budget = waiting_filter(0)
    [one] = content(1)
    assert parked.feed(one) == b""
    assert parked.feed(b"data: tail") == b""
    budget.granted = 1
    assert parked.resume() == one
    assert parked.finish() == b"data: tail"


def test_where_nothing_waits_there_is_nothing_to_resume() -> None:
    parked, _, _ = waiting_filter(1)
    assert parked.resume() == b""
    [one] = content(1)
    assert parked.feed(one[:7]) == b""
    assert parked.resume() == b""
    assert parked.feed(one[7:]) == one
    assert BodyCollector(FakeMeter(), 100).resume() == b""


# Comments and tails


@pytest.mark.parametrize("withholds", [False, True])
def test_comments_pass_at_once(withholds: bool) -> None:
    passing, meter = event_filter(withholds=withholds)
    [one] = content(1)
    for data in (b": hello\n\n", one, b": still here\n\n: and more\n\n"):
        assert passing.feed(data) == data
        assert passing.at_boundary
    assert meter.seen == [b"content 1"]


def test_a_comment_without_a_blank_line_belongs_to_the_event_behind_it() -> None:
    edited, _ = event_filter(withholds=True)
    [one] = content(1)
    assert edited.feed(b": ping\n") == b""
    assert edited.at_boundary
    assert edited.feed(one) == b": ping\n" + one


def test_a_comment_behind_an_event_passes_with_it() -> None:
    edited, _ = event_filter(withholds=True)
    [one] = content(1)
    assert edited.feed(one + b": x\n\n") == one + b": x\n\n"
    assert edited.feed(HIDDEN + b": y\n\n") == b": y\n\n"


@framings
@patient
@given(cut=st.integers(1, 12), withholds=st.booleans())
def test_a_tail_without_an_end_passes_when_the_answer_is_whole(framing: Framing, cut: int, withholds: bool) -> None:
    edited, _ = event_filter(framing, withholds=withholds, most=5)
    event = framing.event(b"content of some length")
    assert edited.feed(event + event[:cut]) == event
    assert edited.at_boundary
    assert edited.finish() == event[:cut]
    assert edited.finish() == b""


# What can't be looked into


@pytest.mark.parametrize("withholds", [False, True])
@pytest.mark.parametrize("most", [None, 0])
def test_an_event_beyond_the_bound_counts_by_its_bytes(withholds: bool, most: int | None) -> None:
    passing, meter = event_filter(max_event=20, hold=10, withholds=withholds, most=most)
    large = SSE.event(b"content" + b"x" * 100)
    fed = [passing.feed(data) for data in pieces(large, cycle([16]))]
    assert b"".join(fed) == large
    assert meter.seen == []
    assert passing.uncounted == {"large_event": 1}
    assert passing.unread_tokens == -(-len(b"content" + b"x" * 100) // 4)
    assert not passing.spent
    assert passing.at_boundary


def test_a_stream_that_makes_no_sense_passes_and_has_no_boundary() -> None:
    edited, meter = event_filter(FRAMINGS["frames"], withholds=True, hold=10)
    assert edited.feed(b"nonsense") == b""
    assert edited.feed(b" and more of it") == b"nonsense and more of it"
    assert edited.feed(b"!") == b"!"
    assert not edited.at_boundary
    assert edited.uncounted == {"malformed": 1}
    assert edited.unread_tokens == 6
    assert meter.seen == []


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("most", [None, 5])
def test_of_a_stream_that_stops_making_sense_all_bytes_behind_its_last_event_count(size: int, most: int | None) -> None:
    framing = FRAMINGS["frames"]
    passing, _ = event_filter(framing, max_event=200, most=most)
    large = frame({b":event-type": b"e"}, b'{"text": "%b"}' % (b"x" * 400))
    for data in pieces(framing.event(b"content") + large + framing.event(b"quiet") + b"?" * 40, cycle([size])):
        passing.feed(data)
    assert passing.uncounted == {"malformed": 1}
    assert passing.unread_tokens == (400 + 40) // 4


@framings
def test_no_more_is_held_than_the_bounds_say(framing: Framing) -> None:
    edited, _ = event_filter(framing, max_event=2000, hold=1000, withholds=True, most=5)
    event = framing.event(b"content" + b"x" * 100_000)
    fed = pieces(event, cycle([300]))
    passed = came = 0
    tracemalloc.start()
    try:
        for data in fed:
            came += len(data)
            passed += len(edited.feed(data))
            assert came - passed <= 1000
            assert tracemalloc.get_traced_memory()[0] < 10_000
    finally:
        tracemalloc.stop()
    assert passed == came


# Answers that are no stream


@patient
@given(body=st.binary(max_size=100), sizes=SIZES)
def test_a_whole_answer_passes_and_is_read_at_its_end(body: bytes, sizes: list[int]) -> None:
    meter = FakeMeter()
    whole = BodyCollector(meter, 100)
    for data in pieces(body, cycle(sizes)):
        assert whole.feed(data) is data
        assert not meter.whole
    assert whole.finish() == b""
    assert meter.whole == [body]
    assert whole.uncounted == {}
    assert not whole.at_boundary


def test_a_whole_answer_beyond_the_bound_is_read_but_for_its_texts() -> None:
    meter = FakeMeter()
    whole = BodyCollector(meter, 100)
    body = b'{"id": "a1", "choices": [{"message": {"content": "%b"}}], "usage": {"completion_tokens": 5}}' % (
        b"x" * 5000
    )
    for data in pieces(body, cycle([30])):
        assert whole.feed(data) is data
        assert not meter.whole
    assert whole.finish() == b""
    [read] = meter.whole
    assert len(read) < 1000
    assert orjson.loads(read)["usage"] == {"completion_tokens": 5}
    assert whole.uncounted == {}
    assert 1000 <= whole.unread_tokens <= 1300


def test_a_whole_answer_beyond_the_bound_that_makes_no_sense_passes_unread() -> None:
    meter = FakeMeter()
    whole = BodyCollector(meter, 100)
    for _ in range(50):
        assert whole.feed(b"x" * 30) == b"x" * 30
    assert whole.finish() == b""
    assert meter.whole == []
    assert (whole.uncounted, whole.unread_tokens) == ({"malformed": 1}, 375)


def test_a_whole_answer_that_breaks_off_is_read_as_far_as_it_came() -> None:
    meter = FakeMeter()
    whole = BodyCollector(meter, 100)
    whole.feed(b'{"choices": [{"message": {"content": "hel')
    whole.close()
    whole.close()
    assert [orjson.loads(read) for read in meter.whole] == [{"choices": [{"message": {"content": "hel"}}]}]


# Answers that can't be read


def test_an_answer_that_cannot_be_read_is_counted_by_its_bytes_and_ends_where_its_tokens_do() -> None:
    meter = FakeMeter()
    free, bounded = OpaqueFilter(meter, None), OpaqueFilter(meter, Most(meter, 0))
    for opaque in (free, bounded):
        assert opaque.feed(b"\0" * 400) == b"\0" * 400
        assert (opaque.uncounted, opaque.unread_tokens) == ({"unreadable": 1}, 100)
    meter.content_events = 1
    assert free.feed(b"\0") == b"\0"
    assert bounded.feed(b"\0") == b""
    assert bounded.spent
    assert (bounded.finish(), meter.whole, meter.seen) == (b"", [], [])


def test_a_last_line_without_its_end_is_read() -> None:
    line = b'{"message":{"role":"assistant","content":"x"},"done":true,"done_reason":"stop","eval_count":7}'
    meter = OLLAMA_CHAT.meter(RequestParams(), GENERIC, cuttable=False)
    made = EventFilter(NdjsonScanner(1000), meter, hold=0, withholds=False, budget=None)
    assert made.feed(line) == line
    assert made.finish() == b""
    assert meter.usage.output == 7


# What a debugger shows


def test_states_can_be_seen() -> None:
    waiting, _ = event_filter(withholds=True)
    waiting.feed(SSE.event(b"content") + b"data: con")
    assert repr(waiting) == "<EventFilter passing held=9 events=1>"
    spent, _ = event_filter(most=0)
    spent.feed(SSE.event(b"content"))
    assert repr(spent) == "<EventFilter spent held=0 events=1>"
    collected = BodyCollector(FakeMeter(), 100)
    collected.feed(b"{}")
    assert repr(collected) == "<BodyCollector collecting size=2>"
    collected.finish()
    assert repr(collected) == "<BodyCollector read size=2>"
    opaque = OpaqueFilter(FakeMeter(), None)
    opaque.feed(b"\x89PNG")
    assert repr(opaque) == "<OpaqueFilter passing size=4>"
    models = ModelListFilter(bytes)
    models.feed(b"[]")
    assert repr(models) == "<ModelListFilter size=2>"
