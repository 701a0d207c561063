"""Bounds the memory of unfinished uploads: per client connection, and in total. No I/O; the clock is passed in.

A request whose body must be known before it goes to a provider is held until it is complete, and its client decides how
long that takes. At the bound no more bytes are accepted: over HTTP/2 the stream's window stays closed, over HTTP/1.1
the socket is not read. The upload that began first always proceeds, so all of them complete eventually. Uploads of up
to 1 MB have some room of their own: they are over soon, and need not wait for large ones.
"""

from __future__ import annotations

import sys
from typing import Final, Protocol

from ..errors import EndReason, Party, RelayError
from ..flow.memory_budget import UNLIMITED, MemoryBudget
from .interfaces import Clock, Later

TURN = 2.0
"""Seconds for which the first upload may keep others waiting if all memory is held: it may never end."""
SMALL = 64 * 1024
"""Bytes up to which an upload may use all that is left of a bound; larger uploads stop at three quarters of it. 97 % of
all requests to models are smaller."""

MEDIUM = 1 << 20
"""Bytes announced up to which an upload is not large."""
MEDIUM_ROOM = 2 << 20
"""Bytes that uploads which are not large may hold together although memory is short, within the configured bound."""

UPLOADS_FULL: Final = RelayError(
    503,
    "uploads_full",
    "Unfinished uploads hold all the memory set aside for them, and too few ended in time. Try again shortly, with "
    "fewer at a time, or raise FLOW_MAX_UPLOADS or FLOW_H2_MAX_UPLOADS.",
    Party.RELAY,
    EndReason.REFUSED,
    retry_after=1,
)


class Uploader(Protocol):
    """A client's stream: the part that concerns its upload."""

    def stop_upload(self) -> None:
        """Stop reading the body."""

    def go_on_uploading(self) -> None:
        """Resume reading the body."""


class Uploads:
    """One bound. What an upload holds also counts towards all bounds `above`.

    An upload that ends resumes nothing in the same call stack: others continue after the current event.
    """

    __slots__ = (
        "_first_since",
        "_held_by_medium",
        "_holding",
        "_is_serving",
        "_large",
        "_later",
        "_memory",
        "_most_large",
        "_small",
        "_waiting",
        "_waiting_medium",
        "above",
        "busy_timeout",
        "clock",
        "held",
        "large",
        "limit",
        "waits",
    )

    def __init__(
        self,
        limit: int = sys.maxsize,
        *,
        clock: Clock,
        later: Later,
        busy_timeout: float | None = None,
        above: Uploads | None = None,
        memory: MemoryBudget = UNLIMITED,
    ) -> None:
        """`busy_timeout`: most seconds that an upload waits; None: no limit. `memory` is told what is held."""
        self.limit = limit
        self._memory = memory
        self._later = later
        self._is_serving = False
        """Whether waiting uploads will be checked after the current event."""
        self._small = limit
        self._most_large = self._large = limit - limit // 4
        """The bounds for small and for large uploads."""
        self._first_since: tuple[Upload, float] | None = None
        self._held_by_medium = 0
        self.clock = clock
        self.busy_timeout = busy_timeout
        self.above = above
        self.held = 0
        """Bytes."""
        self.waits = 0
        """How often an upload had to wait."""
        self._holding: dict[Upload, None] = {}
        """In the order in which they began."""
        self._waiting: dict[Upload, None] = {}
        self._waiting_medium: dict[Upload, None] = {}
        """Those of them that are not large."""
        self.large = 0
        """Uploads that hold something and are large."""

    def below(self, limit: int) -> Uploads:
        """A bound for one connection."""
        return Uploads(limit, clock=self.clock, later=self._later, busy_timeout=self.busy_timeout, above=self)

    def __repr__(self) -> str:
        return f"<Uploads {self.held} of {self.limit} bytes, {len(self._holding)} held, {len(self._waiting)} waiting>"

    @property
    def unfinished(self) -> int:
        """Uploads that hold something."""
        return len(self._holding)

    def reserve(self, upload: Upload, size: int) -> bool:
        """`upload` holds `size` more bytes. Returns whether it may continue."""
        self.held += size
        self._memory.spend(size)
        if upload.is_medium:
            self._held_by_medium += size
        elif upload not in self._holding:
            self.large += 1
        self._holding[upload] = None
        bound = self._small if upload.size <= SMALL else self._large
        if self.held < bound or next(iter(self._holding)) is upload:
            return True
        if upload.is_medium and self._medium_room() > 0:
            return True
        if upload not in self._waiting:
            self._waiting[upload] = None
            if upload.is_medium:
                self._waiting_medium[upload] = None
            self.waits += 1
        return False

    def release(self, upload: Upload) -> None:
        """`upload` holds nothing any more, so others may continue."""
        del self._holding[upload]
        self._waiting.pop(upload, None)
        self.held -= upload.size
        if upload.is_medium:
            self._waiting_medium.pop(upload, None)
            self._held_by_medium -= upload.size
        else:
            self.large -= 1
        if self._waiting:
            self._serve_later()

    def _serve(self) -> None:
        """Resume the upload that began first, and as many others as there is room for."""
        self._is_serving = False
        if not self._waiting:
            return
        self._let_go_on(next(iter(self._holding)))
        room = self._medium_room()
        while self._waiting_medium and room > 0:
            self._let_go_on(next(iter(self._waiting_medium)))
            room -= SMALL
        room = self._large - self.held
        while self._waiting and room > 0:
            self._let_go_on(next(iter(self._waiting)))
            room -= SMALL

    def _medium_room(self) -> int:
        """Bytes that uploads which are not large may still hold beyond what memory leaves for large ones."""
        return min(MEDIUM_ROOM - self._held_by_medium, self._most_large - self.held)

    def _let_go_on(self, upload: Upload) -> None:
        if upload in self._waiting:
            del self._waiting[upload]
            self._waiting_medium.pop(upload, None)
            upload.go_on()

    def fit(self, *, small: int, large: int) -> None:
        """The memory budget leaves this many more bytes for small uploads, and for large ones."""
        self._small = min(self.limit, self.held + small)
        before, self._large = self._large, min(self._most_large, self.held + large)
        if self._waiting and self._large > before:
            self._serve_later()

    def pass_turn(self, now: float) -> None:
        """Let others proceed instead of an upload that has been the first for long. Called about once a second."""
        first = next(iter(self._holding), None)
        if first is None or not self._waiting:
            self._first_since = None
        elif self._first_since is None or self._first_since[0] is not first:
            self._first_since = first, now
        elif now - self._first_since[1] >= TURN:
            del self._holding[first]
            self._holding[first] = None
            self._first_since = None
            self._serve_later()

    def _serve_later(self) -> None:
        if not self._is_serving:
            self._is_serving = True
            self._later(self._serve)

    def has_waiting(self, upload: Upload) -> bool:
        return upload in self._waiting


class Upload:
    """The bytes held by one request's body. Created with its first bytes; call `end`."""

    __slots__ = ("_bound", "_uploader", "is_medium", "size", "waits_since")

    def __init__(self, bound: Uploads, uploader: Uploader, announced: int | None = None) -> None:
        """`announced`: the bytes of the complete body; None: unknown."""
        self.is_medium = announced is not None and announced <= MEDIUM
        self._bound = bound
        self._uploader = uploader
        self.size = 0
        self.waits_since: float | None = None
        """None: it is not waiting."""

    def __repr__(self) -> str:
        return f"<Upload {'waiting' if self.waits_since is not None else 'running'}: {self.size} bytes>"

    def hold(self, size: int) -> None:
        """`size` more bytes are held."""
        self.size += size
        may_go_on = True
        bound: Uploads | None = self._bound
        while bound is not None:
            may_go_on = bound.reserve(self, size) and may_go_on
            bound = bound.above
        if not may_go_on and self.waits_since is None:
            self.waits_since = self._bound.clock()
            self._uploader.stop_upload()

    def go_on(self) -> None:
        """One bound lets it continue; it does so once all of them do."""
        bound: Uploads | None = self._bound
        while bound is not None:
            if bound.has_waiting(self):
                return
            bound = bound.above
        self.waits_since = None
        self._uploader.go_on_uploading()

    def end(self) -> None:
        """The body is complete, dropped, or no longer held."""
        bound: Uploads | None = self._bound
        while bound is not None:
            bound.release(self)
            bound = bound.above
        self.size = 0
        if self.waits_since is not None:
            self.waits_since = None
            self._uploader.go_on_uploading()

    def is_overdue(self, now: float) -> bool:
        busy_timeout = self._bound.busy_timeout
        return self.waits_since is not None and busy_timeout is not None and now - self.waits_since >= busy_timeout


class Uncounted:
    """A `relay.interfaces.UploadCount` that counts nothing."""

    upload_waits = False

    def hold_upload(self, size: int, announced: int | None) -> None: ...

    def end_upload(self) -> None: ...

    def upload_is_overdue(self, now: float) -> bool:
        return False


UNCOUNTED: Final = Uncounted()
