"""Quotas in money, as an account keeps to them: two leases, taken and given back in order."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import orjson
import pytest

from flowserver.dialects import recognise, recognise_stored
from flowserver.dialects.estimate import Ratios
from flowserver.errors import RelayError
from flowserver.http.messages import RequestHead, ResponseHead
from flowserver.quota.charged_answers import ChargedAnswers
from flowserver.quota.lease import Verdict
from flowserver.quota.limits import SMALL_MONEY, Cause, is_of_money
from flowserver.quota.prices import Price, PriceRow, PriceTable
from flowserver.quota.tenants import TenantLimits
from flowserver.relay.account import Account, AccountSettings
from flowserver.relay.event_filter import EventFilter
from flowserver.relay.provider import Provider

from ..support.quota import KEY, FakeLimiter, asking, quota, tenant
from ..support.recording import ask, open_answer, read_request, target
from ..support.streams import CHAT, INPUT

IN, OUT = 3_000_000, 15_000_000
"""Pico-dollars of a token."""
PRICES = PriceTable([PriceRow(("m",), Price(IN, OUT, IN, IN, OUT))])
BOTH = TenantLimits(usd_per_day=10**9, tokens_per_day=10**6)


class Scene:
    """A request by a tenant with limits of tokens and of money; the limiter answers when it is told to."""

    def __init__(
        self,
        limiter: FakeLimiter | None = None,
        *,
        limits: TenantLimits = BOTH,
        prices: PriceTable | None = PRICES,
        providers: list[Provider] | None = None,
        body: dict[str, Any] | None = None,
    ) -> None:
        self.limiter = limiter or FakeLimiter(left=10**10)
        settings = AccountSettings(
            Ratios(), 1 << 20, 8192, prices=prices, quota=quota(tenant(limits=limits), limiter=self.limiter)
        )
        request = asking(target=CHAT.target.encode())
        self.account = Account(settings, recognise(CHAT.target), request)
        self.account.identify(request, lambda error: None)
        self.body = orjson.dumps(CHAT.body | (body or {}))
        assert read_request(self.account, self.body) is None
        self.outcomes: list[RelayError | None] = []
        self.resumed = 0
        providers = [target()] if providers is None else providers
        self.account.request_permit(request, self.outcomes.append, self._on_resume, providers=providers)

    def _on_resume(self) -> None:
        self.resumed += 1

    @property
    def code(self) -> str | None:
        [outcome] = self.outcomes
        return outcome.code if outcome is not None else None

    def calls(self, name: str) -> list[tuple[str | int, ...]]:
        return [call for call in self.limiter.log if call[0] == name]

    def answer(self) -> Any:
        ask(self.account, target(), self.body)
        return open_answer(self.account, CHAT.head)


def test_money_is_leased_first_and_both_are_settled() -> None:
    scene = Scene()
    assert scene.code is None
    assert [is_of_money(stream_id) for stream_id in sorted(scene.limiter.ids)] == [False, True]
    estimate = scene.account.input
    assert scene.calls("admit") == [("admit", estimate * IN // 1000), ("admit", estimate)]
    event_filter = scene.answer()
    for event in CHAT.events(["a", "b", "c"], 3):
        event_filter.feed(event)
    scene.account.settle()
    assert scene.limiter.settled == [INPUT + 3, (INPUT * IN + 3 * OUT) // 1000]


def test_a_lease_of_money_pays_for_a_lease_of_tokens_and_is_never_tiny() -> None:
    dear = PriceTable([PriceRow(("m",), Price(0, 10**9, 0, 0, 0))])
    for prices, size in ((dear, 100 * 10**6), (PRICES, 100 * OUT // 1000), (_cheap(), SMALL_MONEY)):
        limiter = FakeLimiter(left=10**12)
        scene = Scene(limiter, prices=prices, limits=TenantLimits(usd_per_day=10**9))
        money = scene.account.quota.money if scene.account.quota is not None else None
        assert money is not None
        assert money.granted - scene.calls("admit")[0][1] == size  # type: ignore[operator]


def _cheap() -> PriceTable:
    return PriceTable([PriceRow(("m",), Price(1, 1, 1, 1, 1))])


def test_who_is_refused_for_money_takes_nothing_else() -> None:
    limiter = FakeLimiter()
    limiter.refuses = Cause.QUOTA
    scene = Scene(limiter)
    assert scene.code == "insufficient_quota"
    assert scene.outcomes[0] is not None
    assert "money is used up (usd_per_day)" in scene.outcomes[0].message
    assert len(limiter.log) == 1
    scene.account.settle()
    assert limiter.settled == []


def test_who_is_refused_for_something_else_gives_the_money_back_at_once() -> None:
    limiter = FakeLimiter(left=10**10, delayed=True)
    scene = Scene(limiter)
    limiter.answer()
    limiter.refuses = Cause.RATE
    limiter.answer()
    assert scene.code == "rate_limit_exceeded"
    assert limiter.settled == [0]
    scene.account.settle()
    assert limiter.settled == [0]


@pytest.mark.parametrize("answered", [0, 1])
def test_a_client_that_leaves_before_it_is_admitted_holds_nothing(answered: int) -> None:
    limiter = FakeLimiter(left=10**10, delayed=True)
    scene = Scene(limiter)
    for _ in range(answered):
        limiter.answer()
    scene.account.settle()
    while limiter.waiting:
        limiter.answer()
    assert scene.outcomes == []
    assert len(scene.calls("admit")) == 1 + answered
    assert limiter.settled == [0] * (1 + answered)


def test_an_event_waits_for_money_and_passes_when_it_comes() -> None:
    limiter = FakeLimiter(left=10**10)
    scene = Scene(limiter, limits=TenantLimits(usd_per_day=10**12))
    limiter.delayed = True
    event_filter = scene.answer()
    text = CHAT.content("word " * 30)
    fed = 0
    while not event_filter.is_waiting:
        event_filter.feed(text)
        fed += 1
    assert fed > 1
    limiter.answer()
    assert scene.resumed == 1
    assert event_filter.resume() == text
    assert not event_filter.is_waiting


def test_no_more_passes_unseen_than_the_lease_pays_for() -> None:
    """The fast path counts its events later."""
    scene = Scene(FakeLimiter(left=2_000_000), limits=TenantLimits(usd_per_day=10**12))
    event_filter = scene.answer()
    for text in ("a", "b", "c", "d"):
        event_filter.feed(CHAT.content(text))
    assert isinstance(event_filter, EventFilter)
    assert event_filter.room is not None
    assert scene.account.quota is not None
    assert scene.account.quota.money is not None
    assert 0 < event_filter.room * OUT // 1000 <= scene.account.quota.money.left


@pytest.mark.parametrize("other", [Verdict.PASS, Verdict.WAIT, Verdict.END])
def test_the_worse_verdict_of_both_leases_holds(other: Verdict) -> None:
    """Tokens without end, and money in each state."""
    limiter = FakeLimiter(left=10**10)
    scene = Scene(limiter, limits=TenantLimits(usd_per_day=10**12))
    limiter.delayed = other is Verdict.WAIT
    limiter.left = 0 if other is Verdict.END else 10**12
    event_filter = scene.answer()
    event_filter.feed(CHAT.content("word " * 1000))
    assert (event_filter.is_waiting, event_filter.spent) == (other is Verdict.WAIT, other is Verdict.END)


def test_a_cut_is_charged_no_more_than_was_granted() -> None:
    limiter = FakeLimiter(left=2_000_000)
    scene = Scene(limiter, limits=TenantLimits(usd_per_day=10**12))
    event_filter = scene.answer()
    while not event_filter.spent:
        event_filter.feed(CHAT.content("word "))
    assert b'"finish_reason":"length"' in scene.account.ending()
    scene.account.settle()
    [tokens, cost] = limiter.settled if len(limiter.settled) == 2 else [0, *limiter.settled]
    assert 0.98 * 2_000_000 <= cost <= 2_000_000
    assert tokens == 0


@pytest.mark.parametrize(("model", "code"), [("m", None), ("unknown", "price_missing")])
def test_a_model_needs_a_price_where_money_is_limited(model: str, code: str | None) -> None:
    scene = Scene(body={"model": model})
    assert scene.code == code
    assert Scene(body={"model": model}, limits=TenantLimits(tokens_per_day=10**6)).code is None


def test_without_any_price_nothing_starts() -> None:
    scene = Scene(prices=None)
    assert scene.code == "price_missing"
    assert scene.limiter.log == []


def test_the_dearest_provider_decides_what_has_to_be_left() -> None:
    rows = [
        PriceRow(("m",), Price(IN, OUT, IN, IN, OUT), ("cheap",)),
        PriceRow(("m",), Price(10 * IN, OUT, IN, IN, 7 * OUT), ("dear",)),
    ]
    providers: list[Provider] = [target(name="cheap"), target(name="dear")]
    scene = Scene(prices=PriceTable(rows), providers=providers, limits=TenantLimits(usd_per_day=10**9))
    assert scene.calls("admit") == [("admit", scene.account.input * 10 * IN // 1000)]
    assert scene.account.quota is not None
    assert scene.account.quota.money is not None
    size = 100 * 7 * OUT // 1000
    assert scene.account.quota.money.granted == scene.account.input * 10 * IN // 1000 + size


def test_both_leases_are_renewed() -> None:
    scene = Scene()
    for now in (0.0, 21.0):
        scene.account.sweep(now)
    assert scene.calls("extend") == [("extend", 0, 0)] * 2


def test_an_account_with_both_leases_leaves_no_cycle() -> None:
    scene = Scene()
    event_filter = scene.answer()
    event_filter.feed(CHAT.content("word"))
    scene.account.settle()
    seen = weakref.ref(scene)
    gc.disable()
    try:
        del scene, event_filter
        assert seen() is None
    finally:
        gc.enable()


# Answers that are fetched


def _fetched(answer_usage: int, charged: ChargedAnswers, limiter: FakeLimiter) -> Account:
    """A GET of a response that another request has made."""
    path = "/v1/responses/resp_1"
    settings = AccountSettings(
        Ratios(),
        1 << 20,
        8192,
        prices=PRICES,
        quota=quota(tenant(limits=TenantLimits(usd_per_day=10**9)), limiter=limiter),
        charged=charged,
    )
    request = RequestHead(b"GET", path.encode(), [(b"authorization", b"Bearer " + KEY)])
    made = Account(settings, recognise_stored(path), request)
    outcomes: list[RelayError | None] = []
    made.identify(request, outcomes.append)
    made.request_permit(request, outcomes.append, lambda: None, providers=[target()])
    assert outcomes == [None, None]
    made.ask(target(), [], repeatable=True)
    head = ResponseHead(200, [(b"content-type", b"application/json")])
    usage = {"input_tokens": INPUT, "output_tokens": answer_usage, "total_tokens": INPUT + answer_usage}
    body = {"id": "resp_1", "object": "response", "status": "completed", "model": "m", "output": [], "usage": usage}
    made.open(head)
    made.look(head, orjson.dumps(body), is_all=True)
    event_filter = made.event_filter
    assert event_filter is not None
    event_filter.feed(orjson.dumps(body))
    event_filter.finish()
    made.settle()
    return made


def test_a_response_that_is_fetched_again_is_paid_once() -> None:
    """And what log and metrics say of it adds up to what its quota loses."""
    charged, limiter = ChargedAnswers(), FakeLimiter(left=10**10)
    costs = [_fetched(output, charged, limiter).cost for output in (9, 9, 20)]
    first, more = (INPUT * IN + 9 * OUT) // 1000, 11 * OUT // 1000
    assert [cost for cost in limiter.settled if cost] == [first, more]
    assert costs == [first, 0, more]
