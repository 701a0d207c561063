"""How many requests a provider is to have at a time, learned from how it answers. No I/O, no clock.

Two signals, as in TCP. Delay: a provider that has more than it can serve lets the rest wait, so the time to the first
token grows. Loss: above that it refuses, with 429, 503 or 529.

The gradient is that of Netflix's Gradient2, limit x gradient + headroom, with another estimate of the gradient. There
it is the long average of a round trip over the short one, as if a request was over with what is measured. Here a place
is taken long after the first token, so a wait of the usual time to it may be one request too many or fifty. By Little's
law those that wait inside the provider are the rate of first tokens times the wait, and the gradient is the share of
the limit that does not wait.

Refusals decrease the limit by a tenth (AIMD). All refusals of requests begun before a decrease belong to it.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections import OrderedDict
from statistics import median

FLOOR, CEILING = 1, 10_000
FIRST = 16
"""Where a provider begins that nothing is known of."""
SLOW, REFUSED = "first_token", "refusal"
"""Causes of decreases."""
DECREASE = 0.9
"""What a refusal leaves of the limit."""

_WINDOW, _ENOUGH = 0.2, 8
_LONGEST = 1.0
_RATE_TIME = 2.0
_TOLERANCE = 0.25
_FIRST_STEP, _LARGEST_STEP, _START_STEP = 0.04, 0.25, 0.5
_ACCELERATION = 1.5
_FORGETTING = 120.0
_KINDS = 256
_ANSWERS_FOR_REFUSAL = 64
_CAUTION = 30.0
_MEMORY = 0.1
FALL, RISE, FEW, LEAVE, HEAD, LEAK = 0.5, 0.5, 3, 1.0, 0.75, 20.0


class _Usual:
    __slots__ = ("samples", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.samples = 1

    def learn(self, seconds: float) -> None:
        self.samples += 1
        if self.samples <= FEW:
            self.seconds = min(self.seconds, seconds)
        else:
            self.seconds *= 1 + 0.1 * min(max(seconds / self.seconds - 1, -FALL), RISE)


class AdaptiveLimit:
    def __init__(self) -> None:
        self._exact = float(FIRST)
        self._kinds: OrderedDict[int, _Usual] = OrderedDict()
        self._window: list[tuple[int, float, int]] = []
        self._began_at: float | None = None
        self._rate = 0.0
        self._step = _START_STEP
        self._decreased_at = -math.inf
        self._refused_at = math.inf
        self._hold_answers = 0
        self._hold_until = 0.0
        self._cap = math.inf
        self._times: list[float] = []
        self._opens: list[int] = []
        self._unhelpful = 0
        self.decreases = {SLOW: 0, REFUSED: 0}

    @property
    def limit(self) -> int:
        return max(FLOOR, int(min(self._exact + 1e-9, self._cap)))

    def _open_at(self, when: float) -> int:
        i = bisect(self._times, when)
        return self._opens[max(0, i - 1)]

    def first_token(self, now: float, kind: int, seconds: float, open_: int) -> None:
        if self._began_at is None:
            self._began_at = now
        if not self._times or now - self._times[-1] >= _MEMORY:
            self._times.append(now)
            self._opens.append(open_)
            if len(self._times) > 600:
                del self._times[:300]
                del self._opens[:300]
        self._cap += 1
        if self._cap >= self._exact:
            self._cap = math.inf
        self._hold_answers -= 1
        if self._hold_answers <= 0 or now >= self._hold_until:
            self._refused_at = math.inf
        self._window.append((kind, seconds, self._open_at(now - seconds)))
        passed = now - self._began_at
        if passed >= _LONGEST or (passed >= _WINDOW and len(self._window) >= _ENOUGH):
            self._close(now, passed, open_)

    def _close(self, now: float, passed: float, open_: int) -> None:
        window, self._window, self._began_at = self._window, [], now
        rate = len(window) / passed
        weight = min(1.0, passed / max(_RATE_TIME, 12 / rate)) if self._rate else 1.0
        self._rate += (rate - self._rate) * weight
        known = [(self._kinds[kind].seconds, seconds, o) for kind, seconds, o in window if kind in self._kinds]
        wait = median(s - u for u, s, o in known) if known else 0.0
        if not known:
            for kind, seconds, _ in window:
                self._learn(kind, seconds)
            return
        usual = median(u for u, s, o in known)
        began = median(o for u, s, o in known)
        waiting = self._rate * max(0.0, wait - _TOLERANCE * usual)
        headroom = max(1.0, math.sqrt(self._exact) * HEAD)
        memory = LEAK if waiting < headroom / 2 else _FORGETTING / 2**self._unhelpful
        for kind, seconds, _ in window:
            self._learn(kind, seconds - max(0.0, wait) * (1 - min(1, passed / memory)))
        if waiting > headroom:
            self._decrease_by_wait(now, wait, waiting, headroom, began)
        elif began >= 0.85 * self._exact - 1:
            self._grow(1 - waiting / headroom)

    def _learn(self, kind: int, seconds: float) -> None:
        seconds = max(seconds, 1e-4)
        known = self._kinds.get(kind)
        if known is None:
            self._kinds[kind] = _Usual(seconds)
            if len(self._kinds) > _KINDS:
                self._kinds.popitem(last=False)
        else:
            known.learn(seconds)
        self._kinds.move_to_end(kind)

    def _decrease_by_wait(self, now: float, wait: float, waiting: float, headroom: float, began: float) -> None:
        self._step = _FIRST_STEP
        aim = max(FLOOR, began * 0.4, began - waiting + headroom * LEAVE)
        if aim < self._exact:
            if began < self._exact + 1:
                self._unhelpful = min(self._unhelpful + 1, 6)
            self._exact = aim
            self._decreased_at = now
            self.decreases[SLOW] += 1

    def _grow(self, share: float) -> None:
        step = max(1.0, self._exact * self._step) * share
        self._step = max(self._step, min(_LARGEST_STEP, self._step * _ACCELERATION))
        self._unhelpful = 0
        self._exact = min(CEILING, self._exact + step, max(self._exact, self._refused_at - 1))

    def refused(self, now: float, began_at: float, open_: int) -> None:
        self._cap = min(self._cap, max(FLOOR, open_))
        self._hold_answers = max(0, self._hold_answers) + _ANSWERS_FOR_REFUSAL
        self._hold_until = now + _CAUTION
        if began_at <= self._decreased_at:
            return
        before = min(self._exact, open_ + 1)
        self._refused_at = before
        self._exact = max(FLOOR, before * DECREASE)
        self._step = _FIRST_STEP
        self._decreased_at = now
        self.decreases[REFUSED] += 1
