"""Whether somebody waits for an answer: requests of class `batch` give way to those of class `interactive`. No I/O."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from ..errors import RelayError, bad_request
from ..http.messages import CLASS, RequestHead


class TrafficClass(StrEnum):
    INTERACTIVE = "interactive"
    """Somebody waits."""
    BATCH = "batch"
    """The answer may take longer, or the request may be refused and sent again."""


INTERACTIVE: Final = TrafficClass.INTERACTIVE
BATCH: Final = TrafficClass.BATCH


def parse_class(text: str) -> TrafficClass:
    """Raises ValueError."""
    try:
        return TrafficClass(text)
    except ValueError:
        raise ValueError(f"expected one of {', '.join(TrafficClass)}") from None


def lower(first: TrafficClass, second: TrafficClass) -> TrafficClass:
    """The lower of the two."""
    return BATCH if BATCH in (first, second) else INTERACTIVE


def class_of(request: RequestHead) -> TrafficClass | RelayError:
    """The class that the client requests with `x-flow-class`, which can only lower its tenant's."""
    value = request.find(CLASS)
    if value is None:
        return INTERACTIVE
    try:
        return parse_class(value.strip().lower().decode("latin-1"))
    except ValueError as error:
        return bad_request(f"{CLASS.decode()}: {error}.", code="invalid_class")
