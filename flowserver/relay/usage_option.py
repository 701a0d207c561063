"""Whether a provider takes the relay's option for a usage report. No I/O.

Some providers refuse requests with options that they don't know. Then the request is sent again without it, and
what came of that is remembered for the model, since gateways speak for many.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum

_MOST_MODELS = 1000


class _Answer(Enum):
    TAKEN = 0
    REFUSED = 1


class UsageOption:
    """Of one provider. The least recently used model is forgotten first."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: OrderedDict[str | None, _Answer] = OrderedDict()

    def may_ask(self, model: str | None, *, repeatable: bool) -> bool:
        """Whether to send the option. A request that can't be sent again is no good one to try it with."""
        known = self._known.get(model)
        if known is not None:
            self._known.move_to_end(model)
        return known is _Answer.TAKEN or (known is None and repeatable)

    def may_be_refused(self, model: str | None) -> bool:
        """Whether it is not known to be taken, so that the option may be why a request was refused."""
        return self._known.get(model) is not _Answer.TAKEN

    def taken(self, model: str | None) -> None:
        self._note(model, _Answer.TAKEN)

    def refused(self, model: str | None) -> None:
        """A request was refused with it and served without."""
        self._note(model, _Answer.REFUSED)

    def _note(self, model: str | None, answer: _Answer) -> None:
        known = self._known
        if known.get(model) is not answer:
            known[model] = answer
            if len(known) > _MOST_MODELS:
                known.popitem(last=False)
