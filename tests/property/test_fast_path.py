"""However reads are cut and whenever fast paths open, the client gets the same and the same is counted."""

from __future__ import annotations

from itertools import accumulate, cycle
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from flowserver.relay.record import ExchangeRecord
from flowserver.telemetry.log import Log
from flowserver.telemetry.metrics import Metrics
from flowserver.telemetry.sink import NoSink
from flowserver.upstream import h1

from ..relay.test_fast_path import Scene, chunk, content
from ..support.dialogue import Answer, understood
from ..support.streams import CHAT

ASKED = st.integers(1, 4)
"""Reads by the slow path after which a fast path is asked for."""
TEXTS = st.one_of(st.sampled_from([" word", " é", "\n", '"', "x" * 3000]), st.text(max_size=8))
EVENTS = st.one_of(
    TEXTS.map(content),
    st.sampled_from([content(" word"), b": ping\n\n", b"data: no JSON\n\n", content("a") + content("b")]),
)
STREAMS = st.lists(EVENTS, min_size=10, max_size=40)
READS = st.one_of(st.just(1), st.just(1), st.just(1), st.integers(1, 4), st.floats(1, 600))
"""The length of a read: so many chunks to their ends, or so many bytes where it is no whole number."""
READINGS = st.one_of(st.just([1]), st.lists(READS, min_size=5, max_size=20))


def relayed(
    events: list[bytes], reads: list[float], *, asked: int, budget: int | None, fast_path: bool
) -> tuple[Answer, ExchangeRecord, bytes]:
    """What the client got, the summary of the exchange, and the metrics."""
    with mock.patch.object(h1, "FAST_PATH_READS", asked):
        scene = Scene(max_tokens=budget, fast_path=fast_path)
        chunks = [*map(chunk, [*events, *CHAT.closing]), b"0\r\n\r\n"]
        body, ends, at = b"".join(chunks), list(accumulate(map(len, chunks))), 0
        for read in cycle(reads):
            if at == len(body) or scene.exchange.ended_at is not None:
                break
            ahead = [end for end in ends if end > at]
            end = ahead[:read][-1] if isinstance(read, int) else at + int(read)
            scene.provider.says(body[at:end])
            scene.exchange.record()  # figures may be asked for at any time
            at = min(end, len(body))
    record = scene.exchange.record()
    return understood(bytes(scene.client.transport.sent)), record, exposed(scene)


def exposed(scene: Scene) -> bytes:
    """The metrics that the exchange leaves behind, without those of the process and of the fast path itself."""
    log = Log("error", sink=NoSink())
    metrics = Metrics(log, scene.relay.clock)
    metrics.exchange_ended(scene.exchange)
    lines = metrics.text().splitlines()
    log.close()
    return b"\n".join(line for line in lines if line.startswith((b"flow_", b"gen_ai_")) and b"fast_path" not in line)


@given(STREAMS, READINGS, ASKED, st.one_of(st.none(), st.integers(1, 60)))
def test_a_fast_path_changes_nothing(events: list[bytes], reads: list[float], asked: int, budget: int | None) -> None:
    answer, record, metrics = relayed(events, reads, asked=asked, budget=budget, fast_path=True)
    plainly = relayed(events, reads, asked=asked, budget=budget, fast_path=False)
    assert (answer.body, answer.whole) == (plainly[0].body, plainly[0].whole)
    record.request, record.request_id = plainly[1].request, plainly[1].request_id
    record.fast_chunks = 0
    # How much a read brings is up to the size of its buffer, which is another one on each path.
    record.chunks_down, record.writes = plainly[1].chunks_down, plainly[1].writes
    assert record == plainly[1]
    assert metrics == plainly[2]
