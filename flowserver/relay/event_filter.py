"""Reads an answer while it passes: events are counted as they complete, and the bytes go on unchanged, but for an event
that the client did not ask for and for the end of its budget. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Protocol

from ..dialects.base import Meter
from ..dialects.byte_classes import PENDING
from ..events.json_array import JsonArrayScanner
from ..events.ndjson import NdjsonScanner
from ..events.scanner import Event, Scanner
from ..events.whole_body import WholeBody
from ..quota.lease import Verdict

_MOST_HELD = 1 << 18
"""Bytes of a whole answer that are parsed at once, in some milliseconds; a larger one is reduced as it comes."""
_LONGEST_LIST = 1 << 22
"""Bytes of a list of models; the longest have half a megabyte."""
_BYTES_A_TOKEN = 4
_ATTACHED = 1000
"""Tokens that an image or a file counts for, whose bytes say nothing."""


def _tokens_of(size: int, attachments: int) -> int:
    """Tokens by bytes alone, for what was not read."""
    return -(-size // _BYTES_A_TOKEN) + attachments * _ATTACHED


class Budget(Protocol):
    """Says how far a stream may go."""

    def verdict(self) -> Verdict:
        """On what the meter has read by now."""

    def room(self) -> int:
        """Bytes of content that would pass now."""


class EventFilter:
    """On a stream of events.

    `withholds`: events that the meter does not want passed are left out. Where they are, or where there is a budget, up
    to `hold` bytes of an unfinished event wait here for its end; a longer event passes in parts.
    """

    __slots__ = (
        "_budget",
        "_fresh",
        "_held",
        "_held_size",
        "_hold",
        "_late",
        "_parked",
        "_passed_any",
        "_passes_all",
        "_passing",
        "_scanner",
        "_unended",
        "edits",
        "holds_back",
        "meter",
        "spent",
    )

    def __init__(self, scanner: Scanner, meter: Meter, *, hold: int, withholds: bool, budget: Budget | None) -> None:
        self._scanner = scanner
        self.meter = meter
        self._passes_all = not withholds
        self._budget = budget
        self.edits = withholds or budget is not None
        """Whether what passes may be less or more than what came."""
        self._hold = hold if self.edits else 0
        self._held: list[bytes] = []
        self._held_size = 0
        self._passing = False
        """Whether the beginning of an unfinished event has passed."""
        self._passed_any = False
        """Whether an event has passed, where events are sorted."""
        self._unended = 0
        """Bytes behind the last event: of one that has not ended, or of what makes no sense."""
        self._fresh = False
        """Whether the next byte begins an event; before the first one it may belong to a byte order mark."""
        self._parked: tuple[bytes, list[Event], int] | None = None
        """Events that may not pass yet, the first one counted, the bytes they are in, and where they begin there."""
        self._late: list[bytes] = []
        """What came behind them."""
        self.holds_back = False
        """Whether an event waits, or the budget is reached: what `feed` returned is not all."""
        self.spent = False
        """The budget is reached: what `feed` returned is the last that may pass, and it ends with an event."""

    def __repr__(self) -> str:
        state = "spent" if self.spent else "waiting" if self.is_waiting else "passing"
        place = " in mid-event" if self._passing else ""
        return f"<EventFilter {state}{place} held={self._held_size} events={self.meter.content_events}>"

    @property
    def held(self) -> int:
        """Bytes that wait here, or of an event that has not ended."""
        late = sum(map(len, self._late)) + (len(self._parked[0]) if self._parked is not None else 0)
        return self._held_size + late + self._scanner.held

    @property
    def at_boundary(self) -> bool:
        """Whether what has passed ends with an event: something may be put in here."""
        return not self._passing

    @property
    def uncounted(self) -> dict[str, int]:
        """Events that could not be read, by reason. A stream that makes no sense, in all or in part, is one."""
        scanner = self._scanner
        found = {"large_event": scanner.oversized, "malformed": int(scanner.broken or self.meter.unread > 0)}
        return {reason: events for reason, events in found.items() if events}

    @property
    def unread_tokens(self) -> int:
        """Tokens that large events have, by the bytes of their texts, and what makes no sense, by its bytes."""
        scanner = self._scanner
        senseless = self._unended if scanner.broken else 0
        return _tokens_of(scanner.unread_text + senseless + self.meter.unread, scanner.attachments)

    def framed(self, events: bytes) -> bytes:
        """Server-sent `events`, which end the stream here, as they stand in an answer of this kind."""
        scanner = self._scanner
        if isinstance(scanner, JsonArrayScanner):
            before, behind = scanner.closing(self._passed_any)
            return before + b",".join(_payloads(events)) + behind
        if isinstance(scanner, NdjsonScanner) and (payloads := _payloads(events)):
            return b"".join(payload + b"\n" for payload in payloads)
        return events

    def close(self) -> None:
        """Nothing more comes, whether the answer is whole or not. The budget holds this too: no cycle is left to be
        collected."""
        self._budget = None

    def feed(self, data: bytes) -> bytes:
        """What is to be passed on of `data` and of what was held; the same object wherever it can be."""
        if self._parked is not None:
            self._late.append(data)
            return b""
        events = self._scanner.feed(data)
        self._fresh = self._scanner.at_boundary
        if self._fresh:
            self._unended = 0
        else:
            self._unended = len(data) - events[-1][2] if events else self._unended + len(data)
        if self.edits:
            return self._sort(data, events)
        for name, payload, _ in events:
            self.meter.read(name, payload)
        self._passing = not self._fresh
        return data

    @property
    def room(self) -> int | None:
        """Bytes of content in template events that may pass without `feed`; None: nothing may."""
        if not self._fresh or self.holds_back or self.meter.template is None:
            return None
        return PENDING if self._budget is None else min(PENDING, self._budget.room())

    def count_template(self, events: int, content_bytes: int) -> None:
        """So many passed, within the room that there was."""
        self.meter.count_template(events, content_bytes)
        if self._budget is not None:
            self._budget.verdict()  # which asks for more in time

    def finish(self) -> bytes:
        """The answer is whole: what is held passes."""
        rest = b"".join(self._held)
        for name, payload, _ in self._scanner.finish():
            keep = self.meter.read(name, payload) or self._passes_all
            if not self._passing and keep is not True:
                rest = _altered(rest, payload, keep) if keep else b""
        self._held.clear()
        return rest

    def resume(self) -> bytes:
        """More may pass now, or nothing any more: what is to be passed on of what waited."""
        if self._parked is None:
            return b""
        data, events, start = self._parked
        self._parked = None
        self.holds_back = False
        passing = [self._sort(data, events, start=start, counted=True)]
        while self._late and not self.is_waiting and not self.spent:
            passing.append(self.feed(self._late.pop(0)))
        return b"".join(passing)

    @property
    def is_waiting(self) -> bool:
        """Whether an event waits for leave to pass. What comes meanwhile is kept: the provider is to be stopped."""
        return self._parked is not None

    def _sort(self, data: bytes, events: list[Event], *, start: int = 0, counted: bool = False) -> bytes:
        """`events` end in `data` and begin at `start`. `counted`: the first one was read already."""
        passing: list[bytes] = []
        for number, (name, payload, end) in enumerate(events):
            keep: bool | bytes = True
            verdict = Verdict.PASS
            if counted:
                counted = False
                verdict = self._budget.verdict() if self._budget is not None else verdict
            else:
                content_events = self.meter.content_events
                keep = self.meter.read(name, payload) or self._passes_all
                # Only content is ever too much: a report that comes late changes nothing any more.
                if self._budget is not None and self.meter.content_events != content_events:
                    verdict = self._budget.verdict()
            if verdict is Verdict.WAIT:
                self._parked = (data, events[number:], start)
                self.holds_back = True
                return b"".join(passing)
            over = verdict is Verdict.END
            if self._passing or (keep and not over):
                self._passed_any = True
                whole = [*self._held, data[start:end]]
                passing += whole if keep is True or self._passing else [_altered(b"".join(whole), payload, keep)]
            elif (self._held[0] if self._held else data[start:end]).startswith(b"\n"):
                passing.append(b"\n")  # of the blank line before, a CR LF that two reads share
            self._held.clear()
            self._held_size = 0
            self._passing = False
            start = end
            if over:
                self.spent = self.holds_back = True
                return b"".join(passing)
        if start < len(data):
            self._rest(data[start:] if start else data, passing)
        return passing[0] if len(passing) == 1 else b"".join(passing)

    def _rest(self, rest: bytes, passing: list[bytes]) -> None:
        """What follows the last complete event: the beginning of the next one, or comments."""
        self._held.append(rest)
        self._held_size += len(rest)
        if self._scanner.at_boundary or self._passing or self._held_size > self._hold:
            self._passing = not self._scanner.at_boundary
            passing += self._held
            self._held.clear()
            self._held_size = 0


_payloads = re.compile(rb"^data: (\{.*\})$", re.MULTILINE).findall
"""The JSON objects in server-sent events of the relay's own, which have a line for each."""


def _altered(event: bytes, payload: bytes, new: bytes | bool) -> bytes:
    """An event as it stands on the wire, with another payload."""
    assert isinstance(new, bytes)
    return event.replace(payload, new, 1) if payload in event else b"data: %b\n\n" % new


class _NoEvents:
    """The filter of an answer without events: nothing in it waits, and nothing can be put between."""

    __slots__ = ()

    edits = False
    at_boundary = False
    holds_back = False
    spent = False
    is_waiting = False

    def resume(self) -> bytes:
        return b""


class BodyCollector(_NoEvents):
    """On an answer that is no stream: collected as it passes, or reduced to what matters where it is large, and read at
    its end. One that breaks off is read as far as it came."""

    __slots__ = ("_body", "_is_read", "_is_senseless", "meter")

    def __init__(self, meter: Meter, limit: int) -> None:
        self.meter = meter
        self._body = WholeBody(min(limit, _MOST_HELD))
        self._is_read = False
        self._is_senseless = False

    def __repr__(self) -> str:
        return f"<BodyCollector {'read' if self._is_read else 'collecting'} size={self._body.size}>"

    @property
    def held(self) -> int:
        return self._body.held

    @property
    def uncounted(self) -> dict[str, int]:
        return {"malformed": 1} if self._is_senseless else {}

    @property
    def unread_tokens(self) -> int:
        body = self._body
        return _tokens_of(body.size if self._is_senseless else body.text_bytes, body.attachments)

    def feed(self, data: bytes) -> bytes:
        self._body.feed(data)
        return data

    def finish(self) -> bytes:
        self._read(self._body.read())
        return b""

    def close(self) -> None:
        if not self._is_read:
            self._read(self._body.partial())

    def _read(self, body: bytes | None) -> None:
        self._is_read = True
        if body is not None and not self.meter.read_whole(body):
            body = self._body.reduced()  # what matters can be read of much that is no JSON
            if body is not None and not self.meter.read_whole(body):
                body = None
        self._is_senseless = body is None and self._body.size > 0


class OpaqueFilter(_NoEvents):
    """On an answer that can't be read: it is counted by its bytes, and ends where its tenant's tokens do."""

    __slots__ = ("_budget", "_held", "_size", "holds_back", "is_waiting", "meter", "spent")

    def __init__(self, meter: Meter, budget: Budget | None) -> None:
        self.meter = meter
        self._budget = budget
        self._held: list[bytes] = []
        """What waits for tokens."""
        self._size = 0
        self.holds_back = False
        self.is_waiting = False
        self.spent = False

    def __repr__(self) -> str:
        return f"<OpaqueFilter {'spent' if self.spent else 'passing'} size={self._size}>"

    @property
    def held(self) -> int:
        return sum(map(len, self._held))

    @property
    def uncounted(self) -> dict[str, int]:
        return {"unreadable": 1}

    @property
    def unread_tokens(self) -> int:
        return _tokens_of(self._size, 0)

    def feed(self, data: bytes) -> bytes:
        self._size += len(data)
        if self._budget is None:
            return data
        if self.is_waiting:
            self._held.append(data)
            return b""
        return self._let_pass(data, self._budget)

    def resume(self) -> bytes:
        if not self.is_waiting or self._budget is None:
            return b""
        data = b"".join(self._held)
        self._held.clear()
        return self._let_pass(data, self._budget)

    def _let_pass(self, data: bytes, budget: Budget) -> bytes:
        """`data`, if it may pass now."""
        verdict = budget.verdict()
        self.is_waiting = verdict is Verdict.WAIT
        self.spent = verdict is Verdict.END
        self.holds_back = verdict is not Verdict.PASS
        if self.is_waiting:
            self._held.append(data)
        return b"" if self.holds_back else data

    def finish(self) -> bytes:
        return b""

    def close(self) -> None:
        self._budget = None
        self._held.clear()


class ModelListFilter(_NoEvents):
    """On a list of models: held until it is whole, since a tenant sees its own models only."""

    __slots__ = ("_parts", "_select", "_size", "meter")

    uncounted: Mapping[str, int] = {}
    unread_tokens = 0
    edits = True

    def __init__(self, select: Callable[[bytes], bytes]) -> None:
        """`select` makes of a list what may be seen of it. One that is too long comes to it as b""."""
        self.meter: Meter | None = None
        self._select = select
        self._parts: list[bytes] = []
        self._size = 0

    def __repr__(self) -> str:
        return f"<ModelListFilter size={self._size}>"

    @property
    def held(self) -> int:
        return sum(map(len, self._parts))

    def feed(self, data: bytes) -> bytes:
        self._size += len(data)
        if self._size <= _LONGEST_LIST:
            self._parts.append(data)
        else:
            self._parts.clear()
        return b""

    def finish(self) -> bytes:
        return self._select(b"".join(self._parts))

    def close(self) -> None:
        self._parts.clear()
        self._select = bytes


AnyFilter = EventFilter | BodyCollector | OpaqueFilter | ModelListFilter
