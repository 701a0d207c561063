"""Learns how many concurrent requests a provider should get, from how it answers. No I/O, no clock.

There are two signals, as in TCP. Delay: an overloaded provider lets requests wait, so their first tokens are late.
Loss: beyond that it refuses, with 429, 503 or 529.

A place stays taken long after the first token, so a delay alone does not say how many requests are too many. But who
waits is served when others end: the requests that ended while one waited were ahead of it. So each late first token
says how many requests the provider serves at a time: those under way when it began, without those that ended while it
waited. One in time says that it serves as many as were under way then.

Delay: if more wait than a headroom, the limit falls to the median of what late first tokens say. If not, it grows, in
rounds: one ends when most of the requests that the last one added have their first tokens. So overload is noticed one
time to the first token after it begins, however few first tokens come per second. The limit grows carefully up to the
number at which requests last waited or were refused. Once it is beyond that, the provider's capacity has risen, and the
limit grows by a share of itself per second.

Loss is used as in AIMD: the limit falls by a tenth, once for all requests that were begun before, and to the number
that was not refused if several are.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect
from collections import OrderedDict
from collections.abc import Sequence
from statistics import median, median_low
from typing import NamedTuple

FLOOR, FIRST, CEILING = 1, 16, 10_000
"""The lowest, the initial and the highest limit."""
SLOW, REFUSED = "first_token", "refusal"
"""Causes of decreases."""
DECREASE = 0.9
"""Factor by which a refusal lowers the limit."""

_WINDOW, _ENOUGH = 0.2, 8
"""Seconds and samples after which delays are evaluated, whichever takes longer ..."""
_LONGEST = 1.0
"""... but after this many seconds fewer samples suffice ..."""
_FEW = 4
"""... together with earlier ones, so that one or two do not decide."""
_TOLERANCE = 0.25
"""By what share of the usual time to the first token the median may be late without meaning that requests wait ..."""
_DEVIATIONS, _DEVIATION, _DEVIATION_RATE = 3.0, 0.3, 0.03
"""... or by how many mean deviations, divided by the square root of the number of samples; the initial mean deviation,
as a share of the usual time; and how quickly it is learned."""
_IN_TIME, _LATE = 0.1, 0.5
"""Shares by which the median is late at most if nobody waits for certain, and from which on somebody does."""
_LARGEST_CUT = 0.6
"""Largest decrease for a delay at once, as a share of the requests under way."""
_CAREFUL, _LARGEST_STEP = 0.04, 0.5
"""By what share the limit grows in a round: up to where requests waited or were refused, and at most."""
_START, _GROWTH = 1.0, 0.4
"""By what share of itself it grows in a second beyond that: before the first overload, and later."""
_PART, _FIRST_ROUND = 0.6, 3
"""The part of the added requests whose first tokens end a round; and how many end the very first one."""
_IS_USED = 0.85
"""Only requests that began while at least this share of the limit was used count for growth."""
_REST, _REST_SAMPLES, _RESTING = 10.0, 50, 0.85
"""Seconds and samples after which it falls below the provider's capacity for a round, and to which share of it: there
the usual times are measured. Else waiting, which is usual near the capacity, would become the usual time."""
_WITHOUT_WAITING = 0.95
"""Share of the capacity up to which requests do not wait."""
_YOUNG = 8
"""Samples of a kind after which its usual time is known."""
_PATIENCE = 60.0
"""Time constant, in seconds, by which a delay becomes the usual one after a decrease that did not help; each further
one halves it."""
_MOST_UNHELPFUL = 6
_HELPFUL = 0.8
"""A decrease has helped if later requests are late by less than this share of the delay before."""
_KINDS = 256
"""Most kinds of requests that are distinguished; the least recently seen are forgotten first."""
_ANSWERS = 80
"""Answers after a refusal, until the limit at the refusal is tried again ..."""
_CAUTION = 30.0
"""... and seconds after which it is tried in any case."""
_STEP, _STEPS = 0.02, 3000
"""Seconds between two records of how many requests are under way, and how many records are kept."""


class _Usual:
    """The usual time to the first token of one kind of request, without waiting."""

    __slots__ = ("samples", "seconds")

    def __init__(self, seconds: float, samples: int) -> None:
        self.seconds = seconds
        self.samples = samples

    def learn(self, seconds: float) -> None:
        """A request that did not wait took `seconds`. A single one changes little, as some take minutes for no
        reason."""
        self.samples += 1
        if self.samples <= 3 and seconds < self.seconds / 2:  # the first was one of these
            self.seconds = seconds
            return
        weight = max(0.1, 1 / self.samples)
        self.seconds *= 1 + weight * min(max(seconds / self.seconds - 1, -0.5), 0.5)


class _Sample(NamedTuple):
    usual: _Usual
    seconds: float
    began: float
    served: float
    """When the provider began with it, if it took the usual time from then on."""
    late: float
    """By what share of the usual time."""
    under_way: int
    """Requests at the provider when it began."""
    waiting: int
    """Those that ended before it was served."""


class _Record:
    """How many requests were under way, and how many had ended, over time."""

    __slots__ = ("_ended", "_times", "_under_way", "ended")

    def __init__(self) -> None:
        self._times = array("d", [-math.inf])
        self._under_way = array("q", [0])
        self._ended = array("q", [0])
        self.ended = 0

    def note(self, now: float, under_way: int) -> None:
        if now - self._times[-1] >= _STEP:
            self._times.append(now)
            self._under_way.append(under_way)
            self._ended.append(self.ended)
            if len(self._times) > 2 * _STEPS:
                del self._times[:_STEPS], self._under_way[:_STEPS], self._ended[:_STEPS]
        else:
            self._under_way[-1] = under_way
            self._ended[-1] = self.ended

    def at(self, time: float) -> tuple[int, int]:
        """Those under way and those that had ended, as far back as is recorded."""
        index = max(0, bisect(self._times, time) - 1)
        return self._under_way[index], self._ended[index]


class AdaptiveLimit:
    """The limit of one provider. Times are seconds of one monotonic clock.

    Requests are distinguished by kind, a number: model, size of the prompt, and whatever else the time to the first
    token depends on; its last bit tells kept connections from new ones. The signal is the median of how much later each
    was than is usual for its kind, so neither long prompts among short ones nor a few that hang look like overload.

    While it is used and the provider is not late, the limit grows, to find out what is possible. If decreases do not
    help, the delay is not caused by the load: the provider has become slower, and the delay becomes the usual time.
    """

    __slots__ = (
        "_answers_to_come",
        "_before",
        "_cap",
        "_capacity",
        "_caution_until",
        "_changed_at",
        "_decreased_at",
        "_deviation",
        "_earlier",
        "_edge",
        "_exact",
        "_kinds",
        "_late",
        "_late_before",
        "_lowest",
        "_needed",
        "_record",
        "_refused_at",
        "_rested_at",
        "_round",
        "_samples",
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
        self._record = _Record()
        self._kinds: OrderedDict[int, _Usual] = OrderedDict()
        """The least recently seen first."""
        self._deviation = _DEVIATION
        """How much first tokens differ from each other for no reason, as a share of the usual time."""
        self._window: list[_Sample] = []
        self._window_at: float | None = None
        """When it began; None before the first sample."""
        self._earlier: Sequence[_Sample] = ()
        """Samples of the last window."""
        self._late = 0.0
        """The median of how late they were."""
        self._late_before = 0.0
        """The same at the last decrease."""
        self._round: list[_Sample] = []
        """Those of requests that began with the current limit."""
        self._needed = _FIRST_ROUND
        """How many of them end the round."""
        self._before: list[_Sample] = []
        """The last of earlier rounds: a round of one or two samples does not decide alone."""
        self._changed_at = -math.inf
        self._capacity = 0.0
        """The requests that the provider served when it was late for the last time; 0: it never was."""
        self._edge = 0.0
        """From how many requests on it let them wait, or refused, when it last did; 0: it never did."""
        self._samples = 0
        self._rested_at = -math.inf
        """Samples and time since the last rest."""
        self._decreased_at = -math.inf
        self._unhelpful = 0
        """Decreases in a row that did not shorten the delay, up to `_MOST_UNHELPFUL`."""
        self._lowest = 1.0
        """How far the refusals of requests begun before the last decrease may lower the limit."""
        self._refused_at = math.inf
        """The limit must stay below this ..."""
        self._answers_to_come = 0
        """... until this many first tokens have come ..."""
        self._caution_until = 0.0
        """... or until this time."""
        self.decreases = {SLOW: 0, REFUSED: 0}

    def __repr__(self) -> str:
        return f"<AdaptiveLimit {self._exact:.1f}, capacity {self._capacity:.1f}, {len(self._kinds)} kinds>"

    @property
    def limit(self) -> int:
        return max(FLOOR, int(min(self._exact, self._cap)))

    @property
    def is_cautious(self) -> bool:
        """Whether refusals still hold the limit down, so that each first token brings the end of that nearer."""
        return self._cap < math.inf or self._refused_at < math.inf

    def count(self, now: float, under_way: int, ended: int = 0) -> None:
        """`under_way` requests are open from now on; `ended` others are over."""
        self._record.ended += ended
        self._record.note(now, under_way)

    def first_token(self, now: float, kind: int, seconds: float) -> None:
        """A first token came `seconds` after its request."""
        if self._window_at is None:
            self._window_at = now
        self._recover(now)
        self._samples += 1
        sample = self._sample(now, kind, max(seconds, 1e-4))
        self._window.append(sample)
        if self._shows_limit(sample):
            self._round.append(sample)
            if len(self._round) >= self._needed:
                self._end_round(now)
        passed = now - self._window_at
        if passed >= _LONGEST or (passed >= _WINDOW and len(self._window) >= _ENOUGH):
            window, self._window, self._window_at = self._window, [], now
            self._close(window, now, passed)

    def refused(self, now: float, began_at: float, under_way: int) -> None:
        """The provider refused a request that began at `began_at`; `under_way` other requests are open now."""
        self._record.ended -= 1  # it will be over, but nobody waited for that
        self._cap = min(self._cap, max(float(under_way), self._exact / 2))
        if began_at <= self._decreased_at:
            self._exact = max(min(self._exact, float(under_way)), self._lowest)
            self._refused_at = self._edge = min(self._refused_at, self._exact + 1)
            return
        self._answers_to_come = _ANSWERS
        self._caution_until = now + _CAUTION
        self._lowest = max(float(FLOOR), self._exact / 2)
        self._refused_at = self._edge = min(self._exact, under_way + 1.0)
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

    # --- samples ----------------------------------------------------------------------------------------------------

    def _sample(self, now: float, kind: int, seconds: float) -> _Sample:
        usual = self._usual(kind, seconds)
        began, served = now - seconds, now - usual.seconds
        under_way, ended = self._record.at(began)
        waiting = self._record.at(served)[1] - ended if served > began else 0
        late = seconds / usual.seconds - 1
        return _Sample(usual, seconds, began, served, late, under_way, max(0, min(waiting, under_way)))

    def _usual(self, kind: int, seconds: float) -> _Usual:
        """The usual time of this kind, of which one request took `seconds`."""
        usual = self._kinds.get(kind)
        if usual is None:
            similar = self._kinds.get(kind ^ 1)
            usual = _Usual(seconds / (1 + self._late), 1) if similar is None else _Usual(similar.seconds, 0)
            self._kinds[kind] = usual
            if len(self._kinds) > _KINDS:
                self._kinds.popitem(last=False)
        self._kinds.move_to_end(kind)
        return usual

    def _waiting(self, samples: Sequence[_Sample]) -> int:
        """How many requests wait inside the provider; 0 if chance may have made these late."""
        chance = _DEVIATIONS * self._deviation / math.sqrt(len(samples))
        if median_low(sample.late for sample in samples) < max(_TOLERANCE, chance):
            return 0
        return median_low(sample.waiting for sample in samples)

    @property
    def _headroom(self) -> float:
        """Requests that may wait inside the provider, so that it always has work."""
        return math.sqrt(self._exact)

    # --- delay ------------------------------------------------------------------------------------------------------

    def _close(self, window: list[_Sample], now: float, passed: float) -> None:
        """Evaluate a window of `passed` seconds."""
        seen = [*self._earlier, *window][-max(len(window), _FEW) :]
        self._earlier = seen
        waiting, late = self._waiting(seen), median(sample.late for sample in seen)
        self._late = max(0.0, late)
        for sample in window:
            self._deviation += _DEVIATION_RATE * (min(1.0, abs(sample.late - late)) - self._deviation)
        self._learn(window, waiting, passed)
        if waiting > self._headroom and len(seen) >= _FEW:
            self._follow_delay(now, seen)

    def _learn(self, window: list[_Sample], waiting: int, passed: float) -> None:
        """Update the usual times. Requests that may have waited say nothing about them, except after decreases that did
        not help."""
        forgotten = min(1.0, passed * 2**self._unhelpful / _PATIENCE) if self._unhelpful else 0.0
        is_late = waiting > 0 and self._late > _LATE
        for sample in window:
            usual = sample.usual
            is_new = not is_late and (usual.samples < _YOUNG or not self._capacity)
            if waiting <= self._headroom and (is_new or sample.under_way <= _WITHOUT_WAITING * self._capacity):
                usual.learn(sample.seconds)
            elif forgotten:
                usual.learn(usual.seconds * (1 + self._late * forgotten))

    def _follow_delay(self, now: float, seen: Sequence[_Sample]) -> None:
        """Lower the limit to what the provider serves at a time."""
        under_way = median(sample.under_way for sample in seen)
        aim = max(median(sample.under_way - sample.waiting for sample in seen), under_way * (1 - _LARGEST_CUT))
        if aim >= self._exact - 0.5:
            return  # it has been lowered since they began
        if median(sample.began for sample in seen) > self._decreased_at:
            helped = self._late < _HELPFUL * self._late_before
            self._unhelpful = 0 if helped else min(self._unhelpful + 1, _MOST_UNHELPFUL)
        self._capacity = aim
        self._edge = aim + self._headroom - 1
        is_near = aim > 0.7 * self._exact
        if is_near and now - self._rested_at > _REST and self._samples > _REST_SAMPLES:
            self._rested_at, self._samples = now, 0
            aim *= _RESTING
        self._decrease(now, aim, SLOW)

    def _decrease(self, now: float, limit: float, cause: str) -> None:
        self._exact = max(float(FLOOR), limit)
        self._decreased_at = now
        self._late_before = self._late
        self._begin_round(now, 1)
        self.decreases[cause] += 1

    # --- growth -----------------------------------------------------------------------------------------------------

    def _begin_round(self, now: float, needed: int) -> None:
        self._changed_at = now
        self._round = []
        self._needed = needed

    def _shows_limit(self, sample: _Sample) -> bool:
        """Whether it shows if the current limit is too high."""
        is_used = sample.under_way >= _IS_USED * self._exact - 1
        return is_used and sample.began >= self._changed_at - 1e-3

    def _end_round(self, now: float) -> None:
        """Let the limit grow, unless the requests that were served last had to wait."""
        ended = [*self._before, *self._round][-max(len(self._round), _FIRST_ROUND) :]
        self._before = ended[-_FIRST_ROUND:]
        self._round = []
        last = sorted(ended, key=lambda sample: sample.served)[-_ENOUGH:]
        waiting = self._waiting(last)
        if waiting > self._headroom:
            return
        self._unhelpful = 0
        in_time = waiting == 0 and (not self._edge or median(sample.late for sample in last) <= _IN_TIME)
        if in_time and median(sample.under_way for sample in last) >= self._edge:
            seconds = median(sample.usual.seconds for sample in last)
            share = (_GROWTH if self._edge else _START) * seconds
            limit = self._exact + max(1.0, self._exact * min(max(share, _CAREFUL), _LARGEST_STEP))
        else:
            limit = self._exact + max(1.0, self._exact * _CAREFUL) * (1 - waiting / self._headroom)
            limit = min(max(limit, self._capacity), max(self._exact + 1, self._edge))
        limit = max(self._exact, min(limit, CEILING, self._refused_at - 1))
        self._begin_round(now, max(1, math.ceil(_PART * (limit - self._exact))))
        self._exact = limit
