"""What a request says of itself where places at a provider are limited, and what it is told if it gets none. No I/O."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple, Protocol

OUTPUT_WEIGHT = 2
"""What a token of the answer counts for, beside one of the request: generating one takes a provider longer than reading
one. The paper's figure (see `fair_queue`)."""
MOST_KNOWN = 1024
"""Tenants of which is known how long their answers are."""


class Served(Protocol):
    """The tokens of one request, as far as they are known."""

    @property
    def input(self) -> int: ...

    @property
    def output(self) -> int: ...


class Claim:
    """A request's claim to a place at one provider. The same one is used again for the next provider."""

    __slots__ = ("_served", "bound", "charged", "is_batch", "number", "tenant", "weight")

    def __init__(
        self,
        tenant: str = "",
        weight: int = 1,
        *,
        is_batch: bool = False,
        served: Served | None = None,
        bound: int | None = None,
    ) -> None:
        """`tenant` "": there are no tenants. `served` None: tokens are not counted, as there is nobody to be fair to.
        `bound`: the most tokens that the request lets its answer have; None: it does not say."""
        self.tenant = tenant
        self.weight = weight
        self.is_batch = is_batch
        self._served = served
        self.bound = bound
        self.charged: int | None = None
        """Weighted tokens that its tenant was charged for the place it has; None: it has none, or an unlimited one."""
        self.number = 0
        """By which the parent of several workers knows it."""

    def __repr__(self) -> str:
        kind = "batch" if self.is_batch else "interactive"
        return f"<Claim of {self.tenant or 'all'}, {kind}, charged {self.charged}>"

    @property
    def is_counted(self) -> bool:
        return self._served is not None

    @property
    def output(self) -> int:
        """Tokens of the answer so far."""
        return self._served.output if self._served is not None else 0

    def cost(self, output: float) -> int:
        """Weighted tokens, with an answer of `output`. Never 0: a request without tokens takes a place as well."""
        if self._served is None:
            return 1
        return 1 + self._served.input + round(OUTPUT_WEIGHT * output)

    def advance(self) -> int:
        """Weighted tokens that were served beyond those charged; they are charged now."""
        if self.charged is None or self._served is None:
            return 0
        more = self.cost(self._served.output) - self.charged
        if more <= 0:
            return 0
        self.charged += more
        return more

    def settle(self) -> int:
        """The place is free again. Returns the tokens that were served beyond those charged; negative: fewer."""
        assert self.charged is not None
        more = self.cost(self.output) - self.charged
        self.charged = None
        return more


class LoneClaim:
    """Asks for a place at once, and never waits."""

    __slots__ = ("claim",)

    def __init__(self, claim: Claim) -> None:
        self.claim = claim


class Refusal(NamedTuple):
    """Why a request does not get a place now."""

    waiting: int
    """Requests that wait."""
    wait: float | None
    """Seconds that it would probably have to wait; None: nothing is known yet."""
    is_own: bool
    """Whether the reason is that its own tenant has its share of the queue already."""


class AnswerLengths:
    """How long tenants' answers are, so that a place is charged for when it is granted: what a thousand requests of one
    second cost shows only later."""

    __slots__ = ("_all", "_known")

    def __init__(self) -> None:
        self._known: OrderedDict[str, float] = OrderedDict()
        self._all = GUESS

    def expected_cost(self, claim: Claim) -> int:
        """Weighted tokens that a request will probably take."""
        if not claim.is_counted:
            return 1
        output = self._known.get(claim.tenant, self._all)
        return claim.cost(output if claim.bound is None else min(output, claim.bound))

    def learn(self, claim: Claim) -> None:
        """Its answer is over."""
        output = claim.output
        if not output:
            return
        known, tenant = self._known, claim.tenant
        self._all += (output - self._all) / _PACE
        known[tenant] = output if tenant not in known else known[tenant] + (output - known[tenant]) / _PACE
        known.move_to_end(tenant)
        if len(known) > MOST_KNOWN:
            known.popitem(last=False)


GUESS = 200.0
"""Tokens of an answer, before there was one. Nothing would let the first tenant have all places as if for free."""
_PACE = 8
"""Answers that an average goes back, about."""
