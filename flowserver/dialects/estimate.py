"""Estimates how many tokens a stream has emitted, since most providers report them only at its end. No tokenizer, no
I/O.

The estimate has three parts:

- The tokens that a usual tokenizer makes of the text, by the classes of its bytes (`byte_classes`), times a factor for
  the family of models.
- Events: many providers send one token in each. If there are about as many events as tokens, the events count; if
  there are more, they count too, because an event with content hardly ever has less than a token.
- Markup that is billed but not shown: for the end of an answer, for tool calls, for citations.

Factor and markup are fitted for each family on recorded streams (`python -m bench.estimates`); docs/tokens.md has the
errors, measured on recordings from repositories not used in the fit. Hidden reasoning appears in the final report only.

The reports of finished streams correct the estimates for the same upstream and model. For recordings in random order
that lowered the median error from 7.3 to 4.9 % where one of the same model came before; corrections by format or by
upstream alone raised it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from math import exp, log
from typing import Final

from .base import Format, Meter

_NO_HINT: Final = 0.7
_FULL_HINT: Final = 0.85
"""Events per token of the text. At `_FULL_HINT` or more the provider sends one token per event, and the text is
overestimated; at `_NO_HINT` or less it sends several, and their number says nothing; in between both count."""

_TRUST = 4.0
"""The weight of the family's constants, in streams of the model itself."""
_FADING = 0.99
"""Each further stream multiplies a stream's weight by this: about the last hundred count."""
_MOST_CORRECTION = log(8)
"""Up or down, by one stream."""
_LEAST_TOKENS = 50
"""Nothing is learned from shorter streams: the tokens that frame an answer outweigh their own."""

_LEAST_BYTES: Final = 1
_MOST_BYTES: Final = 12
"""Bytes per token, in estimates and in credible reports. A report outside this range counts something else, or is
nonsense."""

_WHOLE_REASONING = 3
"""Bytes per token of reasoning from which on it was shown whole; with less a summary was shown (Gemini: up to 2.4)."""


@dataclass(frozen=True, slots=True)
class Family:
    """Constants of a family of models, in tokens; none is negative."""

    factor: float
    """Per token of a usual tokenizer."""
    end: float
    """For an answer that ended by itself."""
    call: float
    first_call: float
    """For the first call of a tool, in addition to what each takes."""
    citation: float


FAMILIES: Final = {
    "claude": Family(factor=1.18, end=4.0, call=16.3, first_call=18.8, citation=11.0),
    "gemini": Family(factor=1.06, end=0.0, call=2.5, first_call=0.0, citation=11.0),
    "other": Family(factor=0.97, end=1.0, call=8.0, first_call=0.0, citation=8.0),
}


def family_of(format: str, model: str | None) -> str:
    """The key in `FAMILIES`. `format` by name; `model` as the request names it."""
    name = (model or "").lower()
    if format == "anthropic-messages" or "claude" in name:
        return "claude"
    return "gemini" if format == "gemini" or "gemini" in name else "other"


class Content:
    """The counts that an estimate is based on."""

    __slots__ = ("calls", "citations", "content_bytes", "content_events", "text_tokens")

    def __init__(
        self, content_bytes: int, content_events: int, text_tokens: float, calls: int = 0, citations: int = 0
    ) -> None:
        self.content_bytes = content_bytes
        self.content_events = content_events
        self.text_tokens = text_tokens
        """Of a usual tokenizer."""
        self.calls = calls
        self.citations = citations

    def since(self, then: Content) -> Content:
        return Content(
            self.content_bytes - then.content_bytes,
            self.content_events - then.content_events,
            self.text_tokens - then.text_tokens,
            self.calls - then.calls,
            self.citations - then.citations,
        )


_NOTHING: Final = Content(0, 0, 0.0)


@dataclass(slots=True, init=False)
class Ratio:
    """Estimates tokens from what a `Meter` counts. Not to be modified: the streams of a model share it."""

    family: Family
    correction: float
    """Learned from the model's earlier streams."""

    def __init__(self, family: Family, correction: float = 1.0) -> None:
        self.family = family
        self.correction = correction

    def shown(self, content: Content) -> float:
        """Tokens of the text, within the limits of credible reports."""
        return _shown(self, content.content_bytes, content.content_events, content.text_tokens)

    def markup(self, content: Content, *, ended: bool) -> float:
        family = self.family
        calls = content.calls
        tokens = calls * family.call + content.citations * family.citation
        if calls:
            tokens += family.first_call
        return tokens + family.end if ended and (content.content_bytes or calls) else tokens


_UNCORRECTED: Final = {name: Ratio(family) for name, family in FAMILIES.items()}


def _shown(ratio: Ratio, content_bytes: int, content_events: float, text_tokens: float) -> float:
    """Called after each event: comparisons take half the time of `min` and `max`."""
    likely = ratio.family.factor * text_tokens
    if content_events >= _FULL_HINT * likely:
        likely = content_events
    elif content_events > _NO_HINT * likely:
        weight = (content_events / likely - _NO_HINT) / (_FULL_HINT - _NO_HINT)
        likely = weight * content_events + (1 - weight) * likely
    likely *= ratio.correction
    if likely > content_bytes / _LEAST_BYTES:
        return content_bytes / _LEAST_BYTES
    return likely if likely > content_bytes / _MOST_BYTES else content_bytes / _MOST_BYTES


class Count:
    """The running count of one stream. It never falls: charges are not taken back before the end.

    Before the answer's end it rises by a token for each byte at most, from one call to the next, markup and reports
    left out, so that `bytes_within` holds whatever the content is.
    """

    __slots__ = ("_counted_at", "_ratio", "_reported", "_reported_at", "_shown", "_tokens")

    def __init__(self, ratio: Ratio) -> None:
        self._ratio = ratio
        self._tokens = 0
        self._reported = 0
        """The latest running report; 0 before the first."""
        self._reported_at = _NOTHING
        """`Meter.content_bytes` at that report."""
        self._shown = 0.0
        """Tokens since that report, without markup, at the last call of `tokens`."""
        self._counted_at = 0
        """`Meter.content_bytes` then."""

    def tokens(self, meter: Meter) -> int:
        """Output tokens so far: the running report, if any, plus an estimate of what followed. Best called right after
        each event, because a report is assumed to cover everything that the meter has read."""
        if meter.finish is not None or meter.finished:
            meter.content.settle()
            self._note_report(meter)
            now = content_of(meter).since(self._reported_at)
            ended = not self._reported and not is_cut(meter.finish)
            self._shown = max(self._shown, self._ratio.shown(now))
            self._counted_at = meter.content_bytes
            return self._raise(self._ratio.markup(now, ended=ended))
        if meter.running:
            self._note_report(meter)
        content_bytes, at = meter.content_bytes, self._reported_at
        since, content_events, text_tokens = (
            content_bytes - at.content_bytes,
            meter.content_events - at.content_events,
            meter.content.tokens - at.text_tokens,
        )
        shown = _shown(self._ratio, since, content_events, text_tokens)
        before = self._shown
        most = before + content_bytes - self._counted_at
        self._counted_at = content_bytes
        if shown > before:
            self._shown = shown if shown < most else most
        if meter.calls or meter.citations:
            return self._raise(self._ratio.markup(content_of(meter).since(at), ended=False))
        return self._raise(0.0)

    def _note_report(self, meter: Meter) -> None:
        output = meter.usage.output
        if meter.running and output is not None and output != self._reported:
            self._reported, self._reported_at = output, content_of(meter)
            self._shown, self._counted_at = 0.0, meter.content_bytes

    def _raise(self, markup: float) -> int:
        tokens = self._reported + int(self._shown + markup)
        if tokens > self._tokens:
            self._tokens = tokens
        return self._tokens

    def bytes_within(self, tokens: int) -> int:
        """Bytes of content that are never counted as more than `tokens`, in however many events they come."""
        return int(tokens * _LEAST_BYTES)


def content_of(meter: Meter) -> Content:
    """What `meter` has read so far."""
    return Content(meter.content_bytes, meter.content_events, meter.content.tokens, meter.calls, meter.citations)


def is_cut(finish: str | None) -> bool:
    """Whether `finish` says that the answer reached its token limit: then its end is not billed."""
    word = (finish or "").lower()
    return "length" in word or "max" in word


class Ratios:
    """Corrections of the estimates, by upstream and model; one object for each process.

    At most `size` models are known. The least recently used ones are forgotten, and start again without a correction.
    """

    __slots__ = ("_models", "_size")

    def __init__(self, size: int = 1024) -> None:
        self._size = size
        self._models: OrderedDict[tuple[str, str, str], _Evidence] = OrderedDict()

    def __len__(self) -> int:
        """The number of models known."""
        return len(self._models)

    def ratio(self, format: Format, *, upstream: str, model: str | None) -> Ratio:
        """The current ratio for one stream. `model` as the request names it, bounded (see `names`)."""
        family = family_of(format.name, model)
        key = _key(format, upstream, model)
        if (evidence := self._models.get(key)) is None:
            return _UNCORRECTED[family]
        self._models.move_to_end(key)
        return evidence.ratio(FAMILIES[family])

    def learn(self, format: Format, meter: Meter, *, upstream: str, model: str | None) -> None:
        """Learn from a finished stream, if its report is usable. Not for whole answers, which have one piece."""
        reported = _reported_text(meter)
        if reported is None:
            return
        ratio = _UNCORRECTED[family_of(format.name, model)]
        meter.content.settle()
        content = content_of(meter)
        tokens = max(1.0, reported - ratio.markup(content, ended=not is_cut(meter.finish)))
        key = _key(format, upstream, model)
        self._models.setdefault(key, _Evidence()).add(log(tokens / ratio.shown(content)))
        self._models.move_to_end(key)
        if len(self._models) > self._size:
            self._models.popitem(last=False)


class _Evidence:
    """Finished streams of one model, as fading sums."""

    __slots__ = ("_logs", "_ratio", "_streams")

    def __init__(self) -> None:
        self._streams = 0.0
        self._logs = 0.0
        self._ratio: Ratio | None = None
        """None: not made yet from all that was learned."""

    def add(self, error: float) -> None:
        """The logarithm of what was reported for each token that was estimated."""
        self._streams = self._streams * _FADING + 1
        self._logs = self._logs * _FADING + max(-_MOST_CORRECTION, min(_MOST_CORRECTION, error))
        self._ratio = None

    def ratio(self, family: Family) -> Ratio:
        """The ratio for a stream of this model, which is of `family`."""
        ratio = self._ratio
        if ratio is None:
            ratio = self._ratio = Ratio(family, exp(self._logs / (self._streams + _TRUST)))
        return ratio


def _key(format: Format, upstream: str, model: str | None) -> tuple[str, str, str]:
    return format.name, upstream, model or ""


def shown_tokens(meter: Meter) -> int | None:
    """Output tokens of what was shown, by the provider's report; None: there is no report, or a summary of the
    reasoning was shown, whose tokens no report has."""
    tokens, reasoning = meter.usage.output, meter.usage.reasoning or 0
    if tokens is None or meter.reasoning_bytes >= reasoning * _WHOLE_REASONING:
        return tokens
    return None if meter.reasoning_bytes else tokens - reasoning


def _reported_text(meter: Meter) -> int | None:
    """`shown_tokens` of an answer that came to its own end; None: it teaches nothing. Before its end there may be a
    report on the beginning only."""
    is_over = meter.finish is not None or meter.finished
    tokens = shown_tokens(meter) if is_over and meter.failed is None else None
    if tokens is None:
        return None
    believed = tokens >= _LEAST_TOKENS and tokens * _LEAST_BYTES <= meter.content_bytes <= tokens * _MOST_BYTES
    return tokens if believed else None
