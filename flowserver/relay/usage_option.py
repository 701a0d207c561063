"""Whether a provider accepts the option for a usage report. No I/O.

Some providers refuse requests with unknown options. The request is then sent again without it, and the result is
remembered per model, since a gateway may serve many providers.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum

_MOST_MODELS = 1000


class _Answer(Enum):
    ACCEPTED = 0
    REFUSED = 1


class UsageOption:
    """What is known about one provider, by model. The least recently used model is forgotten first."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: OrderedDict[str | None, _Answer] = OrderedDict()

    def may_ask(self, model: str | None, *, repeatable: bool) -> bool:
        """Whether to add the option. Only a request that can be sent again is used to find out."""
        known = self._known.get(model)
        if known is not None:
            self._known.move_to_end(model)
        return known is _Answer.ACCEPTED or (known is None and repeatable)

    def may_be_refused(self, model: str | None) -> bool:
        """Whether the option may be the reason for a refusal: it is not known to be accepted."""
        return self._known.get(model) is not _Answer.ACCEPTED

    def accepted(self, model: str | None) -> None:
        self._note(model, _Answer.ACCEPTED)

    def refused(self, model: str | None) -> None:
        """A request was refused with the option and served without it."""
        self._note(model, _Answer.REFUSED)

    def _note(self, model: str | None, answer: _Answer) -> None:
        known = self._known
        if known.get(model) is not answer:
            known[model] = answer
            if len(known) > _MOST_MODELS:
                known.popitem(last=False)
