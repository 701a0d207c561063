"""Whose a key is, what its tenant may use, and which limits a request has to pass."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from flowserver.http.messages import RequestHead
from flowserver.names import user_name
from flowserver.quota.limits import Limit, Quota, RequestBucket, Slots, TokenBucket
from flowserver.quota.tenants import (
    DAY,
    LimitProfileCache,
    ModelLimits,
    Tenant,
    TenantKey,
    TenantLimits,
    Tenants,
    allows_model,
    allows_path,
    digest_of,
    end_of_day,
    end_of_month,
    is_pattern,
    key_of,
    limits_for,
    may_be_uncounted,
    models_and_name,
    refusal,
    shared_limits,
    stream_budget,
    user_limits,
    was_issued,
)

NOW = datetime(2026, 2, 28, 13, 30, tzinfo=UTC).timestamp()
MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
ALL = TenantLimits(
    requests_per_minute=60,
    request_burst=10,
    tokens_per_minute=1000,
    token_burst=500,
    concurrent=3,
    tokens_per_stream=100,
    tokens_per_session=200,
    tokens_per_day=300,
    tokens_per_month=400,
)


def keyed(name: str, key: bytes, *, expires_at: float | None = None, disabled: bool = False) -> Tenant:
    return Tenant(name, (TenantKey(digest_of(key), expires_at),), disabled=disabled)


def keys(limits: list[Limit]) -> list[str]:
    return [limit.key.removeprefix("{acme}:") for limit in limits]


def limits(
    tenant: Tenant, user: str | None = None, session: str | None = None, model: str | None = None
) -> list[Limit]:
    return limits_for(tenant, user=user, session=session, model=model, now=NOW)


# Keys


def test_a_key_leads_to_its_tenant() -> None:
    acme, other = keyed("acme", b"one"), keyed("other", b"two")
    tenants = Tenants((acme, other))
    assert tenants.find(b"one", NOW) is acme
    assert tenants.find(b"two", NOW) is other
    assert tenants.find(b"", NOW) is None


@pytest.mark.parametrize(
    ("tenant", "why"),
    [
        (keyed("acme", b"other"), "unknown"),
        (keyed("acme", b"key", expires_at=NOW), "expired"),
        (keyed("acme", b"key", disabled=True), "disabled"),
        (keyed("acme", b"key", expires_at=NOW - 1, disabled=True), "expired"),
    ],
)
def test_why_a_key_is_refused_is_a_word_for_the_log(tenant: Tenant, why: str) -> None:
    tenants = Tenants((tenant,))
    assert tenants.find(b"key", NOW) is None
    assert refusal(tenant, digest_of(b"key"), NOW) == why


def test_a_key_holds_until_it_expires() -> None:
    assert Tenants((keyed("acme", b"key", expires_at=NOW + 0.1),)).find(b"key", NOW) is not None


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([(b"authorization", b"Bearer abc")], b"abc"),
        ([(b"authorization", b"bearer  abc ")], b"abc"),
        ([(b"x-api-key", b"abc")], b"abc"),
        ([(b"api-key", b"abc")], b"abc"),
        ([(b"x-goog-api-key", b"abc")], b"abc"),
        ([(b"x-api-key", b"second"), (b"authorization", b"Bearer first")], b"first"),
        ([(b"authorization", b"Basic xyz"), (b"x-api-key", b"abc")], b"abc"),
        ([(b"authorization", b"Bearer "), (b"api-key", b"abc")], b"abc"),
        ([(b"authorization", b"Bearer")], None),
        ([(b"authorization", b"abc")], None),
        ([(b"x-api-key", b" ")], None),
        ([(b"accept", b"abc")], None),
        ([], None),
    ],
)
def test_the_key_of_a_request(headers: list[tuple[bytes, bytes]], key: bytes | None) -> None:
    assert key_of(RequestHead(b"POST", b"/v1/x", headers)) == key


def test_keys_of_its_own_making_are_told_by_their_looks() -> None:
    assert was_issued(b"flow-" + b"aZ0_-" * 8 + b"abc")
    for other in (b"", b"sk-abc", b"flow-" + b"a" * 42, b"flow-" + b"a" * 44, b"flow-" + b"a" * 42 + b"\n"):
        assert not was_issued(other)


# What may be used


def test_models_and_paths() -> None:
    free, bound = Tenant("free"), Tenant("bound", models=("gpt-*", "o[13]"), paths=("/v1/*",))
    assert allows_model(free, None)
    assert allows(bound, "/v1/chat/completions")
    assert allows_model(bound, "gpt-4o")
    assert allows_model(bound, "o3")
    assert not allows_model(bound, "O3")
    assert not allows_model(bound, None)
    assert not allows(bound, "/v2")


def allows(tenant: Tenant, target: str, *, counted: bool = False, method: bytes = b"POST") -> bool:
    return allows_path(tenant, RequestHead(method, target.encode(), []), counted=counted)


def test_without_paths_a_tenant_may_use_what_is_counted_and_the_list_of_models() -> None:
    free = Tenant("free")
    assert allows(free, "/v1/chat/completions", counted=True)
    assert allows(free, "/v1/models?x", method=b"GET")
    assert allows(free, "/v1/models/m", method=b"HEAD")
    assert not allows(free, "/v1/models", method=b"POST")
    assert not allows(free, "/v1/models/m", method=b"DELETE")
    assert not allows(free, "/v1/files", method=b"GET")


@pytest.mark.parametrize(
    ("pattern", "target", "allowed"),
    [
        ("/v1/chat/completions", "/v1/chat/completions?x", True),
        ("/v1/chat/completions", "/v1/chat/completions/", False),
        ("/v1/chat/completions", "/V1/chat/completions", False),
        ("/v1/chat/completions", "/v1/chat/completions;x", False),
        ("/v1/chat/*", "/v1/chat/completions;x", True),
        ("/v1/*-mini", "/v1/files;-mini", False),
        ("/v1/*/public", "/v1/files;/public", True),
        ("/v1/*;/public", "/v1/files;/public", False),
    ],
)
def test_a_pattern_allows_no_more_than_it_lists(pattern: str, target: str, allowed: bool) -> None:
    """However the provider reads the path. What is counted is no exception."""
    assert allows(Tenant("bound", paths=(pattern,)), target, counted=True) is allowed


@pytest.mark.parametrize(
    ("pattern", "uncounted", "wild"),
    [
        ("/v1/chat/completions", False, False),
        ("/v1/models", False, False),
        ("/v1/models/*", True, True),
        ("*/chat/completions", False, True),
        ("/openai/deployments/*/chat/completions", False, True),
        ("/v1beta/models/gemini-[12]*:generateContent", False, True),
        ("/model/[!]]*/converse*", True, True),
        ("/v1/files", True, False),
        ("/v1/*", True, True),
        ("/v1/chat/completion?", True, True),
        ("/v1/messages*", True, True),
        ("*", True, True),
    ],
)
def test_patterns_of_what_nobody_counts_are_known(pattern: str, uncounted: bool, wild: bool) -> None:
    assert (may_be_uncounted(pattern), is_pattern(pattern)) == (uncounted, wild)


def test_limits_that_are_known_are_those_that_would_be_found() -> None:
    known = LimitProfileCache(size=2)
    limits = TenantLimits(requests_per_minute=5, tokens_per_day=100)
    acme, changed = Tenant("acme", limits=limits), Tenant("acme", limits=TenantLimits(tokens_per_day=7))
    for tenant, user, now in (
        (acme, "a", NOW),
        (acme, "a", NOW + 1),
        (acme, "b", NOW),
        (acme, "a", NOW + DAY),
        (changed, "a", NOW),
        (acme, None, NOW),
        (acme, "a", NOW),
    ):
        expected = limits_for(tenant, user=user, session=None, model=None, now=now)
        assert known.find(tenant, user=user, session=None, model=None, now=now).limits == expected
    assert known.find(acme, user="a", session=None, model=None, now=NOW) is known.find(
        acme, user="a", session=None, model=None, now=NOW
    )


def test_tenants_of_known_limits_are_told_as_they_were_last() -> None:
    known = LimitProfileCache()
    old, new, other = Tenant("acme"), Tenant("acme", limits=TenantLimits(tokens_per_day=7)), Tenant("other")
    for tenant, user in ((old, "a"), (other, "a"), (old, "b"), (new, "a")):
        known.find(tenant, user=user, session=None, model=None, now=NOW)
    assert known.tenants == {"acme": new, "other": other}
    rest = known.without({"acme"})
    assert rest.tenants == {"other": other}
    rest.find(new, user="a", session=None, model=None, now=NOW)
    assert known.without({"acme", "other"}).tenants == {}
    assert known.tenants == {"acme": new, "other": other}


def test_the_models_and_the_name_of_a_limit_are_in_its_key() -> None:
    kind = ModelLimits(("gpt-*", "o3"), TenantLimits(tokens_per_day=10))
    acme = Tenant("acme", limits=TenantLimits(usd_per_month=1, concurrent=2), model_limits=(kind,))
    assert [models_and_name(limit.key) for limit in shared_limits(acme, NOW)] == [
        (None, "concurrent"),
        (None, "usd_per_month"),
        ("gpt-*,o3", "tokens_per_day"),
    ]


def test_the_budget_of_an_answer_is_the_least_that_applies() -> None:
    per_model = ModelLimits(("gpt-*",), TenantLimits(tokens_per_stream=10))
    tenant = Tenant("acme", limits=ALL, user=TenantLimits(tokens_per_stream=50), model_limits=(per_model,))
    assert stream_budget(Tenant("acme"), "gpt-4o") is None
    assert stream_budget(tenant, "gpt-4o") == stream_budget(tenant, "GPT-4o") == 10
    assert stream_budget(tenant, "o3") == 50
    assert stream_budget(tenant, None) == 50


# Limits of a request


def test_every_limit_becomes_one_of_the_stores() -> None:
    assert limits(Tenant("acme", limits=ALL), session="s") == [
        RequestBucket("{acme}:requests_per_minute", 10, 60),
        TokenBucket("{acme}:tokens_per_minute", 500, 1000),
        Slots("{acme}:concurrent", 3),
        Quota("{acme}:session:s:tokens_per_session", 200, ttl=86400),
        Quota("{acme}:tokens_per_day", 300, ends_at=MIDNIGHT),
        Quota("{acme}:tokens_per_month", 400, ends_at=MIDNIGHT),
    ]


def test_without_limits_there_are_none() -> None:
    assert limits(Tenant("acme"), user="u", session="s", model="m") == []


def test_a_minutes_worth_may_come_at_once() -> None:
    [bucket] = limits(Tenant("acme", limits=TenantLimits(requests_per_minute=60)))
    assert bucket == RequestBucket("{acme}:requests_per_minute", 60, 60)


def test_users_models_and_sessions_have_limits_of_their_own() -> None:
    day = TenantLimits(tokens_per_day=1, tokens_per_session=1)
    kinds = (ModelLimits(("gpt-*", "o3"), day), ModelLimits(("gpt-4*",), day), ModelLimits(("llama*",), day))
    tenant = Tenant("acme", limits=day, user=day, model_limits=kinds)
    assert keys(limits(tenant, user="ann@x.example", session="s", model="gpt-4o")) == [
        "session:s:tokens_per_session",
        "tokens_per_day",
        "user:ann@x.example:session:s:tokens_per_session",
        "user:ann@x.example:tokens_per_day",
        "model:gpt-*,o3:session:s:tokens_per_session",
        "model:gpt-*,o3:tokens_per_day",
        "model:gpt-4*:session:s:tokens_per_session",
        "model:gpt-4*:tokens_per_day",
    ]
    assert keys(limits(tenant, model="GPT-4O"))[-1] == "model:gpt-4*:tokens_per_day", "some providers take it"
    assert keys(limits(tenant)) == ["tokens_per_day", "user::tokens_per_day"]
    assert keys(shared_limits(tenant, NOW)) == [
        "tokens_per_day",
        *(f"model:{models}:tokens_per_day" for models in ("gpt-*,o3", "gpt-4*", "llama*")),
    ]
    assert keys(user_limits(tenant, "ann", NOW)) == ["user:ann:tokens_per_day"]


def test_an_operator_names_a_user_in_full() -> None:
    """A request's user is hashed where it is read, if it is long."""
    tenant = Tenant("acme", user=TenantLimits(tokens_per_day=1))
    long = "u" * 1000
    assert keys(user_limits(tenant, long, NOW)) == keys(limits(tenant, user=user_name(long)))


ODD = ["x" * 65, "a:b", "a b", "{a}", "#a", "\N{SNOWMAN}", "\udc80", "a\r\n", "a:tokens_per_day", "x" * 100_000]


def test_odd_names_are_hashed_and_stay_apart() -> None:
    tenant = Tenant("acme", user=TenantLimits(tokens_per_day=1))
    found = [keys(limits(tenant, user=name))[0] for name in ODD]
    assert len(set(found)) == len(ODD)
    for key in found:
        assert key.isascii()
        assert len(key) < 100
        assert key.count(":") == 2
    as_if_hashed = found[0].split(":")[1]
    assert keys(limits(tenant, user=as_if_hashed)) != found[:1]


def test_quotas_end_at_midnight_and_on_the_first() -> None:
    def at(*when: int) -> float:
        return datetime(*when, tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc]

    assert end_of_day(at(2026, 1, 1)) == at(2026, 1, 2)
    assert end_of_day(at(2026, 1, 1) - 0.001) == at(2026, 1, 1)
    assert end_of_month(at(2024, 2, 29, 23)) == at(2024, 3, 1)
    assert end_of_month(at(2026, 3, 1)) == at(2026, 4, 1)
    assert end_of_month(at(2026, 12, 31, 23)) == at(2027, 1, 1)
