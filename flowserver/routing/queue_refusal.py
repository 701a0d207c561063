"""What clients are told that get no place at a provider. No I/O.

The libraries of OpenAI and Anthropic send a request again after 429 and after 503 alike, and take `retry-after` at its
word up to a minute. So the status is for those who read it: 503 where the provider is too slow for all, 429 where the
tenant itself has its share of the queue already.
"""

from __future__ import annotations

import math

from ..errors import EndReason, Party, RelayError
from ..relay.failures import busy
from .claim import Refusal

_LONGEST = 60
"""Seconds: after more, clients' libraries go by a guess of their own."""


def queue_is_full(refusal: Refusal) -> RelayError:
    if refusal.is_own:
        message = f"Of your requests as many wait for a place at the provider as may. {_figures(refusal)}"
        return RelayError(
            429, "too_many_waiting", message, Party.CLIENT, EndReason.LIMITED, retry_after=_after(refusal.wait)
        )
    if not refusal.waiting:
        return busy(f"The provider has no free place.{_expected(refusal)}", after=_after(refusal.wait))
    message = f"The provider has no free place and its queue is full. {_figures(refusal)}"
    return busy(message, after=_after(refusal.wait))


def waited_in_vain(refusal: Refusal, seconds: float) -> RelayError:
    """`seconds`: for which it has waited."""
    message = f"No place at the provider came free within {seconds:g} s. {_figures(refusal)}"
    return busy(message, after=_after(refusal.wait))


def _figures(refusal: Refusal) -> str:
    waiting = refusal.waiting
    return f"{waiting} {'request waits' if waiting == 1 else 'requests wait'}.{_expected(refusal)}"


def _expected(refusal: Refusal) -> str:
    return "" if refusal.wait is None else f" The expected wait is {max(1, math.ceil(refusal.wait))} s."


def _after(wait: float | None) -> int:
    return 1 if wait is None else min(_LONGEST, max(1, math.ceil(wait)))
