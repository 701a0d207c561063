"""Which exchanges are logged. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Logged(StrEnum):
    ON = "on"
    ERRORS = "errors"
    """Failed exchanges, including those the client caused, and a share of the others."""
    OFF = "off"


@dataclass(frozen=True, slots=True)
class AccessLog:
    """`share`, from 0 to 1: how many successful exchanges are logged with Logged.ERRORS."""

    logged: Logged = Logged.ON
    share: float = 0.0


EVERY_EXCHANGE = AccessLog()


def parse_access_log(text: str) -> AccessLog:
    """`on`, `errors`, `off`, or `sample:0.01`: errors, and this share of the others. Raises ValueError."""
    word = text.strip().lower()
    if word in (Logged.ON, Logged.ERRORS, Logged.OFF):
        return AccessLog(Logged(word))
    match = re.fullmatch(r"sample:([01](?:\.[0-9]+)?|\.[0-9]+)", word)
    if match is None or not 0 < float(match[1]) <= 1:
        raise ValueError("expected on, errors, off, or sample:SHARE such as sample:0.01")
    return AccessLog(Logged.ERRORS, float(match[1]))
