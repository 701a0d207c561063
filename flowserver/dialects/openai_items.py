"""What of a Responses stream is open, and the events that close it early. No I/O."""

from __future__ import annotations

from typing import Any

from .openai_common import entries, mapping, parse

KEPT = 1 << 20
"""Most bytes of an answer that are kept for its ending: three times what the longest answers have."""

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


class _Part:
    """A text that is being written: a part of an item's list, or (`part` empty) a field of the item itself."""

    __slots__ = ("closed", "done", "event", "kind", "opening", "part", "text")

    def __init__(self, event: dict[str, Any], opening: str = "") -> None:
        self.event = event
        """The first event about it."""
        self.opening = opening
        """Its type, if it told of a part."""
        self.part = mapping(event.get("part")) if opening else {}
        self.kind: str | None = None
        """The deltas' type without ".delta"; None: none came."""
        self.text = bytearray()
        self.done = False
        """Whether the text's own end came."""
        self.closed = False
        """Whether the part's end came."""


class Items:
    """The output items so far: finished ones as they came, the others with their parts.

    Past `KEPT` bytes nothing is kept any more. `ending` closes nothing then, and has no output.
    """

    __slots__ = ("_finished", "_open", "_parts", "_size")

    def __init__(self) -> None:
        self._open: dict[int | None, dict[str, Any]] = {}
        self._finished: dict[int | None, bytes] = {}
        """Events, not parsed again before they are needed."""
        self._parts: dict[Place, _Part] = {}
        self._size = 0

    def delta(self, kind: str, event: dict[str, Any], text: str) -> None:
        """A piece of text; `kind` is the event's type without ".delta"."""
        place = _place(event)
        part = self._parts.get(place)
        if part is None:
            part = self._parts[place] = _Part(event)
        part.kind = kind
        written = text.encode()
        part.text += written
        self._grow(len(written))

    def change(self, kind: str, event: dict[str, Any], data: bytes) -> None:
        """Any other event; `data` is the event unparsed."""
        match kind:
            case "response.output_item.added":
                self._open[_index(event, "output_index")] = mapping(event.get("item"))
                self._grow(len(data))
            case "response.output_item.done":
                self._finish(_index(event, "output_index"), data)
            case _ if kind.endswith("_part.added"):
                self._parts[_place(event)] = _Part(event, kind)
            case _ if kind.endswith(".done") and (part := self._parts.get(_place(event))):
                part.done = True
                part.closed = kind.endswith("_part.done")

    def _finish(self, index: int | None, data: bytes) -> None:
        self._open.pop(index, None)
        self._finished[index] = data
        for place in [place for place in self._parts if place[0] == index]:
            del self._parts[place]
        self._grow(len(data))

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > KEPT:
            self._open.clear()
            self._finished.clear()
            self._parts.clear()

    def ending(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The events that close what is open, and all output items as they are then."""
        if self._size > KEPT:
            return [], []
        events: list[dict[str, Any]] = []
        output = {index: mapping((parse(data) or {}).get("item")) for index, data in self._finished.items()}
        for index, item in self._open.items():
            closed = {**item, "status": "incomplete"}
            for place, part in self._parts.items():
                if place[0] == index:
                    events += _close(part, closed)
            events.append({"type": "response.output_item.done", "output_index": index, "item": closed})
            output[index] = closed
        return events, [output[index] for index in sorted(output, key=lambda index: index or 0)]


def _close(part: _Part, item: dict[str, Any]) -> list[dict[str, Any]]:
    """The events that close `part`, whose text goes into `item`."""
    kind = part.kind
    field = _TEXT_FIELDS.get(kind or "", "text")
    text = part.text.decode()
    place = {name: part.event[name] for name in _PLACE_FIELDS if name in part.event}
    events: list[dict[str, Any]] = []
    if kind is not None and not part.done:
        done: dict[str, Any] = {"type": kind + ".done", **place, field: text}
        events.append({**done, "logprobs": []} if kind == "response.output_text" else done)
    if not part.part:
        item[field] = text
        return events
    whole = {**part.part, field: text} if kind is not None else part.part
    holder = "summary" if "summary_index" in part.event else "content"
    item[holder] = [*entries(item.get(holder)), whole]
    if not part.closed:
        events.append({"type": part.opening.removesuffix("added") + "done", **place, "part": whole})
    return events
