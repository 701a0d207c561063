"""Whose a request is, what it may use, and what it is charged."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from flowserver.errors import EndReason, RelayError, upstream_error
from flowserver.http.messages import ResponseHead, find
from flowserver.quota.limits import Cause
from flowserver.quota.refusals import NO_KEY
from flowserver.quota.tenants import ModelLimits, TenantLimits
from flowserver.relay.event_filter import AnyFilter

from ..support.accounts import feed, requested
from ..support.quota import FakeLimiter, asking, quota, tenant
from ..support.recording import account, ask, open_answer, read_request, target
from ..support.streams import (
    CHAT,
    INPUT,
    MESSAGES,
    Stream,
)

BROKEN = upstream_error("upstream_failed", "The provider broke off.", EndReason.UPSTREAM_FAILED)
TEXTS = [f"word {number} " for number in range(30)]
NONSENSE = pytest.mark.parametrize("body", [b"", b"nonsense", b'{"model": "m"', b"[]", b'"text"', b"1", b"\xff"])


def test_an_unknown_format_has_a_model_and_no_count() -> None:
    made = account("/v1/other")
    read_request(made, b'{"model": "m"}')
    ask(made, target())
    assert made.model == "m"
    assert open_answer(made, CHAT.head) is None
    assert (made.output, made.usage.input, made.count) == (0, None, None)
    assert made.error(BROKEN) == BROKEN.body()
    assert made.ending() == b""
    made.settle()


ACME: dict[str, Any] = {"limits": TenantLimits(tokens_per_day=10_000)}


class Permitted:
    """A request of a tenant, and how it was decided."""

    def __init__(
        self,
        stream: Stream = CHAT,
        *headers: tuple[bytes, bytes],
        limiter: FakeLimiter | None = None,
        body: dict[str, Any] | None = None,
        budget: int | None = None,
        **acme: Any,
    ) -> None:
        self.limiter = limiter or FakeLimiter()
        self.account = account(stream.target, quota=quota(tenant(**(acme or ACME)), limiter=self.limiter))
        self.account.bound(budget)
        self.outcomes: list[RelayError | None] = []
        self.stream = stream
        self.body = orjson.dumps(stream.body | (body or {}))
        request = asking(*headers, target=stream.target.encode())
        self.account.identify(request, self.outcomes.append)
        if self.outcomes == [None]:
            self.outcomes.clear()
            read_request(self.account, self.body)
            self.account.request_permit(request, self.outcomes.append, lambda: None, providers=[target()])

    @property
    def code(self) -> str | None:
        """Of the refusal; None: it may start."""
        [outcome] = self.outcomes
        return outcome.code if outcome is not None else None

    def ask(self) -> Any:
        """What a provider gets of the body."""
        changed = ask(self.account, target(), self.body)
        return orjson.loads(self.body if changed is None else changed)

    def open(self) -> AnyFilter:
        self.ask()
        event_filter = open_answer(self.account, self.stream.head)
        assert event_filter is not None
        return event_filter


@pytest.mark.parametrize(
    ("acme", "code"),
    [
        ({"models": ("gpt-*",)}, "model_not_found"),
        ({"models": ("m",)}, None),
        ({"paths": ("/v1/embeddings",)}, "permission_denied"),
        ({"paths": ("/v1/chat/*",)}, None),
    ],
)
def test_a_tenant_uses_the_models_and_paths_that_are_its_own(acme: dict[str, Any], code: str | None) -> None:
    made = Permitted(**acme)
    assert made.code == code
    assert made.limiter.log == []


def test_a_request_without_a_known_key_is_nobodys() -> None:
    made = account(CHAT.target, quota=quota(tenant()))
    outcomes: list[RelayError | None] = []
    made.identify(asking(key=None), outcomes.append)
    assert outcomes == [NO_KEY]
    assert made.tenant is None


def test_where_there_are_no_tenants_everybody_may_start() -> None:
    made = account(CHAT.target)
    outcomes: list[RelayError | None] = []
    made.identify(asking(key=None), outcomes.append)
    made.request_permit(asking(), outcomes.append, lambda: None, providers=[target()])
    assert outcomes == [None, None]
    assert made.lease is None
    fields = [(b"x-ratelimit-limit-requests", b"1")]
    assert made.answer_fields(fields) == fields


def test_users_sessions_and_models_have_limits_of_their_own() -> None:
    each = TenantLimits(tokens_per_day=10, tokens_per_session=5)
    acme: dict[str, Any] = {"user": each, "model_limits": (ModelLimits(("m*",), TenantLimits(tokens_per_day=20)),)}
    headers = ((b"x-flow-user", b"ann"), (b"x-flow-session", b"s1"))
    made = Permitted(CHAT, *headers, **acme)
    keys = [limit.key for limit in made.limiter.limits]
    assert [key.partition("}")[2] for key in keys] == [
        ":user:ann:session:s1:tokens_per_session",
        ":user:ann:tokens_per_day",
        ":model:m*:tokens_per_day",
    ]
    assert made.account.quota is not None
    assert (made.account.quota.user, made.account.quota.session) == ("ann", "s1")


def test_each_stream_has_an_id_of_its_own_that_names_its_tenant() -> None:
    limiter = FakeLimiter()
    for _ in range(2):
        Permitted(limiter=limiter)
    assert len(limiter.ids) == 2
    assert all(each.startswith("{acme}:") for each in limiter.ids)


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (Cause.RATE, "rate_limit_exceeded"),
        (Cause.CONCURRENCY, "concurrency_limit_exceeded"),
        (Cause.QUOTA, "insufficient_quota"),
        (Cause.UNAVAILABLE, "limits_unavailable"),
    ],
)
def test_who_is_refused_is_told_why(cause: Cause, code: str) -> None:
    limiter = FakeLimiter()
    limiter.refuses = cause
    made = Permitted(limiter=limiter)
    assert made.code == code
    made.account.settle()
    assert limiter.settled == []


def test_what_is_left_of_a_quota_bounds_the_request() -> None:
    made = Permitted(limiter=FakeLimiter(left=500))
    assert made.ask()["max_tokens"] == made.account.budget == 500 - made.account.input


@pytest.mark.parametrize("own", [None, 40])
def test_more_than_any_model_may_have_bounds_only_who_asks_for_more(own: int | None) -> None:
    """A provider takes a bound that its model can't have for an error."""
    made = Permitted(body={"max_tokens": own}, limiter=FakeLimiter(left=50_000))
    assert made.ask().get("max_tokens") == own


def test_who_asks_for_more_than_is_left_gets_what_is_left() -> None:
    made = Permitted(body={"max_tokens": 90_000}, limiter=FakeLimiter(left=50_000))
    assert made.ask()["max_tokens"] == 50_000 - made.account.input


def test_a_bound_of_its_own_that_is_smaller_stays() -> None:
    assert Permitted(limiter=FakeLimiter(left=500), budget=40).account.budget == 40
    streams_bound = TenantLimits(tokens_per_stream=30, tokens_per_day=10_000)
    assert Permitted(limiter=FakeLimiter(left=500), budget=40, limits=streams_bound).account.budget == 30


def test_a_limit_that_is_no_quota_bounds_no_request() -> None:
    limits = TenantLimits(requests_per_minute=5, tokens_per_minute=500, concurrent=2)
    made = Permitted(limiter=FakeLimiter(left=500), limits=limits)
    assert made.code is None
    assert made.account.budget is None


def test_admission_needs_what_the_request_is_estimated_at() -> None:
    messages = [{"role": "user", "content": "word " * 800}]
    made = Permitted(body={"messages": messages})
    assert made.limiter.log == [("admit", made.account.input)]
    assert 800 <= made.account.input <= 1200


def test_what_is_charged_is_what_the_provider_reports() -> None:
    made = Permitted(MESSAGES)
    feed(made.open(), MESSAGES.events(TEXTS, 77))
    made.account.settle()
    made.account.settle()
    assert made.limiter.settled == [INPUT + 77]


def test_without_a_report_what_was_estimated_is_charged() -> None:
    made = Permitted(CHAT, body={"messages": [{"role": "user", "content": "word " * 80}]})
    feed(made.open(), [*CHAT.opening, *map(CHAT.content, TEXTS)])
    estimated = made.account.output
    assert estimated > 0
    made.account.settle()
    assert made.limiter.settled == [made.account.input + estimated]
    assert 80 <= made.account.input <= 120


def test_a_request_without_an_answer_is_not_charged() -> None:
    made = Permitted()
    made.account.settle()
    assert made.limiter.settled == [0]


def test_an_answer_that_cannot_be_read_is_charged_by_its_bytes() -> None:
    made = Permitted(CHAT, body={"messages": [{"role": "user", "content": "word " * 80}]})
    made.ask()
    fields = [(b"content-type", b"application/json"), (b"content-encoding", b"gzip")]
    event_filter = open_answer(made.account, ResponseHead(200, fields))
    assert event_filter is not None
    event_filter.feed(bytes(400))
    made.account.settle()
    assert made.limiter.settled == [made.account.input + 100]
    assert 80 <= made.account.input <= 120


def test_an_error_of_the_provider_is_not_charged() -> None:
    made = Permitted(CHAT, body={"messages": [{"role": "user", "content": "word " * 80}]})
    made.ask()
    assert open_answer(made.account, ResponseHead(500, [(b"content-type", b"application/json")])) is None
    made.account.settle()
    assert made.limiter.settled == [0]


def test_a_whole_answer_is_charged_too() -> None:
    made = Permitted(CHAT)
    made.ask()
    event_filter = open_answer(made.account, ResponseHead(200, [(b"content-type", b"application/json")]), b"{")
    assert event_filter is not None
    body = {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 31}}
    event_filter.feed(orjson.dumps(body))
    event_filter.finish()
    made.account.settle()
    assert made.limiter.settled == [42]


def test_a_providers_own_limits_are_not_the_tenants() -> None:
    provider = [(b"x-ratelimit-remaining-tokens", b"1"), (b"anthropic-ratelimit-requests-limit", b"2"), (b"x", b"y")]
    made = Permitted(CHAT).account.answer_fields(provider)
    assert made[0] == (b"x", b"y")
    assert (b"x-ratelimit-limit-tokens", b"10000") in made
    assert (b"x-ratelimit-remaining-tokens", b"1") not in made
    assert not [name for name, _ in made if name.startswith(b"anthropic")]
    other = Permitted(MESSAGES).account.answer_fields(provider)
    assert (b"anthropic-ratelimit-tokens-limit", b"10000") in other
    assert not [name for name, _ in other if name.startswith(b"x-ratelimit")]


def test_a_providers_cookies_go_to_who_shows_it_a_key_of_its_own() -> None:
    head = ResponseHead(200, [(b"set-cookie", b"a=b")])
    tenants, own, shared = Permitted(CHAT), requested(CHAT), requested(CHAT, api_key=b"sk")
    tenants.ask()
    passed = [made.passed_head(head, b"id-1", None).headers for made in (tenants.account, own, shared)]
    assert [find(headers, b"set-cookie") for headers in passed] == [None, b"a=b", None]


@pytest.mark.parametrize("stream", [CHAT, MESSAGES], ids=lambda stream: stream.name)
@pytest.mark.parametrize(
    ("left", "budget", "reason"),
    [(60, None, EndReason.QUOTA), (60, 20, EndReason.BUDGET), (100_000, 20, EndReason.BUDGET)],
)
def test_a_cut_is_by_the_quota_or_by_a_budget(stream: Stream, left: int, budget: int | None, reason: EndReason) -> None:
    """One provider reports its request's tokens at the beginning, the other at the end."""
    made = Permitted(stream, limiter=FakeLimiter(left=left), budget=budget)
    event_filter = made.open()
    for event in [*stream.opening, *map(stream.content, TEXTS * 3)]:
        event_filter.feed(event)
        if event_filter.spent:
            break
    assert event_filter.spent
    made.account.ending()
    assert made.account.cut_reason is reason
    assert made.account.input + made.account.output <= left


def test_a_cut_where_others_took_what_was_left_is_by_the_quota() -> None:
    limiter = FakeLimiter(left=1000)
    made = Permitted(MESSAGES, limiter=limiter)
    limiter.left = 0
    event_filter = made.open()
    for event in [*MESSAGES.opening, *map(MESSAGES.content, TEXTS * 10)]:
        event_filter.feed(event)
        if event_filter.spent:
            break
    made.account.ending()
    assert event_filter.spent
    assert made.account.cut_reason is EndReason.QUOTA
    assert made.account.lease is not None
    assert made.account.input + made.account.output <= made.account.lease.granted
    made.account.settle()
    assert limiter.settled == [made.account.input + made.account.output]


@NONSENSE
def test_who_has_limits_is_told_that_a_request_makes_no_sense(body: bytes) -> None:
    made = account(CHAT.target, quota=quota(tenant(**ACME)))
    made.identify(asking(), lambda _: None)
    error = read_request(made, body)
    assert error is not None
    assert (error.status, error.code) == (400, "unreadable_body")
