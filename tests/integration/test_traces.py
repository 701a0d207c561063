"""Spans as a collector gets them, and what clients and providers see of traces."""

from __future__ import annotations

from tests.support.collector import Collector, events, values
from tests.support.lab import Lab, chat


async def test_a_stream_has_a_span(lab: Lab) -> None:
    collector = Collector()
    endpoint = await lab.provider(collector)
    _, relay, client = await lab.simulated(otlp_endpoint=endpoint.url)
    await client.send(chat(events=20))
    await client.response()
    span = await collector.one()
    print(span)
    print(values(span.attributes), events(span))
    print(await relay.metrics())
    assert 0
