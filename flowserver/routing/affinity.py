"""Sends a conversation's requests to one provider of a tier, so that its cache of their beginning is of use. No I/O.

Each conversation has an order of the providers of its own (rendezvous hashing, Thaler and Ravishankar 1998; by weight,
Schindelhauer and Schomaker 2005): the first that may be asked gets its requests. When a provider goes, its
conversations spread over the others, and all others stay where they are; when it is back, so are they. No seed is in
it, so that all workers and relays agree.

Where some conversations have more requests than others, no provider may become much fuller than the others (bounded
loads, Mirrokni, Thorup and Zadimoghaddam 2018): one above the bound is passed over.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from hashlib import blake2b

from ..http.messages import RequestHead
from ..quota.identify import session_of, user_of
from ..relay.account import Account
from .upstream_host import UpstreamHost

BOUND = 1.25
"""A provider has at most so many times its share of the requests under way at its tier, and those that wait."""
SLACK = 8
"""It may have so many more than its share, if that is more: in a few requests there is no balance, and to read a whole
conversation anew takes a provider longer than to have a few more at once."""
_KEY_BYTES = 16
_POINTS = 1 << 52
"""The middle between two of so many is still a float below 1."""


class Affinity:
    """What makes requests of a route belong together."""

    __slots__ = ("_slack", "by_session")

    def __init__(self, *, by_session: bool, workers: int = 1) -> None:
        """`by_session`: the name of their session, if they have one, else how their conversation begins. `workers`: how
        many processes share the load evenly. Each knows its own only, which chance moves that much less."""
        self.by_session = by_session
        self._slack = SLACK / math.sqrt(workers)

    def preference(self, request: RequestHead, account: Account, pieces: Sequence[bytes]) -> Preference | None:
        """That of a request whose body is `pieces`; None: nothing shows what it belongs to."""
        key = self._session_key(request, account) if self.by_session else None
        key = key or _start_key(account, pieces)
        return None if key is None else Preference(key, self._slack)

    @staticmethod
    def _session_key(request: RequestHead, account: Account) -> bytes | None:
        """By x-flow-session, else the name of the conversation in the body, else the user. Each tenant has names of its
        own."""
        conversation = account.request.conversation
        tenant = account.tenant.name if account.tenant is not None else ""
        name = session_of(request) or (conversation.name if conversation is not None else None)
        if name is not None:
            return _key("session", tenant, name)
        user = user_of(request, account.params.user)
        return None if user is None else _key("user", tenant, user)


def _start_key(account: Account, pieces: Sequence[bytes]) -> bytes | None:
    """By model and beginning, whoever asks: so are caches."""
    conversation = account.request.conversation
    texts = conversation.texts(pieces) if conversation is not None else []
    return _key("start", account.params.model or "", *texts) if texts else None


def _key(*parts: str | bytes) -> bytes:
    digest = blake2b(digest_size=_KEY_BYTES)
    for part in parts:
        written = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(b"%d:%b" % (len(written), written))
    return digest.digest()


class Preference:
    """Which of equal providers one request prefers: a `candidates.Choice`."""

    __slots__ = ("_first", "_is_counted", "_key", "_outcome", "_slack")

    def __init__(self, key: bytes, slack: float = SLACK) -> None:
        """`key` is the same for all that belongs together. `slack`: see `SLACK`."""
        self._key = key
        self._slack = slack
        self._first: UpstreamHost | None = None
        """The one that it would have if all were well; None: there was no choice yet."""
        self._outcome = ""
        self._is_counted = False

    def choose(
        self, tier: Collection[UpstreamHost], candidates: Sequence[UpstreamHost], full: Collection[UpstreamHost]
    ) -> UpstreamHost:
        """The first that is not above the bound."""
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
        """An attempt begins at `host`. Only of the first one of a request it is counted what became of its wish."""
        first = self._first
        if first is not None and not self._is_counted:
            self._is_counted = True
            waited = self._outcome == "preferred" and first is not host  # in its queue, for too long
            first.affinity["full" if waited else self._outcome] += 1


def order(key: bytes, hosts: Collection[UpstreamHost]) -> list[UpstreamHost]:
    """The order in which `key` prefers `hosts`: first is each of them with a probability in proportion to its
    weight."""

    def score(host: UpstreamHost) -> float:
        digest = blake2b(host.settings.name.encode(), digest_size=8, key=key).digest()
        point = (int.from_bytes(digest, "big") % _POINTS + 0.5) / _POINTS
        return -host.weight / math.log(point)

    return sorted(hosts, key=score, reverse=True)


def bound(hosts: Sequence[UpstreamHost], slack: float = SLACK) -> float:
    """What each of `hosts` may have before it gets one more is less than this for each unit of weight. Some always
    have."""
    total = 1
    for host in hosts:
        total += host.places.open + host.places.waiting
    return max(BOUND * total, total + slack * len(hosts)) / sum(host.weight for host in hosts)
