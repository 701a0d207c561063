"""What passes of a stream is what its provider sent, but for what was withheld, and for a good ending where it is cut.

However the stream was cut into reads: what passes is told from its events one by one.
"""

from __future__ import annotations

import asyncio
from functools import cache
from itertools import cycle
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserver.dialects.base import Meter
from flowserver.http.messages import ResponseHead
from flowserver.relay.account import Account
from flowserver.relay.event_filter import EventFilter
from flowserver.simulator import Simulator

from ..dialects.frames import split
from ..simulator.speakers import SPEAKERS, Speaker
from ..support.lab import simulate
from ..support.recording import account, ask, open_answer, read_request, target
from ..support.scanning import by_bytes, pieces
from ..support.streams import CHAT, COMPLETIONS, SSE, STREAMS, Stream, chat_report
from ..support.wire import Wire, request

SIZES = st.lists(st.one_of(st.integers(1, 40), st.integers(1, 2000)), min_size=1, max_size=10)
TEXTS = st.lists(st.one_of(st.text(min_size=1, max_size=30), st.just("word ")), max_size=30)
BUDGETS = st.one_of(st.none(), st.integers(1, 40))


def opened(
    path: str, body: dict[str, Any], *, budget: int | None, withholds: bool, kind: bytes
) -> tuple[Account, EventFilter]:
    made = account(path)
    request = orjson.dumps(body)
    read_request(made, request)
    made.bound(budget)
    ask(made, target(asks_usage=withholds), request)
    event_filter = open_answer(made, ResponseHead(200, [(b"content-type", kind)]))
    assert isinstance(event_filter, EventFilter)
    return made, event_filter


def relayed(made: Account, event_filter: EventFilter, fed: list[bytes]) -> bytes:
    """As an exchange does it."""
    passed = []
    for data in fed:
        passed.append(event_filter.feed(data))
        if event_filter.spent:
            return b"".join([*passed, made.ending()])
    return b"".join([*passed, event_filter.finish()])


def reread(path: str, body: dict[str, Any], stream: bytes, extension: str) -> Meter:
    """What a meter finds in whole events that another took the time to split."""
    made, _ = opened(path, body, budget=None, withholds=False, kind=SSE)
    assert made.meter is not None
    events = split(stream, extension)
    assert sum(len(raw) for _, _, raw in events) == len(stream)  # nothing is left of an event that was cut
    for name, data, _ in events:
        made.meter.read(name, data)
    return made.meter


def too_much(path: str, body: dict[str, Any], events: list[bytes], budget: int, kind: bytes) -> int:
    """The index of the first event with content that is beyond the budget."""
    made, event_filter = opened(path, body, budget=None, withholds=False, kind=kind)
    assert made.meter is not None
    for index, event in enumerate(events):
        pieces_before = made.meter.content_events
        event_filter.feed(event)
        if made.meter.content_events > pieces_before and made.output > budget:
            return index
    raise AssertionError("the budget was never spent")


def check(
    path: str,
    body: dict[str, Any],
    events: list[bytes],
    fed: list[bytes],
    *,
    budget: int | None,
    withheld: set[bytes],
    kind: bytes,
    extension: str,
    limited: str,
) -> None:
    made, event_filter = opened(path, body, budget=budget, withholds=bool(withheld), kind=kind)
    passed = relayed(made, event_filter, fed)
    kept = [event for event in events if event not in withheld]
    if not event_filter.spent:
        assert passed == b"".join(kept)
        return
    assert budget is not None
    assert made.cut_at == made.output == budget
    before = b"".join(
        [event for event in events[: too_much(path, body, events, budget, kind)] if event not in withheld]
    )
    assert passed.startswith(before)
    assert made.meter is not None
    assert passed[len(before) :] == made.meter.ending(made.input, budget)
    meter = reread(path, body, passed, extension)
    assert (meter.finish, meter.finished) == (limited, True)


# Made here


@pytest.mark.parametrize("withholds", [False, True])
@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)
@given(texts=TEXTS, sizes=SIZES, budget=BUDGETS, bytewise=st.booleans())
def test_a_stream_of_each_format(
    stream: Stream, withholds: bool, texts: list[str], sizes: list[int], budget: int | None, bytewise: bool
) -> None:
    events = stream.events(texts, 33)
    whole = b"".join(events)
    on_demand = withholds and stream in (CHAT, COMPLETIONS)
    check(
        stream.target,
        stream.body,
        events,
        by_bytes(whole) if bytewise else pieces(whole, cycle(sizes)),
        budget=budget,
        withheld={events[-2]} if on_demand else set(),
        kind=stream.kind,
        extension=stream.extension,
        limited=stream.limited,
    )


def test_the_report_on_demand_is_the_one_before_the_last() -> None:
    """Which the test above takes for granted."""
    assert CHAT.events([], 33)[-2] == chat_report(33)


# The simulator's


async def _simulated(speaker: Speaker) -> bytes:
    simulator = Simulator()
    await simulator.start()
    wire = await Wire.connect(simulator.port)
    try:
        path, body = speaker.request()
        headers = ["Content-Type: application/json", simulate(events=40, reasoning=3, size=1)]
        await wire.send(request("POST", path, headers, body=body))
        return (await wire.response()).body
    finally:
        wire.close()
        await simulator.close()


@cache
def simulated(speaker: Speaker) -> bytes:
    """A stream of the simulator's."""
    return asyncio.run(_simulated(speaker))


def asked_by(speaker: Speaker, *, usage: bool) -> tuple[str, dict[str, Any]]:
    path, raw = speaker.request()
    body: dict[str, Any] = orjson.loads(raw)
    if not usage:
        body.pop("stream_options", None)
    return path, body


@pytest.mark.parametrize("withholds", [False, True])
@pytest.mark.parametrize("speaker", SPEAKERS, ids=lambda speaker: speaker.name)
@given(sizes=SIZES, budget=BUDGETS)
def test_a_stream_of_the_simulator(speaker: Speaker, withholds: bool, sizes: list[int], budget: int | None) -> None:
    whole = simulated(speaker)
    events = [raw for _, _, raw in split(whole, ".sse")]
    assert len(events) > 40
    path, body = asked_by(speaker, usage=False)
    withheld = {raw for raw in events if b'"choices":[]' in raw} if withholds else set()
    assert len(withheld) == (withholds and speaker.name == "chat")
    check(
        path,
        body,
        events,
        pieces(whole, cycle(sizes)),
        budget=budget,
        withheld=withheld,
        kind=SSE,
        extension=".sse",
        limited=speaker.limited,
    )
