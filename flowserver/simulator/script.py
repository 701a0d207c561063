"""What a request asks of the simulator, in its `x-simulate` header."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields


class ScriptError(Exception):
    """The header asks for something that is not there; the text says what is."""


@dataclass(frozen=True, slots=True)
class Script:
    """How one request is answered. Times are seconds, sizes bytes; 0 means off unless said otherwise."""

    events: int = 20
    """Content events; 0: without end."""
    rate: float = 0.0
    """Content events a second; 0: as fast as the socket takes them."""
    size: int = 250
    """Bytes of one event with its blank line, as near as its fields allow."""
    delay: float = 0.0
    """Before the head."""
    first: float = 0.0
    """Between head and first event."""
    silence_after: int | None = None
    """Say nothing more after so many content events."""
    abort_after: int | None = None
    """Reset the connection after so many content events."""
    fin_after: int | None = None
    """Close the connection without an end after so many content events."""
    status: int = 200
    """Another status answers with an error."""
    retry_after: float = 0.0
    """Seconds for the error's retry-after header."""
    whole: int = 0
    """Size of the content of a whole answer; 0: a sentence."""
    length: int = 0
    """1: content-length instead of chunks."""
    close: int = 0
    """1: the body ends with the connection."""
    split: int = 0
    """Write in pieces of so many bytes."""
    interim: int = 0
    """1xx responses before the head."""
    read_after: float = 0.0
    """Begin to read an upload so late."""
    read_rate: float = 0.0
    """Read an upload at so many bytes a second."""
    id: str = ""
    """Names the stream in the records."""


DEFAULT = Script(rate=50.0)
"""What a request without the header gets."""

_NAMES = {field.name: str(field.type) for field in fields(Script)}


def parse(header: str | None) -> Script:
    """`events=100 rate=50` -> Script; commas may separate too. Raises ScriptError."""
    if header is None:
        return DEFAULT
    values: dict[str, int | float | str] = {}
    for part in re.split(r"[\s,]+", header.strip()):
        if not part:
            continue
        name, _, text = part.partition("=")
        kind = _NAMES.get(name)
        if kind is None:
            raise ScriptError(f"x-simulate: there is no {name!r}; there is {', '.join(_NAMES)}")
        try:
            values[name] = text if kind == "str" else float(text) if kind == "float" else int(text)
        except ValueError:
            raise ScriptError(f"x-simulate: {part!r} will not do: a number is wanted") from None
        value = values[name]
        if not isinstance(value, str) and not 0 <= value < 1e15:
            raise ScriptError(f"x-simulate: {part!r} will not do: a number from 0 on is wanted")
    script = Script(**values)  # type: ignore[arg-type]
    if script.length and not script.events:
        raise ScriptError("x-simulate: length=1 needs a number of events")
    if not 200 <= script.status <= 599:
        raise ScriptError("x-simulate: status must be 200 to 599")
    return script
