"""Learns how many concurrent requests a provider should get, from how it answers. No I/O, no clock.

There are two signals, as in TCP. Delay: an overloaded provider lets requests wait, so their first tokens are late.
Loss: beyond that it refuses, with 429, 503 or 529.

Delay is used as in Netflix's Gradient2: limit x gradient + headroom, once per window of samples. In Gradient2 the
gradient is the usual round trip over the current one, since a request is over when it is measured. Here a place stays
taken long after the first token, so the same delay may mean one request too many or fifty. By Little's law, the number
that wait inside the provider is the rate of first tokens times the delay. The gradient is the share of the requests
under way that do not wait; these are counted as of when the late ones began, so the estimate is right however long they
took.

Loss is used as in AIMD: the limit falls by a tenth, once for all requests that were begun before.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections import OrderedDict
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

FLOOR, FIRST, CEILING = 1, 16, 10_000
"""The lowest, the initial and the highest limit."""
SLOW, REFUSED = "first_token", "refusal"
"""Causes of decreases."""
DECREASE = 0.9
"""Factor by which a refusal lowers the limit."""

_WINDOW, _ENOUGH = 0.2, 8
"""Seconds and samples after which the limit is updated, whichever takes longer ..."""
_LONGEST = 1.0
"""... but after this many seconds fewer samples suffice ..."""
_FEW = 6
"""... together with earlier ones, so that one or two do not decide."""
_RATE_TIME, _RATE_SAMPLES = 3.0, 12
"""Seconds and samples over which the rate of first tokens is averaged, whichever takes longer."""
_TOLERANCE = 0.25
"""By what share of the usual time to the first token a request may be late without counting as waiting."""
_HEADROOM = 0.75
"""Times the square root of the limit: requests that may wait inside the provider, so that it always has work."""
_LARGEST_CUT = 0.6
"""Largest decrease for a delay in one window, as a share of the requests under way."""
_START, _FIRST_STEP, _LARGEST_STEP, _ACCELERATION = 0.5, 0.04, 0.2, 1.5
"""By what share the limit grows per window: until it is too high for the first time, after a decrease, and at most; and
the factor from one step to the next."""
_IS_USED = 0.85
"""The limit grows only while requests use at least this share of it."""
_PATIENCE, _HASTE = 120.0, 20.0
"""Time constants, in seconds, by which a lasting delay becomes the usual one: while it is too long, and while it is
not."""
_MOST_UNHELPFUL = 6
_KINDS = 256
"""Most kinds of requests that are distinguished; the least recently seen are forgotten first."""
_ANSWERS = 100
"""Answers per refused request, until the limit at the refusal is tried again ..."""
_CAUTION = 30.0
"""... and seconds after which it is tried in any case."""
_STEP, _STEPS = 0.1, 600
"""Seconds between two records of how many requests are under way, and how many records are kept."""


class _Sample(NamedTuple):
    kind: int
    seconds: float
    under_way: int
    """Requests at the provider when this one began."""


class _Usual:
    """The usual time to the first token of one kind of request, without waiting."""

    __slots__ = ("samples", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.samples = 1

    def learn(self, seconds: float) -> None:
        """A request that did not wait took `seconds`. A single one changes little, as some take minutes for no
        reason."""
        self.samples += 1
        if self.samples <= 3:  # the first may have been one of these
            self.seconds = min(self.seconds, seconds)
        else:
            self.seconds *= 1 + 0.1 * min(max(seconds / self.seconds - 1, -0.5), 0.5)


class _UnderWay:
    """The number of requests under way, over time."""

    __slots__ = ("_counts", "_times")

    def __init__(self) -> None:
        self._times: list[float] = []
        self._counts: list[int] = []

    def note(self, now: float, count: int) -> None:
        if self._times and now - self._times[-1] < _STEP:
            return
        self._times.append(now)
        self._counts.append(count)
        if len(self._times) > 2 * _STEPS:
            del self._times[:_STEPS], self._counts[:_STEPS]

    def at(self, time: float) -> int:
        """The number at or after `time`, as far back as is recorded."""
        return self._counts[max(0, bisect(self._times, time) - 1)]


class AdaptiveLimit:
    """The limit of one provider. Times are seconds of one monotonic clock.

    Requests are distinguished by kind, a number: model, size of the prompt, and whatever else the time to the first
    token depends on. The signal is the median of how much later each was than is usual for its kind, so neither long
    prompts among short ones nor a few that hang look like overload.

    While it is used and the provider is not late, the limit grows, to find out what is possible. As it never stays too
    high, the usual times are measured again and again. If decreases do not help, the delay is not caused by the load:
    the provider has become slower, and the delay becomes the usual time.
    """

    __slots__ = (
        "_answers_to_come",
        "_cap",
        "_caution_until",
        "_decreased_at",
        "_earlier",
        "_exact",
        "_kinds",
        "_rate",
        "_refused_at",
        "_step",
        "_under_way",
        "_unhelpful",
        "_window",
        "_window_at",
        "decreases",
    )

    def __init__(self) -> None:
        self._exact = float(FIRST)
        self._cap = math.inf
        """After refusals: the requests that were not refused, plus one for each first token since. Places of refused
        requests are not filled at once, or the next requests would be refused too."""
        self._step = _START
        self._kinds: OrderedDict[int, _Usual] = OrderedDict()
        """The least recently seen first."""
        self._window: list[_Sample] = []
        self._window_at: float | None = None
        """When it began; None before the first sample."""
        self._earlier: Sequence[_Sample] = ()
        """Samples of the last window."""
        self._under_way = _UnderWay()
        self._rate = 0.0
        """First tokens per second."""
        self._decreased_at = -math.inf
        self._unhelpful = 0
        """Decreases in a row that did not shorten the delay, up to `_MOST_UNHELPFUL`."""
        self._refused_at = math.inf
        """The limit must stay below this ..."""
        self._answers_to_come = 0
        """... until this many first tokens have come ..."""
        self._caution_until = 0.0
        """... or until this time."""
        self.decreases = {SLOW: 0, REFUSED: 0}

    def __repr__(self) -> str:
        return f"<AdaptiveLimit {self._exact:.1f}, {self._rate:.1f}/s, {len(self._kinds)} kinds>"

    @property
    def limit(self) -> int:
        return max(FLOOR, int(min(self._exact, self._cap)))

    def first_token(self, now: float, kind: int, seconds: float, under_way: int) -> None:
        """A first token came `seconds` after its request; `under_way` requests are open now."""
        if self._window_at is None:
            self._window_at = now
        self._recover(now)
        self._under_way.note(now, under_way)
        self._window.append(_Sample(kind, max(seconds, 1e-4), self._under_way.at(now - seconds)))
        passed = now - self._window_at
        if passed >= _LONGEST or (passed >= _WINDOW and len(self._window) >= _ENOUGH):
            window, self._window, self._window_at = self._window, [], now
            self._close(window, now, passed)

    def refused(self, now: float, began_at: float, under_way: int) -> None:
        """The provider refused a request that began at `began_at`; `under_way` other requests are open now."""
        self._cap = min(self._cap, max(float(under_way), self._exact / 2))
        if began_at <= self._decreased_at:
            self._answers_to_come += _ANSWERS
            return
        self._answers_to_come = max(self._answers_to_come, _ANSWERS)
        self._caution_until = now + _CAUTION
        self._refused_at = min(self._exact, under_way + 1.0)
        self._decrease(now, self._exact * DECREASE, REFUSED)

    # --- refusals ---------------------------------------------------------------------------------------------------

    def _recover(self, now: float) -> None:
        """The provider has served a request."""
        self._cap += 1
        if self._cap >= self._exact:
            self._cap = math.inf
        self._answers_to_come -= 1
        if self._answers_to_come <= 0 or now >= self._caution_until:
            self._answers_to_come = 0
            self._refused_at = math.inf

    # --- delay ------------------------------------------------------------------------------------------------------

    def _close(self, window: list[_Sample], now: float, passed: float) -> None:
        """Evaluate a window of `passed` seconds."""
        rate = len(window) / passed
        self._rate += (rate - self._rate) * min(1.0, passed / max(_RATE_TIME, _RATE_SAMPLES / rate))
        seen = [*self._earlier, *window][-max(len(window), _FEW) :]
        self._earlier = seen
        known = [(sample, self._kinds[sample.kind].seconds) for sample in seen if sample.kind in self._kinds]
        if not known:
            self._learn(window, 0.0)
            return
        delay = median(sample.seconds - usual for sample, usual in known)
        waiting = self._rate * max(0.0, delay - _TOLERANCE * median(usual for _, usual in known))
        headroom = max(1.0, _HEADROOM * math.sqrt(self._exact))
        memory = _HASTE if waiting < headroom / 2 else _PATIENCE / 2**self._unhelpful
        self._learn(window, max(0.0, delay) * max(0.0, 1 - passed / memory))
        under_way = median(sample.under_way for sample, _ in known)
        if waiting > headroom:
            self._follow_gradient(now, delay, under_way, under_way - waiting + headroom)
        elif under_way >= _IS_USED * self._exact - 1:
            self._grow(1 - waiting / headroom)

    def _learn(self, window: list[_Sample], delay: float) -> None:
        """Update the usual times from samples that were late by `delay`."""
        for sample in window:
            seconds = max(sample.seconds - delay, 1e-4)
            usual = self._kinds.get(sample.kind)
            if usual is None:
                self._kinds[sample.kind] = _Usual(seconds)
            else:
                usual.learn(seconds)
            self._kinds.move_to_end(sample.kind)
        while len(self._kinds) > _KINDS:
            self._kinds.popitem(last=False)

    def _follow_gradient(self, now: float, delay: float, under_way: float, aim: float) -> None:
        """Lower the limit: requests that began while `under_way` were open were late; `aim` would not have been too
        many."""
        self._step = _FIRST_STEP
        aim = max(aim, under_way * (1 - _LARGEST_CUT))
        if aim >= self._exact:
            return  # it has been lowered since they began
        if now - delay > self._decreased_at + _LONGEST / 2:
            self._unhelpful = min(self._unhelpful + 1, _MOST_UNHELPFUL)
        self._decrease(now, aim, SLOW)

    def _decrease(self, now: float, limit: float, cause: str) -> None:
        self._exact = max(float(FLOOR), limit)
        self._step = _FIRST_STEP
        self._decreased_at = now
        self.decreases[cause] += 1

    def _grow(self, share: float) -> None:
        """Grow by a `share` of the current step: the closer the provider is to overload, the smaller."""
        self._unhelpful = 0
        limit = min(float(CEILING), self._exact + max(1.0, self._exact * self._step) * share)
        self._step = max(self._step, min(_LARGEST_STEP, self._step * _ACCELERATION))
        if limit > self._refused_at - 1:
            limit = max(self._exact, self._refused_at - 1)
            self._step = _FIRST_STEP
        self._exact = limit
