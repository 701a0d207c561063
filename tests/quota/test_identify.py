"""Whose request it is, why it is refused, and what a client is told of its limits."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flowserver.dialects.anthropic import ANTHROPIC
from flowserver.dialects.limit_fields import X_RATELIMIT
from flowserver.errors import EndReason, Party, RelayError
from flowserver.http.messages import Headers, RequestHead
from flowserver.quota.identify import QuotaContext, session_of, user_of
from flowserver.quota.limit_fields import limit_fields
from flowserver.quota.limits import Cause, Decision, Limit, LimitState, Quota, RequestBucket, Slots, TokenBucket
from flowserver.quota.refusals import NO_KEY, NO_STORE, UNKNOWN_KEY, model_refused, path_refused, refusal
from flowserver.quota.tenants import Tenant

from ..support.quota import KEY, NOW, asking, quota, tenant

REQUESTS = RequestBucket("{acme}:requests_per_minute", 60, 60)
TOKENS = TokenBucket("{acme}:tokens_per_minute", 5000, 5000)
SLOTS = Slots("{acme}:user:ann:concurrent", 3)
QUOTA = Quota("{acme}:tokens_per_day", 10_000, ends_at=NOW + 3600)


def refused(cause: Cause, by: Limit | None, wait: float | None) -> Decision:
    return Decision(False, 0, (), cause, by, wait)


# Refusals


@pytest.mark.parametrize(
    ("decision", "status", "code", "after", "name"),
    [
        (refused(Cause.RATE, REQUESTS, 1.2), 429, "rate_limit_exceeded", 2, "requests_per_minute"),
        (refused(Cause.RATE, TOKENS, 0.0), 429, "rate_limit_exceeded", 1, "tokens_per_minute"),
        (refused(Cause.RATE, TOKENS, None), 429, "rate_limit_exceeded", None, "tokens_per_minute"),
        (refused(Cause.CONCURRENCY, SLOTS, None), 429, "concurrency_limit_exceeded", 1, "user ann concurrent"),
        (refused(Cause.QUOTA, QUOTA, 3600.0), 429, "insufficient_quota", 3600, "tokens_per_day"),
        (refused(Cause.QUOTA, QUOTA, None), 429, "insufficient_quota", None, "tokens_per_day"),
        (refused(Cause.UNAVAILABLE, None, None), 503, "limits_unavailable", 1, ""),
    ],
)
def test_a_refusal_says_why_and_when_to_come_again(
    decision: Decision, status: int, code: str, after: int | None, name: str
) -> None:
    error = refusal(decision)
    assert (error.status, error.code, error.retry_after) == (status, code, after)
    assert error.end is EndReason.LIMITED
    assert name in error.message
    assert "acme" not in error.message
    assert error.party is (Party.RELAY if status == 503 else Party.CLIENT)


def test_what_a_key_may_not_use_is_named() -> None:
    model, path = model_refused("gpt-9"), path_refused(tenant(paths=("/v1/chat/*",)), "/v1/files")
    assert (model.status, model.code, path.status, path.code) == (404, "model_not_found", 403, "permission_denied")
    assert "gpt-9" in model.message
    assert "/v1/files" in path.message
    assert model_refused(None).status == 404
    assert "`paths`" in path_refused(tenant(), "/v1/files").message
    assert "`paths`" not in path.message


# What is left


def told(*states: LimitState, anthropic: bool = False, wait: float | None = None) -> dict[bytes, bytes]:
    decision = Decision(wait is None, 0, states, None, None, wait)
    fields: Headers = limit_fields(decision, ANTHROPIC.limit_fields if anthropic else X_RATELIMIT, now=NOW)
    assert len(dict(fields)) == len(fields)
    return dict(fields)


def test_what_is_left_is_told_as_openai_does() -> None:
    assert told(LimitState(REQUESTS, 59, 0.5), LimitState(TOKENS, 4000, 12.0)) == {
        b"x-ratelimit-limit-requests": b"60",
        b"x-ratelimit-remaining-requests": b"59",
        b"x-ratelimit-reset-requests": b"500ms",
        b"x-ratelimit-limit-tokens": b"5000",
        b"x-ratelimit-remaining-tokens": b"4000",
        b"x-ratelimit-reset-tokens": b"12s",
    }


def test_what_is_left_is_told_as_anthropic_does() -> None:
    assert told(LimitState(REQUESTS, 59, 0.5), LimitState(TOKENS, 4000, 12.0), anthropic=True) == {
        b"anthropic-ratelimit-requests-limit": b"60",
        b"anthropic-ratelimit-requests-remaining": b"59",
        b"anthropic-ratelimit-requests-reset": b"2023-11-14T22:13:21Z",
        b"anthropic-ratelimit-tokens-limit": b"5000",
        b"anthropic-ratelimit-tokens-remaining": b"4000",
        b"anthropic-ratelimit-tokens-reset": b"2023-11-14T22:13:32Z",
    }


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.0, b"0ms"),
        (None, b"0ms"),
        (0.0121, b"13ms"),
        (1.0, b"1s"),
        (1.5, b"1.5s"),
        (10.0, b"10s"),
        (59.25, b"59.25s"),
        (60.0, b"1m0s"),
        (359.1, b"6m0s"),
        (3599.0, b"59m59s"),
        (7200.0, b"2h0m0s"),
        (90061.0, b"25h1m1s"),
    ],
)
def test_times_are_written_as_openai_does(seconds: float | None, written: bytes) -> None:
    assert told(LimitState(REQUESTS, 1, seconds))[b"x-ratelimit-reset-requests"] == written


@pytest.mark.parametrize("anthropic", [False, True])
def test_of_several_limits_the_tightest_is_told(anthropic: bool) -> None:
    states = [LimitState(TOKENS, 300, 5.0), LimitState(QUOTA, 200, 3600.0), LimitState(TOKENS, 400, 5.0)]
    fields = told(*states, anthropic=anthropic)
    assert b"200" in fields.values()
    assert len(fields) == 3


def test_streams_at_once_have_no_field() -> None:
    assert told(LimitState(SLOTS, 2, None)) == {}


def test_without_a_decision_or_limits_nothing_is_told() -> None:
    assert limit_fields(None, X_RATELIMIT, now=NOW) == []
    assert told() == {}


def test_who_is_refused_is_told_the_wait_in_milliseconds() -> None:
    assert told(LimitState(REQUESTS, 0, 60.0), wait=0.7501)[b"retry-after-ms"] == b"751"
    assert b"retry-after-ms" not in told(LimitState(REQUESTS, 0, 60.0))


# Who it is


class LaterDirectory:
    """A `Directory` that answers when a test says so."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.tell: Callable[[Tenant | None, bool], None] | None = None

    def find(self, key: bytes, done: Callable[[Tenant | None, bool], None]) -> None:
        self.asked.append(key)
        self.tell = done


def identified(made: QuotaContext, request: RequestHead) -> list[Tenant | RelayError]:
    found: list[Tenant | RelayError] = []
    made.identify(request, found.append)
    return found


def test_a_tenant_is_known_by_its_key() -> None:
    acme = tenant()
    made = quota(acme, tenant("other", key=b"other"))
    assert identified(made, asking()) == [acme]
    assert identified(made, RequestHead(b"POST", b"/", [(b"x-api-key", KEY)])) == [acme]


def test_without_a_key_or_with_one_that_nobody_has_it_is_nobody() -> None:
    made = quota(tenant())
    assert identified(made, asking(key=None)) == [NO_KEY]
    assert identified(made, asking(key=b"wrong")) == [UNKNOWN_KEY]
    assert (NO_KEY.status, UNKNOWN_KEY.status) == (401, 401)


def test_a_disabled_tenant_is_told_the_same_as_one_that_is_unknown() -> None:
    assert identified(quota(tenant(disabled=True)), asking()) == [UNKNOWN_KEY]


def test_the_directory_is_asked_for_keys_that_are_not_configured() -> None:
    directory = LaterDirectory()
    made = quota(tenant(), directory=directory)
    assert identified(made, asking()) == [made.tenants.find(KEY, NOW)]
    assert identified(made, asking(key=None)) == [NO_KEY]
    assert directory.asked == []
    found = identified(made, asking(key=b"elsewhere"))
    assert (found, directory.asked) == ([], [b"elsewhere"])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [((tenant("far"), True), tenant("far")), ((None, True), UNKNOWN_KEY), ((None, False), NO_STORE)],
)
def test_the_directory_may_answer_later(answer: tuple[Tenant | None, bool], expected: Tenant | RelayError) -> None:
    """Where it cannot tell, nobody is told that the key is wrong: the client would throw it away."""
    directory = LaterDirectory()
    found = identified(quota(directory=directory), asking())
    assert directory.tell is not None
    directory.tell(*answer)
    assert found == [expected]


# Users and sessions


def test_the_user_is_named_by_a_header_else_by_the_request() -> None:
    named = asking((b"x-flow-user", b"ann"))
    assert user_of(named, "bob") == "ann"
    assert user_of(asking(), "bob") == "bob"
    assert user_of(asking(), None) is None
    assert user_of(asking((b"x-flow-user", b"")), "bob") == "bob"
    assert user_of(asking((b"x-flow-user", b"\xe9")), None) == "\xe9"


def test_the_session_is_named_by_a_header_only() -> None:
    assert session_of(asking((b"x-flow-session", b"s1"))) == "s1"
    assert session_of(asking((b"x-flow-session", b""))) is None
    assert session_of(asking()) is None


# Names


def test_long_names_of_users_and_sessions_are_hashed() -> None:
    head = RequestHead(b"POST", b"/", [(b"x-flow-user", b"u" * 60_000), (b"x-flow-session", b"s" * 65)])
    user, session = user_of(head, None), session_of(head)
    assert user is not None
    assert session is not None
    assert (user[0], len(user), session[0], len(session)) == ("#", 33, "#", 33)
    assert user_of(RequestHead(b"POST", b"/", []), "u" * 60_000) == user
    assert user_of(RequestHead(b"POST", b"/", []), "u" * 64) == "u" * 64


def test_a_long_path_is_not_repeated_in_full() -> None:
    assert len(path_refused(tenant(), "/" + "p" * 8000).message) < 500
