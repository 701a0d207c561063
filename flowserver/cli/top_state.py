"""What `flowserver top` shows, and how keys change that. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlencode

MOST_TEXT = 200
"""Characters of a filter, as the relay takes it."""
ESCAPE, ENTER, BACKSPACE = "\x1b", ("\r", "\n"), ("\x7f", "\x08")
UP, DOWN, PAGE_UP, PAGE_DOWN, HOME, END = "\x1b[A", "\x1b[B", "\x1b[5~", "\x1b[6~", "\x1b[H", "\x1b[F"
_MOVES = {UP: -1, "k": -1, DOWN: 1, "j": 1, PAGE_UP: -10, PAGE_DOWN: 10, HOME: -10_000, END: 10_000}


class SortKey(NamedTuple):
    key: str
    column: str
    """As the feed names it."""
    title: str
    is_descending: bool = True
    """At first."""


SORT_KEYS = (
    SortKey("o", "trouble", "trouble"),
    SortKey("s", "slow", "who is slow"),
    SortKey("t", "tokens_per_second", "tokens/s"),
    SortKey("n", "tokens", "tokens"),
    SortKey("h", "held_bytes", "held"),
    SortKey("p", "pauses", "pauses"),
    SortKey("w", "paused_seconds", "time paused"),
    SortKey("a", "age_seconds", "age"),
    SortKey("b", "bytes_down", "bytes"),
    SortKey("c", "client", "client", is_descending=False),
    SortKey("u", "upstream", "provider", is_descending=False),
    SortKey("m", "model", "model", is_descending=False),
    SortKey("e", "tenant", "tenant", is_descending=False),
)
_BY_KEY = {sort.key: sort for sort in SORT_KEYS}
BY_COLUMN = {sort.column: sort for sort in SORT_KEYS}


@dataclass(slots=True)
class TopState:
    sort: SortKey = SORT_KEYS[0]
    is_descending: bool = True
    filter: str = ""
    typed: str | None = None
    """The filter that is being typed; None: none is."""
    is_paused: bool = False
    shows_help: bool = False
    is_over: bool = False
    first: int = 0
    """Rows above the ones that are shown."""

    def query(self, rows: int) -> str:
        """What the feed is asked for."""
        sort = ("-" if self.is_descending else "") + self.sort.column
        return urlencode({"limit": rows, "sort": sort, "filter": self.filter})

    def on_key(self, key: str) -> None:
        """One key as the terminal sends it."""
        if self.typed is not None:
            self._type(self.typed, key)
        elif self.shows_help:
            self.shows_help = False
        elif key in ("q", "Q", "\x03", "\x04"):
            self.is_over = True
        elif key in _BY_KEY:
            self._sort_by(_BY_KEY[key])
        elif key in _MOVES:
            self.first = max(0, self.first + _MOVES[key])
        elif key == "r":
            self.is_descending, self.first = not self.is_descending, 0
        elif key == "/":
            self.typed = self.filter
        elif key == ESCAPE:
            self.filter, self.first = "", 0
        elif key == " ":
            self.is_paused = not self.is_paused
        elif key in ("?", "H"):
            self.shows_help = True

    def _sort_by(self, sort: SortKey) -> None:
        """The same one again turns the order."""
        self.is_descending = not self.is_descending if sort is self.sort else sort.is_descending
        self.sort, self.first = sort, 0

    def _type(self, typed: str, key: str) -> None:
        if key == "\x03":
            self.is_over = True
        elif key in ENTER:
            self.filter, self.typed, self.first = typed.strip(), None, 0
        elif key == ESCAPE:
            self.typed = None
        elif key in BACKSPACE:
            self.typed = typed[:-1]
        elif key == "\x15":
            self.typed = ""
        elif len(key) == 1 and key.isprintable() and len(typed) < MOST_TEXT:
            self.typed = typed + key


def keys_of(data: str) -> list[str]:
    """What the terminal sent, key by key: an escape sequence is one."""
    keys = []
    while data:
        length = 1
        if data.startswith((ESCAPE + "[", ESCAPE + "O")):
            length = 2
            while length < len(data) and not ("@" <= data[length] <= "~"):
                length += 1
            length = min(length + 1, len(data))
        keys.append(data[:length].replace(ESCAPE + "O", ESCAPE + "["))
        data = data[length:]
    return keys
