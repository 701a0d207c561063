"""Names that clients and providers choose, in bounded sizes. No I/O.

They are bounded where they are read, so that keys of tables, limits, log lines, labels and messages all see the same
short name, however long the one that was sent.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from typing import Final, TypeVar

MODEL_BYTES: Final = 256
PATH_BYTES = 256
"""Most bytes of a path in a message."""
MAX_KEPT: Final = 256
"""Length of the longest text whose results `cached` keeps for further requests."""
_MOST_KEPT: Final = 256
"""Number of these texts."""
USER_BYTES = 64
"""Most bytes of the name of a user or a session."""

_DIGITS = 64
"""Hexadecimal digits of a SHA-256."""
_SHORT_DIGITS = 32
"""Digits that suffice to tell names apart."""


def bounded(text: str, most: int) -> str:
    """`text` if it has at most `most` bytes of UTF-8; else its beginning, "#" and its SHA-256, in at most `most` bytes.

    Different texts stay different. `most` is at least 65. A text with lone surrogates, which UTF-8 can't
    have, is treated as too long.
    """
    if _fits(text, most):
        return text
    beginning = text[:most].encode("utf-8", "replace")[: most - _DIGITS - 1]
    return f"{beginning.decode('utf-8', 'ignore')}#{_digest(text)}"


def hashed(text: str, most: int) -> str:
    """`text` if it has at most `most` bytes of UTF-8; else `digest` of it."""
    return text if _fits(text, most) else digest(text)


def digest(text: str) -> str:
    """A stand-in for a `text` that is too long: "#" and 32 digits of its SHA-256."""
    return f"#{_digest(text)[:_SHORT_DIGITS]}"


def model_name(value: object) -> str | None:
    """The name of a model in a request or an answer, bounded; None if `value` is not a non-empty string."""
    return bounded(value, MODEL_BYTES) if isinstance(value, str) and value else None


def user_name(value: object) -> str | None:
    """The name of a user or a session, bounded; None if `value` is not a non-empty string."""
    return hashed(value, USER_BYTES) if isinstance(value, str) and value else None


def _fits(text: str, most: int) -> bool:
    if len(text) > most:
        return False
    if text.isascii():
        return True
    try:
        return len(text.encode()) <= most
    except UnicodeEncodeError:
        return False


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


_Text = TypeVar("_Text", str, bytes)
_Found = TypeVar("_Found")


def cached(find: Callable[[_Text], _Found]) -> Callable[[_Text], _Found]:
    """Caches `find` by a name or path from outside, in bounded memory. Of texts over `MAX_KEPT` only the last four are
    kept: every format asks for the same path in turn."""
    long = lru_cache(4)(find)
    short: dict[_Text, _Found] = {}
    """Of the last ones found. Compiled, a look-up takes a third of the time of a call of `lru_cache`."""

    def found(text: _Text) -> _Found:
        if len(text) > MAX_KEPT:
            return long(text)
        if text not in short:
            if len(short) >= _MOST_KEPT:
                del short[next(iter(short))]
            short[text] = find(text)
        return short[text]

    return found
