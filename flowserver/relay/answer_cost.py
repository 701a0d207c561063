"""The cost of one answer, while it passes and at its end. No I/O."""

from __future__ import annotations

from ..dialects.base import Meter
from ..quota.money import PICO, nano_dollars
from ..quota.prices import PriceTable, Tariff
from .provider import Provider


def names_of(provider: Provider, model: str | None, answered: str | None = None) -> list[str | None]:
    """The names of a request's model at `provider`, in order of precedence: from the answer, as sent to the provider,
    and as sent by the client."""
    renamed = provider.settings.models.get(model) if model is not None else None
    names: list[str | None] = [name for name in (answered, renamed, model) if name is not None]
    return names or [None]


_NOT_LOOKED_UP = ""


class AnswerCost:
    """`total` is the cost in nano-dollars, `reserved` the highest possible cost while it is unknown."""

    __slots__ = ("_base", "_input", "_meter", "_model", "_prices", "_provider", "_rate", "_requested", "_tariff")

    def __init__(self, prices: PriceTable, provider: Provider, model: str | None, meter: Meter) -> None:
        """`model`: as named by the client."""
        self._prices = prices
        self._provider = provider
        self._requested = model
        self._meter = meter
        self._model: str | None = _NOT_LOOKED_UP
        """The answer's name of the model when the tariff was looked up."""
        self._tariff: Tariff | None = None
        self._input = -1
        """Tokens of the request when `_base` and `_rate` were computed."""
        self._base = 0
        """Pico-dollars of the request."""
        self._rate = 0
        """Most pico-dollars per token of the answer."""

    @property
    def tariff(self) -> Tariff | None:
        """None: there is no price."""
        model = self._meter.model
        if model is not self._model:
            self._model = model
            names = names_of(self._provider, self._requested, model)
            self._tariff = self._prices.tariff(self._provider.name, names)
            self._input = -1
        return self._tariff

    def total(self, input: int, output: int) -> int | None:
        """Nano-dollars of these tokens, by what is known about cached and reasoning tokens; None: there is no price."""
        tariff = self.tariff
        return None if tariff is None else tariff.at(input).cost(input, output, self._meter.usage)

    def reserved(self, input: int, output: int) -> int:
        """Most nano-dollars that these tokens may cost. Called for each event."""
        if input != self._input or self._meter.model is not self._model:
            self._look_up(input)
        return nano_dollars(self._base + output * self._rate)

    def tokens_within(self, nano: int, input: int) -> int | None:
        """Tokens of an answer that `nano` nano-dollars pay for, with a request of `input` tokens; None: tokens are
        free."""
        self._look_up(input)
        return max(0, nano * PICO - self._base) // self._rate if self._rate else None

    def _look_up(self, input: int) -> None:
        tariff = self.tariff
        self._input = input
        if tariff is None:
            self._base = self._rate = 0
        else:
            price = tariff.at(input)
            self._base, self._rate = price.of_input(input, self._meter.usage), price.dearest_output
