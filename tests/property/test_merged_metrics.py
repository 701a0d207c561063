"""However exchanges are spread over workers, their parent's page has the sums that one process would have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flowserver.dialects.base import Usage
from flowserver.errors import TOO_MANY_CONNECTIONS, EndReason, bad_request
from flowserver.http.messages import RequestHead
from flowserver.quota.traffic_class import TrafficClass
from flowserver.relay.limited_time import Holder
from flowserver.relay.record import AccountRecord, ExchangeRecord, TokenRecord
from flowserver.telemetry.log import Log
from flowserver.telemetry.merged_pages import MergedPages
from flowserver.telemetry.metrics import Metrics
from flowserver.telemetry.sink import NoSink
from flowserver.telemetry.slices import Slices
from flowserver.telemetry.sources import WorkerReports

from ..support.clock import FakeClock
from ..support.exposed import broken_rules
from ..support.lab import samples
from ..support.live import live_report
from ..support.workers import FakeWorkers, worker

COUNTS = st.integers(0, 5000)
TIMES = st.integers(0, 1 << 16).map(lambda number: number / 512)
"""Whole nanoseconds, and sums of them are exact in any order, so that pages can be compared."""
COSTS = st.integers(0, 1 << 16).map(lambda number: number * 1_953_125)
"""Nano-dollars: 512ths of a dollar, for the same reason."""
MODELS = ["a", 'b"', "c\\", "d\n"]
NAMES = st.sampled_from(MODELS)


class Ended:
    """A `relay.record.RecordedExchange` that stands still."""

    def __init__(self, record: ExchangeRecord) -> None:
        self._record = record

    def __repr__(self) -> str:
        record, account = self._record, self._record.account
        counted = record.tokens is not None
        return f"<Ended {record.status} model={account.model!r} cost={account.cost} counted={counted}>"

    def record(self) -> ExchangeRecord:
        return self._record

    def unacknowledged_tokens(self) -> int:
        return 0


def filled(record: Any, **fields: Any) -> Any:
    for name, value in fields.items():
        setattr(record, name, value)
    return record


@st.composite
def token_records(draw: st.DrawFn) -> TokenRecord:
    usage = Usage(cached=draw(COUNTS), reasoning=draw(COUNTS))
    made = filled(
        TokenRecord(),
        provider=draw(NAMES),
        input=draw(COUNTS),
        usage=usage,
        is_estimate=False,
        is_disbelieved=draw(st.booleans()),
        is_unpriced=draw(st.booleans()),
        is_repeated=draw(st.booleans()),
        estimated_output=None,
        uncounted=draw(st.dictionaries(st.sampled_from(["json", "size"]), COUNTS)),
        finish=None,
        failure=None,
    )
    assert isinstance(made, TokenRecord)
    return made


@st.composite
def exchanges(draw: st.DrawFn) -> Ended:
    account = filled(
        AccountRecord(),
        dialect="openai-chat",
        model=draw(NAMES),
        # So that the time for each token is exact too.
        output=draw(st.sampled_from([0, 1, 2, 3, 5, 9])),
        cost=draw(st.one_of(st.none(), COSTS)),
        budget=None,
        traffic_class=draw(st.sampled_from(TrafficClass)),
        tenant=draw(st.one_of(st.none(), NAMES)),
        user=None,
        session=None,
        lease_left=None,
        refused_by=None,
        is_stream=False,
        trace=None,
    )
    started = draw(TIMES)
    record = filled(
        ExchangeRecord(),
        request=RequestHead(b"POST", b"/", []),
        request_id=b"i",
        upstream_request_id=None,
        protocol="h1",
        upstream="a",
        attempts=1,
        queued=draw(TIMES),
        waiting_since=started,
        reused=False,
        state=draw(st.sampled_from(["paused", "waiting_for_tokens", "streaming"])),
        status=draw(st.sampled_from([200, 404, 502])),
        end=draw(st.sampled_from(EndReason)),
        error=None,
        started_at=started,
        first_byte_at=started + draw(TIMES),
        first_token_at=draw(st.one_of(st.none(), st.just(started + 1))),
        ended_at=started + 1 + draw(TIMES),
        bytes_up=draw(COUNTS),
        bytes_down=draw(COUNTS),
        chunks_down=draw(COUNTS),
        fast_chunks=draw(COUNTS),
        held=draw(COUNTS),
        held_seconds=0.0,
        writes=draw(COUNTS),
        writes_full=draw(COUNTS),
        heartbeats=draw(COUNTS),
        tunnel_seconds=draw(st.one_of(st.none(), TIMES)),
        pauses=0,
        paused_seconds=0.0,
        limited=draw(st.dictionaries(st.sampled_from(Holder), TIMES)),
        slow=None,
        account=account,
        tokens=draw(st.one_of(st.none(), token_records())),
    )
    return Ended(record)


@dataclass
class Happening:
    """Something that one worker sees."""

    who: int
    what: str
    exchange: Ended
    seconds: float

    def to(self, metrics: Metrics) -> None:
        if self.what == "exchange":
            metrics.exchange_started(self.exchange)
            metrics.exchange_ended(self.exchange)
        elif self.what == "open":
            metrics.exchange_started(self.exchange)
        elif self.what == "refused":
            metrics.request_refused(bad_request("no") if self.seconds < 1 else TOO_MANY_CONNECTIONS, "h1")
        else:
            metrics.waited(self.seconds)
            metrics.observe_lag(self.seconds)
            metrics.h2.streams += 1
            metrics.h2.goaways[str(self.seconds < 1)] += 1
            metrics.connections += 1


HAPPENINGS = st.lists(
    st.builds(
        Happening, st.integers(0, 3), st.sampled_from(["exchange", "open", "refused", "rest"]), exchanges(), TIMES
    ),
    max_size=25,
)


def merged(workers: list[Metrics], own: Metrics) -> bytes:
    """The parent's page."""
    clock, due = FakeClock(), list[Any]()
    fakes = FakeWorkers(*[worker(str(number), number) for number in range(len(workers))])
    for number, metrics in enumerate(workers):
        reports = WorkerReports(metrics, Slices(due.append, clock), live_report(metrics, clock), clock)

        def answer(what: bytes, reports: WorkerReports = reports) -> bytes:
            found: list[bytes] = []
            reports.tell(what, lambda parts: found.extend(parts or ()))
            return b"".join(found)

        fakes.answers[number] = answer
    pages: list[bytes] = []
    parent = MergedPages(fakes, own, Slices(due.append, clock), lambda seconds, call: None, common=dict)
    parent.metrics(lambda parts: pages.append(b"".join(parts or ())))
    assert not due
    [page] = pages
    assert broken_rules(page.decode()) == []
    return page


def comparable(page: bytes) -> dict[str, float]:
    """Without what each worker tells of itself."""
    apart = ("process_", "python_", "flow_worker", "flow_event_loop_lag_last")
    return {name: value for name, value in samples(page.decode()).items() if not name.startswith(apart)}


@given(HAPPENINGS)
def test_the_page_of_several_has_the_sums_of_one(happenings: list[Happening]) -> None:
    log = Log("error", sink=NoSink())
    one, *several = [Metrics(log) for _ in range(5)]
    for each in (one, *several):
        each.tokens.name_models(MODELS)  # each process gives the others labels by what it has seen itself
    for happening in happenings:
        happening.to(one)
        happening.to(several[happening.who])
    alone = one.text()
    assert broken_rules(alone.decode()) == []
    assert comparable(merged(several, Metrics(log))) == comparable(alone)
    log.close()


def test_it_can_fail() -> None:
    log = Log("error", sink=NoSink())
    one, other = Metrics(log), Metrics(log)
    one.waited(1.0)
    assert comparable(merged([one, one], other)) != comparable(one.text())
    log.close()
