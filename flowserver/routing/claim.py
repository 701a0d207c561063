"""A request's claim to one of a provider's limited places, and its refusal if there is none. No I/O."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple, Protocol

OUTPUT_WEIGHT = 2
"""Weight of an answer's token relative to a request's: generating takes a provider longer than reading. The paper's
figure (see `fair_queue`)."""
MOST_KNOWN = 1024
"""Most tenants whose answer lengths are remembered."""


class Served(Protocol):
    """The tokens of one request, as far as they are known."""

    @property
    def input(self) -> int: ...

    @property
    def output(self) -> int: ...


class Claim:
    """A request's claim to a place at one provider. It is reused for the next provider."""

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
        """`tenant` "": there are no tenants. `served` None: tokens are not counted, since fairness does not matter.
        `bound`: the request's own bound on the answer's tokens; None: it has none."""
        self.tenant = tenant
        self.weight = weight
        self.is_batch = is_batch
        self._served = served
        self.bound = bound
        self.charged: int | None = None
        """Weighted tokens that its tenant was charged for its place; None: it has none, or an unlimited one."""
        self.number = 0
        """Its number at the parent of several workers."""

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
        """Weighted tokens, with an answer of `output` tokens. Never 0: a request without tokens takes a place as
        well."""
        if self._served is None:
            return 1
        return 1 + self._served.input + round(OUTPUT_WEIGHT * output)

    def advance(self) -> int:
        """Weighted tokens that were served beyond those charged; they count as charged from now on."""
        if self.charged is None or self._served is None:
            return 0
        more = self.cost(self._served.output) - self.charged
        if more <= 0:
            return 0
        self.charged += more
        return more

    def settle(self) -> int:
        """The place is free again. Returns the weighted tokens that were served beyond those charged; negative:
        fewer."""
        assert self.charged is not None
        more = self.cost(self.output) - self.charged
        self.charged = None
        return more


class LoneClaim:
    """Takes a place only if one is free, and never waits."""

    __slots__ = ("claim",)

    def __init__(self, claim: Claim) -> None:
        self.claim = claim


class Refusal(NamedTuple):
    """Why a request gets no place."""

    waiting: int
    """Number of waiting requests."""
    wait: float | None
    """Expected wait in seconds; None: unknown yet."""
    is_own: bool
    """Whether the reason is that its own tenant already has its share of the queue."""


class AnswerLengths:
    """The lengths of tenants' answers, so that a place can be charged when it is granted: the cost of a thousand
    simultaneous requests is known only later."""

    __slots__ = ("_all", "_known")

    def __init__(self) -> None:
        self._known: OrderedDict[str, float] = OrderedDict()
        self._all = GUESS

    def expected_cost(self, claim: Claim) -> int:
        """Weighted tokens that a request will probably use."""
        if not claim.is_counted:
            return 1
        output = self._known.get(claim.tenant, self._all)
        return claim.cost(output if claim.bound is None else min(output, claim.bound))

    def learn(self, claim: Claim) -> None:
        """Learn from an answer that is over."""
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
"""Expected tokens of a tenant's first answer. With 0 the first tenant could take all places for free."""
_PACE = 8
"""About how many answers the average covers."""
