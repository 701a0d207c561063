"""The ends of JSON lines. No I/O."""

from __future__ import annotations

from .scanner import Event, LineScanner, moved


class NdjsonScanner(LineScanner):
    """application/x-ndjson: one JSON text in each line. Lines end with LF or CRLF, the last one possibly with the
    stream; empty lines are not events."""

    __slots__ = ()

    def finish(self) -> list[Event]:
        return self.feed(b"\n")

    def feed(self, data: bytes) -> list[Event]:
        size = len(data)
        if self.at_boundary and size <= self._max:
            line, found, rest = data.partition(b"\n")
            if found and line and not rest and b"\r" not in line:
                return [(b"", line, size)]
        return self._scan(data)

    def _scan(self, data: bytes) -> list[Event]:
        held = len(self._held)
        if held:
            if b"\n" not in data:
                self._hold(data)
                return []
            if self._large is not None:
                end = data.index(b"\n") + 1
                return self._end_large(data[: end - 1], end) + moved(self._scan(data[end:]), end)
            data = self._take() + data
        *lines, rest = data.split(b"\n")
        events: list[Event] = []
        end = -held
        for line in lines:
            end += len(line) + 1
            if len(line) > self._max:
                events += self._end_large(line, end)
            elif payload := line.removesuffix(b"\r"):
                events.append((b"", payload, end))
        self._hold(rest)
        return events
