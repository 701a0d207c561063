"""A request's body: what it asks for, read as it arrives, and how it is changed for a provider. No I/O.

Requests to counted APIs are JSON, or forms if files are sent. The relevant fields are read whatever the body's size;
everything else stays unchanged, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final, Protocol

from ..dialects.conversation import CONVERSATION_NAMES
from ..errors import RelayError, bad_request
from ..http.form_data import FormMembers, has_plain_charset
from ..http.messages import RequestHead
from ..json_text.edits import Edit, Places, apply, edits
from ..json_text.members import NOTHING_NOTED, JsonMembers, Member, Problem, Reads
from ..names import cached

_MODEL_ONLY: Final = Reads({"model": None})
_BOUNDARY = re.compile(rb"""([\w'()+./:=?&!#$%^`|~{}*-]{1,70})|"([^"\\\r\n]{1,70})\"""")
_SMALL_PIECE: Final = 65_536
_FULL_PIECE: Final = 1 << 18
_NO_VALUES: Final[Mapping[str, Any]] = {}
_NOWHERE: Final[Places] = {}
"""An empty dictionary of its own would take 64 bytes of each request."""


class RequestBody(Protocol):
    """Call `feed`, then `finish`."""

    @property
    def values(self) -> Mapping[str, Any]:
        """The relevant fields by name, as far as they have arrived."""

    error: RelayError | None
    """Why the body can't be read; None: it can."""
    is_ambiguous: bool
    """Whether `error` means that two readers could interpret the body differently."""

    @property
    def is_known(self) -> bool:
        """Whether all relevant fields have been read, though more of the body may follow."""

    def feed(self, data: bytes) -> None: ...

    def finish(self) -> None: ...

    def edits(self, after: Mapping[str, Any]) -> list[Edit]:
        """The edits that change `values` to `after`; empty if the body can't be changed."""


class JsonBody:
    __slots__ = ("_places", "_reader", "error", "is_ambiguous", "noted", "values")

    def __init__(self, reads: Reads) -> None:
        self._reader: JsonMembers | None = JsonMembers(reads)
        """None: the body is complete. It takes 0.4 KB, but a body is kept until its answer begins."""
        self._places = _NOWHERE
        """The places of `values`; empty if the body is not complete, or can't be read."""
        self.values: Mapping[str, Any] = _NO_VALUES
        self.noted: Mapping[bytes, Member] = NOTHING_NOTED
        """The places of the names in `Reads.noted`. Empty until the body is complete, and if it can't be read."""
        self.error: RelayError | None = None
        self.is_ambiguous = False

    @property
    def is_known(self) -> bool:
        return False  # a relevant name may occur again

    def feed(self, data: bytes) -> None:
        if self._reader is not None:
            self._reader.feed(data)

    def finish(self) -> None:
        reader, self._reader = self._reader, None
        if reader is None:
            return
        reader.finish()
        problem = reader.problem
        if problem is None:
            self.values, self._places, self.noted = reader.values, reader.members, reader.noted
        else:
            self.is_ambiguous = problem.is_ambiguous
            remedy = "Send each name once." if problem.is_ambiguous else "Send one JSON object in UTF-8."
            self.error = _unreadable("request body", problem, remedy)

    def edits(self, after: Mapping[str, Any]) -> list[Edit]:
        return edits(self.values, self._places, after) if self._places else []


class FormBody:
    """multipart/form-data (RFC 7578). The model may follow the files, so it is known only once its part is complete;
    the rest is still searched for a second one."""

    __slots__ = ("_form", "error", "is_ambiguous")

    def __init__(self, boundary: bytes) -> None:
        self._form = FormMembers(boundary, ("model", "stream", "n", "user"))
        self.error: RelayError | None = None
        self.is_ambiguous = False

    @property
    def values(self) -> Mapping[str, Any]:
        return self._form.values

    @property
    def is_known(self) -> bool:
        return "model" in self._form.values or self.error is not None

    def feed(self, data: bytes) -> None:
        self._form.feed(data)
        self._look()

    def finish(self) -> None:
        self._form.finish()
        self._look()

    def _look(self) -> None:
        problem = self._form.problem
        if problem is not None and self.error is None:
            self.is_ambiguous = problem.is_ambiguous
            self.error = _unreadable("form", problem, "Send multipart/form-data with each field once.")

    def edits(self, after: Mapping[str, Any]) -> list[Edit]:
        """Only the model: nothing else in a form is ever changed."""
        model, place = after.get("model"), self._form.model_place
        if place is None or model is None or model == self.values["model"] or self.error is not None:
            return []
        return [Edit(*place, str(model).encode())]


def _unreadable(what: str, problem: Problem, remedy: str) -> RelayError:
    code = "ambiguous_body" if problem.is_ambiguous else "unreadable_body"
    return bad_request(f"The {what} can't be read: {problem.text}. {remedy}", code=code)


class UnreadBody:
    """A body that is not read, for the reason in `error`."""

    __slots__ = ("error", "is_ambiguous", "values")

    is_known = True

    def __init__(self, error: RelayError) -> None:
        self.error: RelayError | None = error
        self.is_ambiguous = False
        self.values: Mapping[str, Any] = {}

    def feed(self, data: bytes) -> None: ...

    def finish(self) -> None: ...

    def edits(self, after: Mapping[str, Any]) -> list[Edit]:
        return []


_has_plain_charset: Final = cached(has_plain_charset)


_noting_conversation: Final[Callable[[Reads], Reads]] = cache(lambda reads: reads.noting(CONVERSATION_NAMES))


def open_body(
    request: RequestHead, reads: Reads | None, *, takes_forms: bool, finds_conversation: bool = False
) -> RequestBody:
    """Make the reader of the body of `request`. `reads`: the fields that are relevant to its API; None: the API is
    unknown, so only the model is. `finds_conversation`: also note what the conversation is known by."""
    for encoding in _values(request, b"content-encoding"):
        if encoding.strip().lower() not in (b"identity", b""):
            shown = encoding[:32].decode("latin-1")
            message = (
                f"The request body is compressed ({shown}), but must be read here. Send it without Content-Encoding."
            )
            return UnreadBody(bad_request(message, status=415, code="unsupported_encoding"))
    kind, *others = _values(request, b"content-type") or [b""]
    if others:
        return UnreadBody(bad_request("The request has more than one Content-Type.", code="unreadable_body"))
    if not _has_plain_charset(kind):
        message = "The request body is in an unsupported charset. Send UTF-8."
        return UnreadBody(bad_request(message, status=415, code="unsupported_charset"))
    if kind[:19].lower() != b"multipart/form-data":
        read = reads or _MODEL_ONLY
        return JsonBody(_noting_conversation(read) if finds_conversation else read)
    boundary = boundary_of(kind)
    if boundary is None:
        return UnreadBody(bad_request("The form's Content-Type has no proper boundary.", code="unreadable_body"))
    if reads is not None and not takes_forms:
        message = "This API takes JSON, not a form. Send application/json."
        return UnreadBody(bad_request(message, status=415, code="unsupported_media_type"))
    return FormBody(boundary)


def _values(request: RequestHead, name: bytes) -> list[bytes]:
    """The values of all its fields with this name: servers differ in which one they use."""
    if request.find(name) is None:
        return []
    return [value for field, value in request.headers if field == name]


def boundary_of(content_type: bytes) -> bytes | None:
    """The boundary of a multipart Content-Type (RFC 2046 section 5.1.1); None: there is none, or more than one."""
    parameters = [part.partition(b"=")[::2] for part in content_type.split(b";")[1:]]
    found = [(name, value) for name, value in parameters if name.strip().lower().startswith(b"boundary")]
    if len(found) != 1 or found[0][0].strip().lower() != b"boundary":
        return None
    match = _BOUNDARY.fullmatch(found[0][1].strip())
    return match[1] or match[2] if match is not None else None


class BodyPieces:
    """The bytes of a body, unchanged; small pieces are joined, since each object costs some 40 bytes of its own."""

    __slots__ = ("_pieces", "_small", "_tail")

    def __init__(self) -> None:
        self._pieces: list[bytes] | None = None
        """None: there is one small piece at most, as usual."""
        self._small = b""
        """A small piece until another follows, which is rare: small bodies come in one."""
        self._tail: bytearray | None = None
        """Small pieces, joined; None: there are not two in a row."""

    def append(self, data: bytes) -> None:
        if len(data) >= _SMALL_PIECE:
            self._close_tail().append(data)
        elif self._tail is not None:
            self._tail += data
            if len(self._tail) >= _FULL_PIECE:
                self._close_tail()
        elif self._small:
            self._tail = bytearray(self._small)
            self._tail += data
            self._small = b""
        else:
            self._small = data

    def _close_tail(self) -> list[bytes]:
        """Make pieces of everything."""
        pieces = self._pieces
        if pieces is None:
            pieces = self._pieces = []
        if self._small:
            pieces.append(self._small)
            self._small = b""
        elif self._tail is not None:
            pieces.append(bytes(self._tail))
            self._tail = None
        return pieces

    @property
    def pieces(self) -> Sequence[bytes]:
        if self._pieces is None and self._small:
            return (self._small,)
        return self._close_tail()


def changed(body: RequestBody, after: Mapping[str, Any], pieces: Sequence[bytes]) -> tuple[list[bytes], int] | None:
    """(`pieces` of the body, edited to say `after`; by how many bytes it grows); None: nothing changes."""
    changes = body.edits(after)
    if not changes:
        return None
    more = sum(len(change.text) - (change.end - change.start) for change in changes)
    return apply(changes, pieces), more
