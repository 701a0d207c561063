"""Reads an answer while it passes: events are counted when they are complete, and the bytes pass unchanged, except for
events that the client did not ask for and for the end of its budget. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from ..dialects.base import Meter
from ..dialects.byte_classes import PENDING
from ..events.json_array import JsonArrayScanner
from ..events.ndjson import NdjsonScanner
from ..events.scanner import Event, Scanner
from ..events.whole_body import WholeBody
from ..quota.lease import Verdict

_MOST_HELD: Final = 1 << 18
"""Largest whole answer, in bytes, that is parsed at once, in some milliseconds; a larger one is reduced as it
arrives."""
_LONGEST_LIST = 1 << 22
"""Most bytes of a list of models; the longest known have half a megabyte."""
_BYTES_A_TOKEN: Final = 4
_ATTACHED: Final = 1000
"""Tokens counted for an image or a file, whose bytes do not tell."""


def _tokens_of(size: int, attachments: int) -> int:
    """Tokens estimated from bytes alone, for what was not read."""
    return -(-size // _BYTES_A_TOKEN) + attachments * _ATTACHED


class Budget(Protocol):
    """Decides how far a stream may go."""

    def verdict(self) -> Verdict:
        """The verdict on everything that the meter has read."""

    def room(self) -> int:
        """Bytes of content that may pass now."""


class EventFilter:
    """The filter of a stream of events.

    `withholds`: events that the meter marks are removed. In that case, or with a budget, up to `hold` bytes of an
    unfinished event wait here for its end; a longer event passes in parts.
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
        self._budget = budget
        # Flags side by side: see CONTRIBUTING.md, "The compiled build".
        self._passes_all = not withholds
        self.edits = withholds or budget is not None
        """Whether the output may differ in size from the input."""
        self._passing = False
        """Whether the beginning of an unfinished event has passed."""
        self._passed_any = False
        """Whether an event has passed; only maintained by `_sort`."""
        self._fresh = False
        """Whether the next byte begins an event; at the start it may belong to a byte order mark."""
        self.holds_back = False
        """Whether an event waits, or the budget is reached: `feed` has not returned everything."""
        self.spent = False
        """The budget is reached: what `feed` returned is the last to pass, and it ends with a complete event."""
        self._hold = hold if self.edits else 0
        self._held: list[bytes] | None = None
        """Pieces of an unfinished event; None: nothing is held. An empty list would take 56 bytes of every stream."""
        self._held_size = 0
        self._unended = 0
        """Bytes after the last event: of an unfinished one, or malformed."""
        self._parked: tuple[bytes, list[Event], int] | None = None
        """The bytes of events that may not pass yet, these events, of which the first one is counted, and where they
        begin."""
        self._late: list[bytes] | None = None
        """What arrived after them; None: nothing."""

    def __repr__(self) -> str:
        state = "spent" if self.spent else "waiting" if self.is_waiting else "passing"
        place = " in mid-event" if self._passing else ""
        return f"<EventFilter {state}{place} held={self._held_size} events={self.meter.content_events}>"

    @property
    def held(self) -> int:
        """Bytes that wait here, or belong to an unfinished event."""
        late = sum(map(len, self._late or ())) + (len(self._parked[0]) if self._parked is not None else 0)
        return self._held_size + late + self._scanner.held

    @property
    def at_boundary(self) -> bool:
        """Whether the output so far ends with a complete event, so that something may be inserted."""
        return not self._passing

    @property
    def uncounted(self) -> dict[str, int]:
        """Events that could not be read, by reason. A malformed stream, or a malformed part of one, counts as one."""
        scanner = self._scanner
        found = {"large_event": scanner.oversized, "malformed": int(scanner.broken or self.meter.unread > 0)}
        return {reason: events for reason, events in found.items() if events}

    @property
    def unread_tokens(self) -> int:
        """Tokens of large events, estimated from the bytes of their texts, and of malformed data, from its bytes."""
        scanner = self._scanner
        senseless = self._unended if scanner.broken else 0
        return _tokens_of(scanner.unread_text + senseless + self.meter.unread, scanner.attachments)

    def framed(self, events: bytes) -> bytes:
        """Server-sent `events`, which end the stream here, in the framing of this answer."""
        scanner = self._scanner
        if isinstance(scanner, JsonArrayScanner):
            before, behind = scanner.closing(self._passed_any)
            return before + b",".join(_payloads(events)) + behind
        if isinstance(scanner, NdjsonScanner) and (payloads := _payloads(events)):
            return b"".join(payload + b"\n" for payload in payloads)
        return events

    def close(self) -> None:
        """Nothing more will arrive, whether the answer is complete or not. Breaks the reference cycle with the
        budget."""
        self._budget = None

    def feed(self, data: bytes) -> bytes:
        """The bytes to pass on, from `data` and from what was held; the same object whenever possible."""
        if self._parked is not None:
            self._late = self._late or []
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
        """Bytes of content that may pass in template events without `feed`; None: nothing may."""
        if not self._fresh or self.holds_back or self.meter.template is None:
            return None
        return PENDING if self._budget is None else min(PENDING, self._budget.room())

    def count_template(self, events: int, content_bytes: int) -> None:
        """Count events that passed without `feed`, within `room`."""
        self.meter.count_template(events, content_bytes)
        if self._budget is not None:
            self._budget.verdict()  # requests more tokens in time

    def finish(self) -> bytes:
        """The answer is complete: returns what is held."""
        rest = b"".join(self._held or ())
        for name, payload, _ in self._scanner.finish():
            keep = self.meter.read(name, payload) or self._passes_all
            if not self._passing and keep is not True:
                rest = _altered(rest, payload, keep) if keep else b""
        self._held = None
        return rest

    def resume(self) -> bytes:
        """The verdict may have changed: returns what may pass of what waited."""
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
        """Whether an event waits for permission to pass. What arrives meanwhile is kept, so the provider must be
        stopped."""
        return self._parked is not None

    def _sort(self, data: bytes, events: list[Event], *, start: int = 0, counted: bool = False) -> bytes:
        """Pass, hold or remove `events`, which end in `data`; they begin at `start`. `counted`: the first one was
        counted before."""
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
                # Only content can exceed the budget: a late report changes nothing.
                if self._budget is not None and self.meter.content_events != content_events:
                    verdict = self._budget.verdict()
            if verdict is Verdict.WAIT:
                self._parked = (data, events[number:], start)
                self.holds_back = True
                return b"".join(passing)
            over = verdict is Verdict.END
            if self._passing or (keep and not over):
                self._passed_any = True
                whole = [data[start:end]] if self._held is None else [*self._held, data[start:end]]
                passing += whole if keep is True or self._passing else [_altered(b"".join(whole), payload, keep)]
            elif (data[start:end] if self._held is None else self._held[0]).startswith(b"\n"):
                passing.append(b"\n")  # completes the blank line before: a CR LF split between two reads
            self._held = None
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
        """Handle what follows the last complete event: the beginning of the next one, or comments."""
        held = self._held or []
        held.append(rest)
        size = self._held_size + len(rest)
        if self._scanner.at_boundary or self._passing or size > self._hold:
            self._passing = not self._scanner.at_boundary
            passing += held
            self._held, self._held_size = None, 0
        else:
            self._held, self._held_size = held, size


_payloads = re.compile(rb"^data: (\{.*\})$", re.MULTILINE).findall
"""Finds the JSON objects in the relay's own server-sent events, which have one line each."""


def _altered(event: bytes, payload: bytes, new: bytes | bool) -> bytes:
    """An event's bytes with its payload replaced."""
    assert isinstance(new, bytes)
    return event.replace(payload, new, 1) if payload in event else b"data: %b\n\n" % new


class _NoEvents:
    """The filter of an answer without events: nothing waits in it, and nothing can be inserted."""

    __slots__ = ()

    edits = False
    at_boundary = False
    holds_back = False
    spent = False
    is_waiting = False

    def resume(self) -> bytes:
        return b""


class BodyCollector(_NoEvents):
    """The filter of an answer that is not a stream: it is collected as it passes, or reduced if it is large, and read
    at its end. One that breaks off is read as far as it arrived."""

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
            body = self._body.reduced()  # the relevant fields can be read even from much that is not valid JSON
            if body is not None and not self.meter.read_whole(body):
                body = None
        self._is_senseless = body is None and self._body.size > 0


class OpaqueFilter(_NoEvents):
    """The filter of an unreadable answer: it is counted by its bytes, and cut when its tenant's tokens are used up."""

    __slots__ = ("_budget", "_held", "_size", "holds_back", "is_waiting", "meter", "spent")

    def __init__(self, meter: Meter, budget: Budget | None) -> None:
        self.meter = meter
        self._budget = budget
        self._held: list[bytes] = []
        """Data that waits for tokens."""
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
    """The filter of a list of models: held until it is complete, since a tenant may see only its own models."""

    __slots__ = ("_parts", "_select", "_size", "meter")

    uncounted: Mapping[str, int] = {}
    unread_tokens = 0
    edits = True

    def __init__(self, select: Callable[[bytes], bytes]) -> None:
        """`select` reduces a list to what the client may see. It gets b"" for a list that is too long."""
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
