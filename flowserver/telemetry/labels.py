"""Bounds the models and tenants that have series of their own in the metrics: clients choose the names of models, and a
directory may have any number of tenants. No I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

MAX_MODELS = 200
"""Most models with a label of their own, unless the configuration names more."""
AT_ONCE = 20
"""Models that get a label with their first answer, so that a relay for a few models shows them all from the start."""
ANSWERS = 3
"""Answers that further models need for a label."""
MAX_CANDIDATES = 1000
"""Most models without a label whose answers are counted. The least recently used is forgotten first, so names that are
never used again displace none in use."""
LEAD = 2
"""Factor by which a model's tokens must exceed those of the least used labelled model to take over its label. As tokens
double each time, series change only a few times, however many names are invented."""
MAX_TENANTS = 1000
"""Most tenants with a label of their own."""
OTHER: Final = "other"
"""The label shared by all further models, or tenants."""


class TenantLabels:
    """Gives labels to the first `MAX_TENANTS` tenants, permanently."""

    __slots__ = ("_given",)

    def __init__(self) -> None:
        self._given: set[str] = set()

    def label(self, tenant: str) -> str:
        if tenant in self._given:
            return tenant
        if len(self._given) >= MAX_TENANTS:
            return OTHER
        self._given.add(tenant)
        return tenant


class ModelLabels:
    """Gives labels to models.

    Models of the configuration always have one. Of the others the first `AT_ONCE` get one with their first answer, the
    next with their `ANSWERS`th. When all `MAX_MODELS` are given away, a model takes over from the one with the fewest
    tokens once it has `LEAD` times as many. What was counted before a model got its label stays in `OTHER`.
    """

    __slots__ = ("_candidates", "_given", "_most", "_own", "_reserved")

    def __init__(self) -> None:
        self._reserved: frozenset[str] = frozenset()
        self._most = MAX_MODELS
        """Labels for models that are not reserved."""
        self._own: dict[str, int] = {}
        """Tokens of reserved models, if used."""
        self._given: dict[str, int] = {}
        """Tokens of other models with a label."""
        self._candidates: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """Answers and tokens of models without a label, the most recently used last."""
        self.configure(())

    def configure(self, models: Iterable[str]) -> list[str]:
        """Reserve labels for exactly these `models`. Returns the models that lose their labels, the least used ones."""
        named = frozenset(models)
        self._most = max(0, MAX_MODELS - len(named))
        self._reserved = named | {OTHER, ""}  # "": neither the request nor the answer names a model
        used = self._own | self._given
        self._own = {model: tokens for model, tokens in used.items() if model in self._reserved}
        self._given = {model: tokens for model, tokens in used.items() if model not in self._reserved}
        for model in named:
            self._candidates.pop(model, None)
        return [self._revoke() for _ in range(len(self._given) - self._most)]

    def count(self, model: str, tokens: int, *, answered: bool) -> tuple[str, str | None]:
        """The label for an exchange with `tokens` tokens, and the model that loses its label (None: none does).

        `answered`: a provider accepted the request. A name that providers refuse gets no label.
        """
        given = self._given
        if model in given:
            given[model] += tokens
            return model, None
        if model in self._reserved:
            self._own[model] = self._own.get(model, 0) + tokens
            return model, None
        return self._stand(model, tokens) if answered else (OTHER, None)

    def _stand(self, model: str, tokens: int) -> tuple[str, str | None]:
        """Count an answer of a model without a label, and give it one if it has earned it."""
        answers, before = self._candidates.get(model, (0, 0))
        answers, total = answers + 1, before + tokens
        lost = None
        if len(self._given) < self._most:
            gets_one = answers >= ANSWERS or len(self._given) < AT_ONCE
        else:
            gets_one = answers >= ANSWERS and self._leads(total)
            lost = self._revoke() if gets_one else None
        if not gets_one:
            self._remember(model, answers, total)
            return OTHER, None
        self._candidates.pop(model, None)
        self._given[model] = total
        return model, lost

    def _leads(self, tokens: int) -> bool:
        """Whether a model with `tokens` tokens may take over a label."""
        return bool(self._given) and tokens >= LEAD * max(1, min(self._given.values()))

    def _revoke(self) -> str:
        """Take the label from the least used model; it may earn it again."""
        least = min(self._given, key=self._given.__getitem__)
        self._remember(least, ANSWERS, self._given.pop(least))
        return least

    def _remember(self, model: str, answers: int, tokens: int) -> None:
        self._candidates[model] = (answers, tokens)
        self._candidates.move_to_end(model)
        if len(self._candidates) > MAX_CANDIDATES:
            self._candidates.popitem(last=False)
