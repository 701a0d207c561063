"""Finds fields in a form that arrives in pieces: multipart/form-data (RFC 7578, RFC 2046 section 5.1). No I/O.

Files are passed over without being kept. What two readers could read in two ways is a problem: a field that matters
and is there twice or in another case, and parts that are not described in the plain form that client libraries write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum

from .json_members import Problem

_MOST_HEAD = 8192
_MOST_VALUE = 8192

_DISPOSITION = re.compile(
    rb'form-data((?:[ \t]*;[ \t]*[A-Za-z*]+=(?:"[^"\\\r\n]*(?:\\.[^"\\\r\n]*)*"|[^\s";,]+))*)[ \t]*', re.IGNORECASE
)
_PARAMETER = re.compile(rb';[ \t]*([A-Za-z*]+)=(?:"([^"\r\n]*(?:\\.[^"\r\n]*)*)"|([^\s";,]+))')


class _State(Enum):
    PREAMBLE = 0
    DELIMITER = 1
    """Behind a boundary: a line end, or the two hyphens of the last one."""
    HEAD = 2
    VALUE = 3
    """In a part that is kept."""
    PASSED_OVER = 4
    EPILOGUE = 5


class FormMembers:
    """`feed` the body as it comes, then `finish`. After a `problem` nothing is read any more."""

    __slots__ = ("_boundary", "_held", "_name", "_offset", "_state", "_wanted", "model_place", "problem", "values")

    def __init__(self, boundary: bytes, wanted: Iterable[str]) -> None:
        self._boundary = b"\r\n--" + boundary
        self._wanted = frozenset(wanted)
        self._state = _State.PREAMBLE
        self._held = b"\r\n"  # the first boundary may begin the body
        self._offset = -2
        self._name = ""
        self.values: dict[str, str] = {}
        self.model_place: tuple[int, int] | None = None
        """Where the model's name stands in the body."""
        self.problem: Problem | None = None

    def feed(self, data: bytes) -> None:
        if self.problem is not None:
            return
        data = self._held + data
        position = 0
        while self.problem is None:
            state, before = self._state, position
            if state is _State.HEAD:
                position = self._head(data, position)
            elif state is _State.DELIMITER:
                position = self._delimiter(data, position)
            elif state is _State.EPILOGUE:
                position = len(data)
            else:
                position = self._content(data, position)
            if self._state is state:
                if state is _State.HEAD and len(data) - before > _MOST_HEAD:
                    self.problem = Problem("the head of a part is too long")
                break
        self._held = data[position:]
        self._offset += position

    def finish(self) -> None:
        if self.problem is None and self._state is not _State.EPILOGUE:
            self.problem = Problem("it ends in the middle")

    def _delimiter(self, data: bytes, position: int) -> int:
        following = data[position : position + 2]
        if len(following) < 2:
            return position
        if following == b"--":
            self._state = _State.EPILOGUE
        elif following == b"\r\n":
            self._state = _State.HEAD
        else:
            self.problem = Problem("a boundary is followed by something else than a line end")
        return position + 2

    def _head(self, data: bytes, position: int) -> int:
        end = position if data.startswith(b"\r\n", position) else data.find(b"\r\n\r\n", position)
        if end < 0:
            return position
        lines = data[position:end].split(b"\r\n") if end > position else []
        name = self._described(lines)
        if name is None:
            self.problem = self.problem or Problem("a part is not described as form data with a name")
            return position
        begin = end + (2 if end == position else 4)
        if len(data) < begin + len(self._boundary) - 2:
            return position
        if data.startswith(self._boundary, begin - 2):
            self.problem = Problem("a part has no content, and no empty line for it")
            return position
        wanted = name in self._wanted
        if not wanted and name.casefold() in self._wanted:
            self.problem = Problem(f"the field {name!r} differs from one that matters in case only", is_ambiguous=True)
        elif wanted and name in self.values:
            self.problem = Problem(f"the field {name!r} is there more than once", is_ambiguous=True)
        self._name = name
        self._state = _State.VALUE if wanted else _State.PASSED_OVER
        return begin

    def _described(self, lines: list[bytes]) -> str | None:
        """The name of a part; None: it is described in no plain form."""
        found = [line.partition(b":")[2].strip() for line in lines if line.lower().startswith(b"content-disposition:")]
        if len(found) != 1 or any(line[:1] in b" \t" for line in lines):
            return None
        match = _DISPOSITION.fullmatch(found[0])
        if match is None:
            return None
        parameters = [(name.lower(), quoted or plain) for name, quoted, plain in _PARAMETER.findall(match[1])]
        names: list[bytes] = [value for name, value in parameters if name == b"name"]
        if len(names) != 1 or any(name == b"name*" for name, _ in parameters):
            return None
        return names[0].decode(errors="replace")

    def _content(self, data: bytes, position: int) -> int:
        """The bytes of a part up to the next boundary."""
        found = data.find(self._boundary, position)
        if found >= 0:
            if self._state is _State.VALUE:
                self._keep(data[position:found], self._offset + position)
            self._state = _State.DELIMITER
            return found + len(self._boundary)
        if self._state is _State.VALUE:
            if len(data) - position > _MOST_VALUE:
                self.problem = Problem(f"the field {self._name!r} is longer than {_MOST_VALUE} bytes")
            return position
        return max(position, len(data) - len(self._boundary) + 1)

    def _keep(self, value: bytes, start: int) -> None:
        try:
            self.values[self._name] = value.decode()
        except UnicodeDecodeError:
            self.problem = Problem(f"the field {self._name!r} is not UTF-8")
            return
        if self._name == "model":
            self.model_place = (start, start + len(value))
