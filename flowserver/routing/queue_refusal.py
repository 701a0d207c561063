"""The errors for clients that get no place at a provider. No I/O.

The libraries of OpenAI and Anthropic retry after both 429 and 503, and honour `retry-after` up to a minute. So the
status only informs people: 503 if the provider is too slow for everybody, 429 if the tenant itself already has its
share of the queue.
"""

from __future__ import annotations

import math

from ..errors import EndReason, Party, RelayError
from ..relay.failures import busy
from .claim import Refusal

_LONGEST = 60
"""Seconds: client libraries ignore longer ones."""


def queue_is_full(refusal: Refusal) -> RelayError:
    if refusal.is_own:
        message = f"Your requests already fill your share of the queue for this provider. {_figures(refusal)}"
        return RelayError(
            429, "too_many_waiting", message, Party.CLIENT, EndReason.LIMITED, retry_after=_after(refusal.wait)
        )
    if not refusal.waiting:
        return busy(f"The provider has no free place.{_expected(refusal)}", after=_after(refusal.wait))
    message = f"The provider has no free place and its queue is full. {_figures(refusal)}"
    return busy(message, after=_after(refusal.wait))


def waited_in_vain(refusal: Refusal, seconds: float) -> RelayError:
    """`seconds`: how long it has waited."""
    message = f"No place at the provider became free within {seconds:g} s. {_figures(refusal)}"
    return busy(message, after=_after(refusal.wait))


def _figures(refusal: Refusal) -> str:
    waiting = refusal.waiting
    return f"{waiting} {'request waits' if waiting == 1 else 'requests wait'}.{_expected(refusal)}"


def _expected(refusal: Refusal) -> str:
    return "" if refusal.wait is None else f" The expected wait is {max(1, math.ceil(refusal.wait))} s."


def _after(wait: float | None) -> int:
    return 1 if wait is None else min(_LONGEST, max(1, math.ceil(wait)))
