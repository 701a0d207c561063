"""The open parts of a Responses stream, and the events that close them early. No I/O."""

from __future__ import annotations

from typing import Any

from .openai_common import entries, mapping, parse

KEPT = 640 << 10
"""Most bytes of an answer that are kept for its ending: almost twice what the longest answers have."""
ENTRY = 1024
"""Overhead of an item or a part in memory, in bytes."""
_MOST_ID = 256
"""Characters of an id in the ending."""

_TEXT_FIELDS = {
    "response.refusal": "refusal",
    "response.function_call_arguments": "arguments",
    "response.mcp_call_arguments": "arguments",
    "response.custom_tool_call_input": "input",
    "response.code_interpreter_call_code": "code",
}
"""Where the text of a `.delta` goes, in its `.done` and in what holds it; elsewhere it is "text"."""
_PLACE_FIELDS = ("item_id", "output_index", "content_index", "summary_index")

Place = tuple[int | None, int | None, int | None]


def _place(event: dict[str, Any]) -> Place:
    """What a part's events have in common: a text has at most one of the last two indexes."""
    return _index(event, "output_index"), _index(event, "content_index"), _index(event, "summary_index")


def _index(event: dict[str, Any], name: str) -> int | None:
    value = event.get(name)
    return value if type(value) is int else None


def _whereabouts(event: dict[str, Any]) -> dict[str, int | str]:
    """The fields that identify what an event is about."""
    found: dict[str, int | str] = {}
    for name in _PLACE_FIELDS:
        value = event.get(name)
        if type(value) is int:
            found[name] = value
        elif type(value) is str:
            found[name] = value[:_MOST_ID]
    return found


class _Part:
    """A text that is being written: a part of an item's list, or (`opening` empty) a field of the item itself."""

    __slots__ = ("closed", "data", "done", "kind", "opening", "text", "whereabouts")

    def __init__(self, event: dict[str, Any], opening: str = "", data: bytes = b"") -> None:
        """`event` is the first event about it."""
        self.whereabouts = _whereabouts(event)
        self.opening = opening
        """The first event's type if it announced a part, else empty."""
        self.data = data
        """That event unparsed, which takes much less memory; b"" if it did not."""
        self.kind: str | None = None
        """The deltas' type without ".delta"; None: none came."""
        self.text = bytearray()
        self.done = False
        """Whether the text's own end has arrived."""
        self.closed = False
        """Whether the part's end has arrived."""

    @property
    def size(self) -> int:
        return len(self.data) + len(self.text)


class Items:
    """The output items so far: finished ones unchanged, the others with their parts.

    Beyond `KEPT` bytes everything is dropped and nothing more is kept. `ending` then closes nothing and has no output.
    """

    __slots__ = ("_finished", "_is_full", "_open", "_parts", "_size")

    def __init__(self) -> None:
        self._open: dict[int | None, bytes] = {}
        """Events, unparsed until they are needed."""
        self._finished: dict[int | None, bytes] = {}
        self._parts: dict[Place, _Part] = {}
        self._size = 0
        """Bytes in the three."""
        self._is_full = False

    def delta(self, kind: str, event: dict[str, Any], text: str) -> None:
        """A piece of text; `kind` is the event's type without ".delta"."""
        if self._is_full:
            return
        place = _place(event)
        part = self._parts.get(place)
        if part is None:
            part = self._open_part(place, _Part(event))
        part.kind = kind
        written = text.encode()
        part.text.extend(written)
        self._grow(len(written))

    def change(self, kind: str, event: dict[str, Any], data: bytes) -> None:
        """Any other event; `data` is the event unparsed."""
        if self._is_full:
            return
        match kind:
            case "response.output_item.added":
                self._put(self._open, _index(event, "output_index"), data)
            case "response.output_item.done":
                self._finish(_index(event, "output_index"), data)
            case _ if kind.endswith("_part.added"):
                self._open_part(_place(event), _Part(event, kind, data))
            case _ if kind.endswith(".done") and (part := self._parts.get(_place(event))):
                part.done = True
                part.closed = kind.endswith("_part.done")

    def _finish(self, index: int | None, data: bytes) -> None:
        self._drop(self._open, index)
        for place in [place for place in self._parts if place[0] == index]:
            self._drop_part(place)
        self._put(self._finished, index, data)

    def _put(self, items: dict[int | None, bytes], index: int | None, data: bytes) -> None:
        self._drop(items, index)
        items[index] = data
        self._grow(len(data) + ENTRY)

    def _drop(self, items: dict[int | None, bytes], index: int | None) -> None:
        before = items.pop(index, None)
        if before is not None:
            self._size -= len(before) + ENTRY

    def _open_part(self, place: Place, part: _Part) -> _Part:
        self._drop_part(place)
        self._parts[place] = part
        self._grow(part.size + ENTRY)
        return part

    def _drop_part(self, place: Place) -> None:
        before = self._parts.pop(place, None)
        if before is not None:
            self._size -= before.size + ENTRY

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > KEPT:
            self._is_full = True
            self._open.clear()
            self._finished.clear()
            self._parts.clear()

    def ending(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The events that close what is open, and all output items in their final state."""
        events: list[dict[str, Any]] = []
        output = {index: _item(data) for index, data in self._finished.items()}
        for index, data in self._open.items():
            closed = {**_item(data), "status": "incomplete"}
            for place, part in self._parts.items():
                if place[0] == index:
                    events += _close(part, closed)
            events.append({"type": "response.output_item.done", "output_index": index, "item": closed})
            output[index] = closed
        return events, [output[index] for index in sorted(output, key=lambda index: index or 0)]


def _item(data: bytes) -> dict[str, Any]:
    """The item in an event."""
    return mapping((parse(data) or {}).get("item"))


def _close(part: _Part, item: dict[str, Any]) -> list[dict[str, Any]]:
    """The events that close `part`, whose text goes into `item`."""
    kind = part.kind
    field = _TEXT_FIELDS.get(kind or "", "text")
    text = part.text.decode()
    place = part.whereabouts
    events: list[dict[str, Any]] = []
    if kind is not None and not part.done:
        done: dict[str, Any] = {"type": kind + ".done", **place, field: text}
        events.append({**done, "logprobs": []} if kind == "response.output_text" else done)
    begun = mapping((parse(part.data) or {}).get("part"))
    if not begun:
        item[field] = text
        return events
    whole = {**begun, field: text} if kind is not None else begun
    holder = "summary" if "summary_index" in place else "content"
    item[holder] = [*entries(item.get(holder)), whole]
    if not part.closed:
        events.append({"type": part.opening.removesuffix("added") + "done", **place, "part": whole})
    return events
