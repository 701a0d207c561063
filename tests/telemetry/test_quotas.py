"""How near tenants are to their quotas, as the metrics tell it."""

from __future__ import annotations

import io
from collections.abc import Callable, Container, Sequence

import pytest

from flowserver.http.messages import RequestHead
from flowserver.quota.limits import Limit, Quota, Usage
from flowserver.quota.money import NANO
from flowserver.quota.tenants import DAY, ModelLimits, Tenant, TenantLimits
from flowserver.relay.exchange import Exchange
from flowserver.relay.record import ExchangeRecord
from flowserver.stores.memory import MemoryStore, at_once
from flowserver.telemetry.exposition import Labels
from flowserver.telemetry.log import Log
from flowserver.telemetry.metrics import Metrics
from flowserver.telemetry.quotas import AT_ONCE, KEPT, MAX_TENANTS, REFRESH, QuotaFigures

from ..support.clock import FakeClock
from ..support.lab import samples
from ..support.recording import RecordingDownstream, account, exchange_context
from ..support.snapshots import finished

MIDNIGHT = 20_000.0 * DAY
NOON = MIDNIGHT - DAY / 2


class Store:
    """A `quotas.QuotaSource` with `used` and `reserved` of every limit. `is_local` False: answers wait in `late`."""

    def __init__(self, *tenants: Tenant) -> None:
        self.known = list(tenants)
        self.used = 60
        self.reserved = 20
        self.reset = 3600.0
        self.is_local = True
        self.is_up = True
        self.asked: list[list[str]] = []
        """The keys of each call."""
        self.late: list[Callable[[], None]] = []

    def tenants(self) -> Sequence[Tenant]:
        return self.known

    def stored_usage(self, limits: Sequence[Limit], done: Callable[[Sequence[Usage]], None]) -> None:
        self.asked.append([limit.key for limit in limits])
        if self.is_local:
            done(self._usage(limits))
        else:
            self.late.append(lambda: done(self._usage(limits)))

    def answer(self) -> None:
        """Give the answers that wait, and those to the questions that they lead to."""
        while self.late:
            self.late.pop(0)()

    def _usage(self, limits: Sequence[Limit]) -> Sequence[Usage]:
        return [Usage(limit, self.used, self.reserved, self.reset) for limit in limits] if self.is_up else ()


class Rig:
    def __init__(self, *tenants: Tenant) -> None:
        self.clock = FakeClock()
        self.store = Store(*tenants)
        self.figures = QuotaFigures(self.store, self.clock, lambda: NOON)

    def look(self, busy: Container[str] = ()) -> list[tuple[Labels, float]]:
        return finished(self.figures.look(busy))

    def parts(self) -> dict[str, float]:
        """The used part by tenant, of tenants with one quota."""
        return {labels["tenant"]: part for labels, part in self.look()}

    def remote(self) -> Rig:
        self.store.is_local = False
        return self


def of_day(tokens: int, name: str = "acme") -> Tenant:
    return Tenant(name, limits=TenantLimits(tokens_per_day=tokens))


def test_quotas_are_told_by_tenant_limit_and_models() -> None:
    of_models = ModelLimits(("gpt-4o*", "o3"), TenantLimits(tokens_per_month=800, tokens_per_minute=80))
    everything = TenantLimits(
        requests_per_minute=1,
        tokens_per_minute=1000,
        concurrent=1,
        tokens_per_stream=10,
        tokens_per_session=10,
        tokens_per_day=100,
        tokens_per_month=160,
        usd_per_session=10,
        usd_per_day=NANO,
        usd_per_month=40,
    )
    rig = Rig(Tenant("acme", limits=everything, user=everything, model_limits=(of_models,)), Tenant("free"))
    assert rig.look() == [
        ({"tenant": "acme", "limit": "tokens_per_day", "models": ""}, 0.8),
        ({"tenant": "acme", "limit": "tokens_per_month", "models": ""}, 0.5),
        ({"tenant": "acme", "limit": "usd_per_day", "models": ""}, 80 / NANO),
        ({"tenant": "acme", "limit": "usd_per_month", "models": ""}, 2.0),
        ({"tenant": "acme", "limit": "tokens_per_month", "models": "gpt-4o*,o3"}, 0.1),
    ]
    [keys] = rig.store.asked
    assert [key.rpartition(":")[2] for key in keys] == [labels["limit"] for labels, _ in rig.look()]


def test_the_store_is_asked_by_a_look_and_not_again_within_a_moment() -> None:
    rig = Rig(of_day(100))
    assert rig.store.asked == []
    assert rig.parts() == {"acme": 0.8}
    rig.store.used = 70
    rig.clock.advance(REFRESH * 0.9)
    assert rig.parts() == {"acme": 0.8}
    rig.clock.advance(REFRESH * 0.2)
    assert rig.parts() == {"acme": 0.9}
    assert len(rig.store.asked) == 2


def test_a_store_elsewhere_has_answered_by_the_next_look() -> None:
    rig = Rig(of_day(100)).remote()
    assert rig.parts() == {}
    rig.store.answer()
    assert rig.parts() == {"acme": 0.8}
    rig.clock.advance(60)
    rig.store.used = 70
    assert rig.parts() == {"acme": 0.8}
    rig.store.answer()
    assert rig.parts() == {"acme": 0.9}


def test_a_store_elsewhere_has_few_queries_at_a_time_and_one_round_after_the_other() -> None:
    rig = Rig(*(of_day(100, f"t{each}") for each in range(10))).remote()
    rig.look()
    assert len(rig.store.late) == AT_ONCE
    rig.store.late.pop()()
    assert (len(rig.store.late), len(rig.store.asked)) == (AT_ONCE, AT_ONCE + 1)
    rig.clock.advance(REFRESH * 2)
    rig.look()
    assert len(rig.store.late) == AT_ONCE
    rig.store.answer()
    assert len(rig.store.asked) == 10
    rig.look()
    rig.store.answer()
    assert len(rig.store.asked) == 20


def test_once_closed_the_store_is_not_asked() -> None:
    rig = Rig(*(of_day(100, f"t{each}") for each in range(10))).remote()
    rig.look()
    rig.figures.close()
    rig.store.answer()
    rig.clock.advance(REFRESH)
    rig.look()
    assert len(rig.store.asked) == AT_ONCE


@pytest.mark.parametrize("is_local", [True, False])
def test_what_a_store_cannot_tell_is_left_out_until_it_can(is_local: bool) -> None:
    rig = Rig(of_day(100))
    rig.store.is_local = is_local

    def after_a_refresh() -> dict[str, float]:
        rig.clock.advance(REFRESH)
        rig.look()
        rig.store.answer()
        return rig.parts()

    assert after_a_refresh() == {"acme": 0.8}
    rig.store.is_up = False
    assert after_a_refresh() == {}
    rig.store.is_up = True
    assert after_a_refresh() == {"acme": 0.8}


def test_an_answer_is_shown_for_some_minutes_only() -> None:
    rig = Rig(of_day(100)).remote()
    rig.look()
    rig.store.answer()
    rig.clock.advance(KEPT - 1)
    assert rig.parts() == {"acme": 0.8}
    rig.clock.advance(1)  # the store has not answered again
    assert rig.parts() == {}
    rig.store.answer()
    assert rig.parts() == {"acme": 0.8}


def test_nothing_of_an_ended_period_is_shown() -> None:
    rig = Rig(of_day(100)).remote()
    rig.store.reset = 5.0
    rig.look()
    rig.store.answer()
    rig.clock.advance(4.9)
    assert rig.parts() == {"acme": 0.8}
    rig.clock.advance(0.1)
    assert rig.parts() == {}
    rig.store.used, rig.store.reserved, rig.store.reset = 0, 10, float(DAY)
    rig.store.answer()
    assert rig.parts() == {"acme": 0.1}


async def test_a_store_of_this_process_tells_the_new_day_at_once() -> None:
    wall = FakeClock(MIDNIGHT - 10)
    store = MemoryStore(wall)

    class Real(Store):
        def stored_usage(self, limits: Sequence[Limit], done: Callable[[Sequence[Usage]], None]) -> None:
            done(at_once(store.usage(limits)))

    figures = QuotaFigures(Real(of_day(100)), wall, wall)
    await store.admit("{acme}:1", [Quota("{acme}:tokens_per_day", 100, ends_at=MIDNIGHT)], need=1, want=20)
    await store.extend("{acme}:1", 15, 0)
    for seconds, expected in ((0, [0.2]), (8, [0.2]), (1, [0.2]), (1.5, [0.0])):
        wall.advance(seconds)
        assert [part for _, part in finished(figures.look(()))] == expected


def test_within_a_moment_after_midnight_the_old_day_is_left_out() -> None:
    rig = Rig(of_day(100))
    rig.store.reset = 1.0
    rig.look()
    rig.clock.advance(1.0)
    assert rig.parts() == {}


def test_what_a_reload_removes_vanishes_and_what_it_changes_counts() -> None:
    rig = Rig(of_day(100), of_day(100, "other"), of_day(100, "third"))
    assert rig.parts() == {"acme": 0.8, "other": 0.8, "third": 0.8}
    rig.store.known = [of_day(160), Tenant("other", limits=TenantLimits(concurrent=1))]
    assert rig.parts() == {"acme": 0.5}
    assert len(rig.store.asked) == 3
    rig.store.known = [of_day(160), of_day(100, "other")]
    assert rig.parts() == {"acme": 0.5}  # what was known before is forgotten
    rig.clock.advance(REFRESH)
    assert rig.parts() == {"acme": 0.5, "other": 0.8}


def test_of_very_many_tenants_those_with_streams_come_first() -> None:
    free = [Tenant(f"free{each}") for each in range(10)]
    rig = Rig(*free, *(of_day(100, f"t{each}") for each in range(MAX_TENANTS * 2)))
    told = [labels["tenant"] for labels, _ in rig.look({"t1999", "free3"})]
    assert told == ["t1999", *(f"t{each}" for each in range(MAX_TENANTS - 1))]
    assert len(rig.store.asked) == MAX_TENANTS


def test_there_is_a_break_after_each_tenant() -> None:
    rig = Rig(*(Tenant(f"free{each}") for each in range(10)), *(of_day(100, f"t{each}") for each in range(10)))
    pieces = rig.figures.look(())
    for number in range(20):
        assert next(pieces) == b""
        assert len(rig.store.asked) == max(0, number - 9)


class Stream:
    """A `relay.record.RecordedExchange` of a tenant."""

    def __init__(self, tenant: str) -> None:
        request = RequestHead(b"GET", b"/", [])
        self._exchange = Exchange(
            request, RecordingDownstream(), exchange_context(), request_id=b"i", account=account()
        )
        self._tenant = tenant

    def record(self) -> ExchangeRecord:
        record = self._exchange.record()
        record.account.tenant = self._tenant
        return record

    def unacknowledged_tokens(self) -> int:
        return 0


def test_those_with_open_streams_are_on_the_page() -> None:
    log = Log("error", io.BytesIO())
    metrics = Metrics(log)
    metrics.quotas = Rig(*(of_day(100, f"t{each}") for each in range(MAX_TENANTS + 1))).figures
    last = f'flow_limit_used_ratio{{limit="tokens_per_day",models="",tenant="t{MAX_TENANTS}"}}'
    assert last not in samples(metrics.text().decode())
    metrics.open.add(Stream(f"t{MAX_TENANTS}"))
    metrics.quotas = Rig(*(of_day(100, f"t{each}") for each in range(MAX_TENANTS + 1))).figures
    assert last in samples(metrics.text().decode())
    log.close()


def test_it_is_on_the_page_and_in_the_snapshot() -> None:
    log = Log("error", io.BytesIO())
    metrics = Metrics(log)
    name = 'flow_limit_used_ratio{limit="tokens_per_day",models="",tenant="acme"}'
    assert name not in samples(metrics.text().decode())
    metrics.quotas = Rig(of_day(100)).figures
    assert samples(metrics.text().decode())[name] == 0.8
    lines = b"".join(metrics.snapshot()).splitlines()
    [head] = [number for number, line in enumerate(lines) if b'"flow_limit_used_ratio"' in line]
    assert b'"max"' in lines[head]
    assert lines[head + 1].endswith(b",[0.8]]")
    log.close()
