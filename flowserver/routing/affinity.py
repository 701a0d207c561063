"""Sends a conversation's requests to the same provider of a tier, so that its prefix cache is reused. No I/O.

Each conversation has its own order of the providers (rendezvous hashing, Thaler and Ravishankar 1998; by weight,
Schindelhauer and Schomaker 2005): the first available one gets its requests. When a provider is gone, its conversations
spread over the others, and all other conversations stay; when it returns, so do its conversations. There is no random
seed, so all workers and relays agree.

As some conversations have more requests than others, no provider may get much more load than the others (bounded loads,
Mirrokni, Thorup and Zadimoghaddam 2018): one above the bound is skipped.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import cache
from hashlib import blake2b
from operator import itemgetter
from typing import Final

from ..dialects.conversation import ConversationStart
from ..http.messages import RequestHead
from ..quota.identify import session_of, user_of
from ..relay.account import Account
from .upstream_host import UpstreamHost

BOUND = 1.25
"""A provider has at most this many times its share of its tier's open and waiting requests."""
SLACK = 8
"""It may exceed its share by this many, if that is more: a few requests are never balanced, and processing a whole
conversation again costs a provider more than a few extra requests."""
_KEY_BYTES = 16
_BITS: Final = (1 << 64) - 1
_POINTS: Final = 1 << 52
"""The midpoint between two of this many points is still a float below 1."""


class Affinity:
    """Decides which requests of a route belong together."""

    __slots__ = ("_slack", "by_session")

    def __init__(self, *, by_session: bool, workers: int = 1) -> None:
        """`by_session`: by the name of the session, if there is one, else by the beginning of the conversation.
        `workers`: how many processes share the load. Each knows only its own part, so its slack is smaller."""
        self.by_session = by_session
        self._slack = SLACK / math.sqrt(workers)

    def preference(self, request: RequestHead, account: Account, pieces: Sequence[bytes]) -> Preference | None:
        """The preference of a request with the body `pieces`; None: nothing shows what it belongs to."""
        conversation = account.request.conversation(pieces)
        key = self._session_key(request, account, conversation) if self.by_session else None
        if key is None and conversation is not None:
            key = _start_key(account, conversation)
        return None if key is None else Preference(key, self._slack)

    @staticmethod
    def _session_key(request: RequestHead, account: Account, conversation: ConversationStart | None) -> bytes | None:
        """The key from x-flow-session, else from the conversation in the body, else from the user. Each tenant has its
        own names."""
        tenant = account.tenant.name if account.tenant is not None else ""
        name = session_of(request) or (conversation.name if conversation is not None else None)
        if name is not None:
            return _key("session", tenant, name)
        user = user_of(request, account.params.user)
        return None if user is None else _key("user", tenant, user)


def _start_key(account: Account, conversation: ConversationStart) -> bytes | None:
    """The key from model and beginning, across tenants, as in caches."""
    texts = conversation.texts()
    return _key("start", account.params.model or "", *texts) if texts else None


def _key(*parts: str | bytes) -> bytes:
    written = [part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part for part in parts]
    return blake2b(b"".join([b"%d:%b" % (len(part), part) for part in written]), digest_size=_KEY_BYTES).digest()


class Preference:
    """Which of equal providers a request prefers: a `candidates.Choice`."""

    __slots__ = ("_first", "_is_counted", "_key", "_outcome", "_slack")

    def __init__(self, key: bytes, slack: float = SLACK) -> None:
        """`key` is the same for requests that belong together. `slack`: see `SLACK`."""
        self._key = key
        self._slack = slack
        self._first: UpstreamHost | None = None
        """The one that it would choose if all were available; None: it has not chosen yet."""
        self._outcome = ""
        self._is_counted = False

    def choose(
        self, tier: Collection[UpstreamHost], candidates: Sequence[UpstreamHost], full: Collection[UpstreamHost]
    ) -> UpstreamHost:
        """Choose the first in the order that is not above the bound."""
        if len(tier) == 1:
            return candidates[0]
        ordered = order(self._key, tier)
        unit = bound(candidates, self._slack)
        able = [host for host in ordered if host in candidates]
        chosen = next((host for host in able if host.load < unit), able[0])
        self._first = first = ordered[0]
        if first in candidates:
            self._outcome = "preferred" if first is chosen else "load"
        else:
            self._outcome = "full" if first in full else "unhealthy"
        return chosen

    def count(self, host: UpstreamHost) -> None:
        """An attempt begins at `host`. The outcome is counted only for the first attempt of a request."""
        first = self._first
        if first is not None and not self._is_counted:
            self._is_counted = True
            waited = self._outcome == "preferred" and first is not host  # waited there too long
            first.affinity["full" if waited else self._outcome] += 1


def order(key: bytes, hosts: Collection[UpstreamHost]) -> list[UpstreamHost]:
    """The order in which `key` prefers `hosts`. The probability to be first is proportional to a host's weight."""
    number = int.from_bytes(key[:8], "big") ^ int.from_bytes(key[8:], "big")
    scored = [(-host.weight / math.log(_point(number ^ _seed(host.settings.name))), host) for host in hosts]
    scored.sort(key=_score, reverse=True)
    return [host for _, host in scored]


_score = itemgetter(0)


def _point(number: int) -> float:
    """A point between 0 and 1 for 64 bits, by the finalizer of SplitMix64 (Steele, Lea and Flood 2014)."""
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _BITS
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _BITS
    return ((number ^ number >> 31) % _POINTS + 0.5) / _POINTS


@cache
def _seed(name: str) -> int:
    """The 64 bits that stand for the provider of this name."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")


def bound(hosts: Sequence[UpstreamHost], slack: float = SLACK) -> float:
    """The bound on requests per unit of weight below which a host may get one more. Some host is always below it."""
    total = 1
    for host in hosts:
        total += host.places.open + host.places.waiting
    return max(BOUND * total, total + slack * len(hosts)) / sum(host.weight for host in hosts)
