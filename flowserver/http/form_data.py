"""Finds fields in a form that arrives in pieces: multipart/form-data (RFC 7578, RFC 2046 section 5.1). No I/O.

Files are skipped, not kept. Anything that two readers could read differently is a problem: a field that matters and
appears twice or in another case, boundaries that only some readers recognise, and parts whose head is not in the plain
form that client libraries write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum

from ..json_text.members import Problem, folded

_MOST_HEAD = 8192
_MOST_VALUE = 8192
_MOST_PARTS = 256
"""Each takes up to 20 us."""
_MOST_PARAMETERS = 8
"""Of a part's description; plain ones have two or three."""

_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\r\n\0]*)")
_PARAMETER = re.compile(rb'[ \t]*;[ \t]*([A-Za-z*]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s";,]+))')
_KIND = re.compile(rb"[ \t]*form-data", re.IGNORECASE)
_CHARSET = re.compile(rb"charset[^=;]*=([^;]*)", re.IGNORECASE)
_CHARSETS = frozenset((b"utf-8", b"utf8", b"us-ascii", b"ascii", b"iso-8859-1"))
"""Charsets in which ASCII bytes mean ASCII."""
_PLAIN_ENCODINGS = frozenset((b"7bit", b"8bit", b"binary"))


def has_plain_charset(content_type: bytes) -> bool:
    """Whether names and values in a body of this type are what they look like: in UTF-7, for one, they are not."""
    return all(charset.strip(b" \t\"'").lower() in _CHARSETS for charset in _CHARSET.findall(content_type))


class _State(Enum):
    PREAMBLE = 0
    DELIMITER = 1
    """After a boundary: a line end, or the two hyphens of the last one."""
    HEAD = 2
    VALUE = 3
    """In a part whose content is kept."""
    PASSED_OVER = 4
    CLOSED = 5
    """After the last boundary's hyphens: a line end, or the end of the body."""
    EPILOGUE = 6


class FormMembers:
    """`feed` the body as it comes, then `finish`. Once there is a `problem`, nothing more is read."""

    __slots__ = (
        "_begin",
        "_edge",
        "_held",
        "_name",
        "_offset",
        "_parts",
        "_state",
        "_wanted",
        "model_place",
        "problem",
        "values",
    )

    def __init__(self, boundary: bytes, wanted: Iterable[str]) -> None:
        self._edge = b"--" + boundary
        self._wanted = {folded(name.encode()): name for name in wanted}
        self._state = _State.PREAMBLE
        self._held = b"\r\n"  # the first boundary may begin the body
        self._offset = -2
        self._name = ""
        self._parts = 0
        self._begin = 0
        """Where the content of the part begins."""
        self.values: dict[str, str] = {}
        self.model_place: tuple[int, int] | None = None
        """Where in the body the model's name is."""
        self.problem: Problem | None = None

    def feed(self, data: bytes) -> None:
        if self.problem is None:
            self._read(self._held + data)

    def _read(self, data: bytes) -> None:
        position = 0
        while self.problem is None:
            state = self._state
            if state is _State.HEAD:
                position = self._head(data, position)
            elif state is _State.DELIMITER:
                position = self._delimiter(data, position)
            elif state is _State.CLOSED:
                position = self._close(data, position)
            elif state is _State.EPILOGUE:
                position = self._epilogue(data, position)
            else:
                position = self._content(data, position)
            if self._state is state:
                break
        self._held = data[position:]
        self._offset += position

    def finish(self) -> None:
        is_whole = self._state is _State.EPILOGUE or (self._state is _State.CLOSED and not self._held)
        if self.problem is None and not is_whole:
            self.problem = Problem("it ends in the middle")

    def _delimiter(self, data: bytes, position: int) -> int:
        following = data[position : position + 2]
        if len(following) < 2:
            return position
        if following == b"--":
            self._state = _State.CLOSED
        elif following == b"\r\n":
            self._state = _State.HEAD
        else:
            self.problem = Problem("a boundary is not followed by a line end")
        return position + 2

    def _close(self, data: bytes, position: int) -> int:
        """Anything else after the hyphens is a part's content to some readers."""
        following = data[position : position + 2]
        if not b"\r\n".startswith(following):
            self.problem = Problem("the last boundary is not followed by a line end")
        elif len(following) == 2:
            self._state = _State.EPILOGUE
        return position

    def _head(self, data: bytes, position: int) -> int:
        """The head of a part. It is checked as soon as it is complete, before any of the part's content."""
        end = data.find(b"\r\n\r\n", position)
        head = data[position : end if end >= 0 else len(data)]
        if data.startswith(b"\r\n", position):
            self.problem = Problem("a part has no head")
        elif len(head) > _MOST_HEAD:
            self.problem = Problem("the head of a part is too long")
        elif self._parts == _MOST_PARTS:
            self.problem = Problem(f"it has more than {_MOST_PARTS} parts")
        elif _has_odd_ends(head):
            self.problem = Problem("the head of a part has a line end that is not CR LF")
        elif end >= 0:
            self._parts += 1
            self._describe(head)
            self._begin = self._offset + end + 4
            return end + 2  # the empty line's end may be all that stands before the next boundary
        return position

    def _describe(self, head: bytes) -> None:
        fields = _fields(head)
        found = _name(fields.get(b"content-disposition", b"")) if fields is not None else None
        if fields is None or found is None:
            self.problem = Problem("a part is not described as form data with a name")
            return
        raw, is_file = found
        name = self._wanted.get(folded(raw.strip()))
        self._state = _State.PASSED_OVER if name is None else _State.VALUE
        if name is None:
            return
        self._name = name
        if raw != name.encode():
            text = f"the field {raw.decode(errors='replace')!r} can be taken for {name!r}"
        elif name in self.values:
            text = f"the field {name!r} appears more than once"
        elif is_file or not _is_plain(fields):
            text = f"the field {name!r} is a file or encoded"
        else:
            return
        self.problem = Problem(text, is_ambiguous=True)

    def _content(self, data: bytes, position: int) -> int:
        """The bytes of a part up to the next boundary."""
        found = data.find(b"\n" + self._edge, position)
        bare = data.find(b"\r" + self._edge, position, found if found >= 0 else len(data))
        if bare >= 0 or (found >= 0 and data[found - 1 : found] != b"\r"):
            self.problem = Problem("a boundary is not on a line of its own")
        elif found >= 0:
            self._end(data, found - 1)
            return found + 1 + len(self._edge)
        elif self._state is not _State.VALUE:
            return max(position, len(data) - len(self._edge) - 1)
        elif len(data) - position > _MOST_VALUE + len(b"\r\n\r\n" + self._edge):
            self.problem = Problem(f"the field {self._name!r} is longer than {_MOST_VALUE} bytes")
        return position

    def _end(self, data: bytes, end: int) -> None:
        """The content of a part ends, or the preamble."""
        if self._state is not _State.PREAMBLE and self._offset + end < self._begin:
            self.problem = Problem("a part has no content, and no empty line for it")
        elif self._state is _State.VALUE:
            self._keep(data[self._begin - self._offset : end])
        self._state = _State.DELIMITER

    def _epilogue(self, data: bytes, position: int) -> int:
        """Some readers go on if another boundary follows the last one."""
        if data.find(self._edge, position) >= 0:
            self.problem = Problem("another boundary follows the last one")
        return max(position, len(data) - len(self._edge) + 1)

    def _keep(self, value: bytes) -> None:
        if len(value) > _MOST_VALUE:
            self.problem = Problem(f"the field {self._name!r} is longer than {_MOST_VALUE} bytes")
            return
        try:
            self.values[self._name] = value.decode()
        except UnicodeDecodeError:
            self.problem = Problem(f"the field {self._name!r} is not UTF-8")
            return
        if self._name == "model":
            self.model_place = (self._begin, self._begin + len(value))


def _has_odd_ends(head: bytes) -> bool:
    """Whether it has line ends that only some readers recognise."""
    inside = head.removesuffix(b"\r").replace(b"\r\n", b"")
    return any(byte in inside for byte in (b"\r", b"\n", b"\0"))


def _fields(head: bytes) -> dict[bytes, bytes] | None:
    """The fields of a part's head, names in lower case; None: a line is not a field, or a name appears twice."""
    lines = [_FIELD.fullmatch(line) for line in head.split(b"\r\n")]
    fields = {line[1].lower(): line[2].strip(b" \t") for line in lines if line is not None}
    return fields if len(fields) == len(lines) else None


def _name(disposition: bytes) -> tuple[bytes, bool] | None:
    """(a part's name, whether it is a file); None if they are not in plain form: readers differ about escapes."""
    kind = _KIND.match(disposition)
    position = kind.end() if kind is not None else 0
    parameters: list[tuple[bytes, bytes]] = []
    while (
        kind is not None
        and len(parameters) < _MOST_PARAMETERS
        and (match := _PARAMETER.match(disposition, position)) is not None
    ):
        parameters.append((match[1].lower(), match[2] if match[2] is not None else match[3]))
        position = match.end()
    names = [value for name, value in parameters if name == b"name"]
    known = {name for name, _ in parameters}
    if position < len(disposition) or len(names) != 1 or b"name*" in known or b"\\" in names[0]:
        return None
    return names[0], bool(known & {b"filename", b"filename*"})


def _is_plain(fields: dict[bytes, bytes]) -> bool:
    encoding = fields.get(b"content-transfer-encoding", b"binary").lower()
    return encoding in _PLAIN_ENCODINGS and has_plain_charset(fields.get(b"content-type", b""))
