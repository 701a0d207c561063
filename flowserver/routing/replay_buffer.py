"""A request's body, kept so that another attempt can send it. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from ..relay.interfaces import UploadCount
from ..relay.request_body import BodyPieces


class ReplayState(Enum):
    """How often the body can be sent from its beginning."""

    REPLAYABLE = "replayable"
    """Any number of times: all that has arrived is kept."""
    ONCE = "once"
    """Once: it is kept until an attempt takes it, but is too large to be kept longer."""
    RELEASED = "released"
    """Never: nothing is kept."""


_REPLAYABLE: Final = ReplayState.REPLAYABLE
_RELEASED: Final = ReplayState.RELEASED
"""Python 3.11 takes 75 ns to look up an enum member."""


class ReplayBuffer:
    """The body of one request. It stays replayable up to `limit` bytes.

    What is kept counts as an upload until the body is complete.
    """

    __slots__ = ("_content_length", "_limit", "_pieces", "_upload", "is_whole", "size", "state")

    def __init__(self, limit: int, content_length: int | None, upload: UploadCount) -> None:
        """`content_length` None: not announced. `upload` counts what is kept."""
        self._limit = limit
        self._content_length = content_length
        self._upload = upload
        self._pieces: BodyPieces | None = None
        """None: nothing is kept."""
        self.size = 0
        """Bytes that are or were kept."""
        self.is_whole = False
        self.state = _REPLAYABLE

    def __repr__(self) -> str:
        size = f"{self.size} bytes{' in all' if self.is_whole else ''}"
        return f"<ReplayBuffer {self.state.value}: {size}, limit {self._limit}>"

    @property
    def is_replayable(self) -> bool:
        return self.state is _REPLAYABLE

    @property
    def pieces(self) -> Sequence[bytes]:
        """What is kept, in order."""
        return self._pieces.pieces if self._pieces is not None else ()

    def hold(self, data: bytes) -> None:
        """Keep `data` for the first attempt, which has not begun yet."""
        self._append(data, len(data))
        if self.size > self._limit:
            self.state = ReplayState.ONCE

    def copy(self, data: bytes) -> None:
        """Keep `data`, which the current attempt sends, for the next one: as long as it stays replayable, and does not
        make the client wait."""
        if self.state is _RELEASED:
            return
        size = len(data)
        if self.size + size <= self._limit:
            self._append(data, size)
            if not self._upload.upload_waits:
                return
        self.release()

    def taken(self) -> None:
        """An attempt has sent what is kept: from now on it is kept only for another attempt, under the conditions of
        `copy`."""
        if self.state is ReplayState.ONCE or self._upload.upload_waits:
            self.release()

    def finish(self) -> None:
        """The body is complete."""
        self.is_whole = True
        self._upload.end_upload()

    def release(self) -> None:
        """Forget everything. Safe to repeat."""
        if self.state is not _RELEASED:
            self.state = _RELEASED
            self._pieces = None
            self._upload.end_upload()

    def _append(self, data: bytes, size: int) -> None:
        if self._pieces is None:
            self._pieces = BodyPieces()
        self._pieces.append(data)
        self.size += size
        if self.size != self._content_length:  # the rest has not arrived yet
            self._upload.hold_upload(size, self._content_length)
