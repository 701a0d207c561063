"""A reader of JSON that takes whatever some reader takes: JSON5, comments, unknown escapes, names in any case,
something behind the object. It keeps every value of a name, since some readers take the first and others the last."""

from __future__ import annotations

import re
from typing import Any

_SPACE = re.compile(r"(?:[\s\ufeff\x1c-\x1f]+|//[^\n\r\u2028\u2029]*|#[^\n\r\u2028\u2029]*|/\*.*?\*/)*", re.DOTALL)
_WORD = re.compile(r"[^\s{}\[\]:,\"'/#]+")
_CONTINUED = re.compile(r"\\(?:\r\n|[\n\r\u2028\u2029])")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_LETTERS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "0": "\0"}
_TEXT = {quote: re.compile(rf"{quote}((?:[^{quote}\\]|\\.)*){quote}", re.DOTALL) for quote in "\"'"}
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None}


class Refused(Exception):
    """No reader takes it."""


class Pairs:
    """The members of an object as they came."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs

    def all(self, name: str) -> list[Any]:
        """Every value that some reader takes for that of `name`."""
        return [value for known, value in self.pairs if folded(known) == folded(name)]


def folded(name: str) -> str:
    return name.partition("\0")[0].encode("utf-8", "ignore").decode().upper().casefold()


def read(body: bytes) -> Any:
    """The first value in `body`. Raises Refused."""
    text = body.decode(errors="ignore").removeprefix("\ufeff")
    value, _ = _value(text, _skip(text, 0))
    return value


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None
    return match.end()


def _value(text: str, position: int) -> tuple[Any, int]:
    first = text[position : position + 1]
    if first == "{":
        return _object(text, position + 1)
    if first == "[":
        return _array(text, position + 1)
    if first and first in "\"'":
        return _string(text, position)
    match = _WORD.match(text, position)
    if match is None:
        raise Refused
    return _scalar(match[0]), match.end()


def _scalar(word: str) -> Any:
    if word in _WORDS:
        return _WORDS[word]
    try:
        return int(word, 16) if word.lstrip("+-").lower().startswith("0x") else int(word)
    except ValueError:
        pass
    try:
        return float(word)
    except ValueError:
        return word


def _string(text: str, position: int) -> tuple[str, int]:
    match = _TEXT[text[position]].match(text, position)
    if match is None:
        raise Refused
    meant = _ESCAPE.sub(_meant, _CONTINUED.sub("", match[1]))
    return meant.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass"), match.end()


def _meant(escape: re.Match[str]) -> str:
    code = escape[1] or escape[2]
    return chr(int(code, 16)) if code else _LETTERS.get(escape[3], escape[3])


def _object(text: str, position: int) -> tuple[Pairs, int]:
    pairs = []
    position = _skip(text, position)
    while text[position : position + 1] != "}":
        if text[position : position + 1] in ("'", '"'):
            name, position = _string(text, position)
        elif match := _WORD.match(text, position):
            name, position = match[0], match.end()
        else:
            raise Refused
        position = _skip(text, position)
        if text[position : position + 1] != ":":
            raise Refused
        value, position = _value(text, _skip(text, position + 1))
        pairs.append((name, value))
        position = _behind(text, position, "}")
    return Pairs(pairs), position + 1


def _array(text: str, position: int) -> tuple[list[Any], int]:
    values = []
    position = _skip(text, position)
    while text[position : position + 1] != "]":
        value, position = _value(text, position)
        values.append(value)
        position = _behind(text, position, "]")
    return values, position + 1


def _behind(text: str, position: int, closing: str) -> int:
    """Where the next thing begins behind a value; a comma before the closing bracket is fine."""
    position = _skip(text, position)
    following = text[position : position + 1]
    if following == ",":
        return _skip(text, position + 1)
    if following != closing:
        raise Refused
    return position
