"""Figures of ended exchanges: by tenant, by limit, by provider."""

from __future__ import annotations

from flowserver.errors import EndReason
from flowserver.quota.tenants import (
    ModelLimits,
    Tenant,
    TenantLimits,
    limits_for,
    scope_and_name,
    shared_limits,
    user_limits,
)
from flowserver.relay.record import AccountRecord, ExchangeRecord
from flowserver.telemetry.exposition import written
from flowserver.telemetry.labels import MAX_TENANTS, OTHER, TenantLabels
from flowserver.telemetry.requests import RequestMetrics

from ..support.lab import samples

NOW = 1_700_000_000.0
EVERY = TenantLimits(
    requests_per_minute=1,
    tokens_per_minute=1,
    concurrent=1,
    tokens_per_session=1,
    tokens_per_day=1,
    tokens_per_month=1,
)
NAMES = [
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent",
    "tokens_per_session",
    "tokens_per_day",
    "tokens_per_month",
]


def record(
    *,
    tenant: str | None = None,
    status: int = 200,
    upstream: str | None = "a",
    attempts: int = 1,
    refused_by: str | None = None,
    times: tuple[float, float | None, float] = (0.0, 1.0, 3.0),
    output: int = 5,
) -> ExchangeRecord:
    """`times`: when the provider had the request, when the first token came, when it ended."""
    account = AccountRecord()
    account.tenant, account.refused_by, account.output = tenant, refused_by, output
    made = ExchangeRecord()
    made.account, made.status, made.upstream, made.attempts = account, status, upstream, attempts
    made.waiting_since, made.first_token_at, made.ended_at = times
    return made


def figures(metrics: RequestMetrics, *upstreams: str) -> dict[str, float]:
    lines = [line for family in metrics.collect(upstreams) for line in written(family)]
    return samples(b"".join(lines).decode())


def count(metrics: RequestMetrics, ended: ExchangeRecord, end: EndReason) -> None:
    metrics.exchange_ended(ended, end, ended.account.tenant or "")


def made() -> RequestMetrics:
    return RequestMetrics()


def test_exchanges_are_counted_by_tenant_class_of_status_and_end() -> None:
    metrics = made()
    for status in (200, 201):
        count(metrics, record(tenant="acme", status=status), EndReason.COMPLETE)
    count(metrics, record(tenant="acme", status=503), EndReason.UPSTREAM_FAILED)
    count(metrics, record(status=0), EndReason.CLIENT_GONE)
    found = figures(metrics)
    assert found['flow_requests_total{end="complete",status="2xx",tenant="acme"}'] == 2
    assert found['flow_requests_total{end="upstream_failed",status="5xx",tenant="acme"}'] == 1
    assert found['flow_requests_total{end="client_gone",status="none",tenant=""}'] == 1


def test_more_tenants_than_there_are_labels_share_one() -> None:
    labels = TenantLabels()
    given = [labels.label(f"t{number}") for number in range(MAX_TENANTS + 500)]
    assert given == [f"t{number}" for number in range(MAX_TENANTS)] + [OTHER] * 500
    assert (labels.label("t0"), labels.label("another")) == ("t0", OTHER)


def test_refusals_are_counted_by_the_limit_that_refused_whatever_user_it_was() -> None:
    metrics = made()
    tenant = Tenant("acme", user=TenantLimits(tokens_per_day=1))
    for user in ("ann", "bob", "a:b", "\N{SNOWMAN}"):
        [limit] = user_limits(tenant, user, NOW)
        refused = record(tenant="acme", status=429, upstream=None, attempts=0, refused_by=limit.key)
        count(metrics, refused, EndReason.LIMITED)
    found = {name: value for name, value in figures(metrics).items() if name.startswith("flow_limit_refusals")}
    assert found == {'flow_limit_refusals_total{limit="tokens_per_day",scope="user",tenant="acme"}': 4}


def test_every_limit_tells_its_scope_and_its_setting() -> None:
    tenant = Tenant("a:b{c}", limits=EVERY, user=EVERY, model_limits=(ModelLimits(("m-*",), EVERY),))
    found = limits_for(tenant, user="u:1", session="s:1", model="m-1", now=NOW)
    told = [scope_and_name(limit.key) for limit in found]
    assert told == [(scope, name) for scope in ("tenant", "user", "model") for name in NAMES]
    assert len(shared_limits(tenant, NOW)) == 10


def test_times_are_told_by_provider_from_when_it_had_the_request() -> None:
    metrics = made()
    count(metrics, record(times=(10.0, 10.04, 12.04), output=5), EndReason.COMPLETE)
    found = figures(metrics)
    assert round(found['flow_upstream_first_token_seconds_sum{upstream="a"}'], 6) == 0.04
    assert found['flow_upstream_first_token_seconds_bucket{le="0.05",upstream="a"}'] == 1
    assert found['flow_upstream_first_token_seconds_bucket{le="0.025",upstream="a"}'] == 0
    assert round(found['flow_upstream_token_interval_seconds_sum{upstream="a"}'], 6) == 0.5
    assert round(found['flow_upstream_duration_seconds_sum{upstream="a"}'], 6) == 2.04


def test_an_answer_that_overtakes_its_upload_takes_no_time() -> None:
    metrics = made()
    count(metrics, record(times=(10.0, 9.0, 9.5)), EndReason.COMPLETE)
    found = figures(metrics)
    assert found['flow_upstream_first_token_seconds_sum{upstream="a"}'] == 0
    assert found['flow_upstream_duration_seconds_sum{upstream="a"}'] == 0


def test_a_request_that_went_to_nobody_has_no_times_and_one_token_has_no_interval() -> None:
    metrics = made()
    count(metrics, record(upstream="-", attempts=0), EndReason.LIMITED)
    count(metrics, record(output=1), EndReason.COMPLETE)
    count(metrics, record(times=(0.0, None, 1.0)), EndReason.COMPLETE)
    found = figures(metrics)
    assert found['flow_upstream_duration_seconds_count{upstream="a"}'] == 2
    assert found['flow_upstream_first_token_seconds_count{upstream="a"}'] == 1
    assert found['flow_upstream_token_interval_seconds_count{upstream="a"}'] == 0
    assert not [name for name in found if 'upstream="-"' in name]


def test_a_provider_is_there_before_it_is_asked() -> None:
    found = figures(made(), "idle")
    for name in ("first_token", "token_interval", "duration"):
        assert found[f'flow_upstream_{name}_seconds_count{{upstream="idle"}}'] == 0
