"""The workers' calls to the parent's limit store, and its answers, as messages. No I/O.

    admit    stream, need, want, limits     tokens granted, states; or -1, which limit refuses, its wait, states
    extend   stream, used, want             tokens granted, or -1: nothing is known of the stream
    settle   stream, used                   whether there was something to settle
    usage    limits                         three numbers for each

A limit is one text, which is parsed once and then looked up, so that the store gets the same object each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..quota.limits import (
    Decision,
    LeaseLost,
    Limit,
    LimitState,
    MoneyQuota,
    Quota,
    RequestBucket,
    Slots,
    TokenBucket,
    Usage,
    cause_of,
)
from .frames import Message
from .memory import MemoryStore, at_once

_MOST_LIMITS = 10_000
"""Most limits that are remembered by their texts: those of users come and go."""


def written(limits: Sequence[Limit]) -> list[str]:
    return [_written(limit) for limit in limits]


def _written(limit: Limit) -> str:
    if isinstance(limit, Slots):
        return f"s {limit.most} {limit.key}"
    if isinstance(limit, Quota):
        kind = "m" if isinstance(limit, MoneyQuota) else "q"
        return f"{kind} {limit.most} {limit.ends_at} {limit.ttl} {limit.key}"
    return f"{'t' if limit.counts_tokens else 'r'} {limit.capacity} {limit.refill} {limit.period} {limit.key}"


def read_limit(text: str) -> Limit:
    """Parse a limit. Raises ValueError."""
    kind, _, rest = text.partition(" ")
    if kind == "s":
        most, key = rest.split(" ", 1)
        return Slots(key, int(most))
    first, second, third, key = rest.split(" ", 3)
    if kind in ("q", "m"):
        quota = Quota if kind == "q" else MoneyQuota
        return quota(key, int(first), _seconds(second), _seconds(third))
    bucket = TokenBucket if kind == "t" else RequestBucket
    return bucket(key, int(first), int(second), int(third))


def _seconds(text: str) -> float | None:
    return None if text == "None" else float(text)


def read_decision(reply: Message, limits: Sequence[Limit]) -> Decision:
    """The decision on `limits` in `reply`, which is without its number."""
    granted = reply[0]
    first = 1 if granted >= 0 else 3
    states = tuple(
        [LimitState(limit, reply[first + 2 * at], reply[first + 2 * at + 1]) for at, limit in enumerate(limits)]
    )
    if granted >= 0:
        return Decision(True, granted, states)
    limit = limits[reply[1]]
    return Decision(False, 0, states, cause_of(limit), limit, reply[2])


def read_usage(reply: Message, limits: Sequence[Limit]) -> tuple[Usage, ...]:
    return tuple(
        [Usage(limit, *reply[3 * at : 3 * at + 3]) for at, limit in enumerate(limits)],
    )


class StoreDesk:
    """Answers the calls of all workers from the store."""

    __slots__ = ("_known", "store")

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self._known: dict[str, Limit] = {}

    def answer(self, call: Message) -> Message:
        """The answer to a call, which begins with its name. Raises ValueError or LookupError for an invalid call."""
        name = call[0]
        if name == "admit":
            return self._admit(*call[1:])
        if name == "extend":
            return self._extend(*call[1:])
        if name == "settle":
            return [at_once(self.store.settle(*call[1:]))]
        if name == "usage":
            return [number for usage in at_once(self.store.usage(self._limits(call[1]))) for number in usage[1:]]
        raise ValueError(f"no such call: {name!r}")

    def _admit(self, stream_id: str, need: int, want: int, texts: list[str]) -> Message:
        limits = self._limits(texts)
        decision = at_once(self.store.admit(stream_id, limits, need=need, want=want))
        answer: list[Any]
        if decision.refused_by is None:
            answer = [decision.granted]
        else:
            answer = [-1, limits.index(decision.refused_by), decision.retry_after]
        for _, remaining, reset in decision.states:
            answer.append(remaining)
            answer.append(reset)
        return answer

    def _extend(self, stream_id: str, used: int, want: int) -> Message:
        try:
            return [at_once(self.store.extend(stream_id, used, want))]
        except LeaseLost:
            return [-1]

    def _limits(self, texts: list[str]) -> list[Limit]:
        known = self._known
        limits = []
        for text in texts:
            limit = known.get(text)
            if limit is None:
                if len(known) >= _MOST_LIMITS:
                    known.clear()
                limit = known[text] = read_limit(text)
            limits.append(limit)
        return limits
