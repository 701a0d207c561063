"""Spans as a collector gets them, and what clients and providers see of traces."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from pathlib import Path

import pytest
import trustme

from flowserver.config.errors import ConfigError
from flowserver.routing.first_token_times import ENOUGH
from tests.support.collector import TAKEN, Collector, events, values
from tests.support.h2_lab import h2_client
from tests.support.h2_provider import H2Site
from tests.support.h2_provider import ok as h2_ok
from tests.support.lab import Lab, RunningRelay, chat, eventually, free_port, samples
from tests.support.provider import Caller, answering, ok, silent
from tests.support.topology import tenant, toml
from tests.support.wire import CHUNKED_HEAD, LAST_CHUNK, PATIENCE, Message, Wire, chunk, request, response

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"traceparent: 00-{TRACE_ID}-{SPAN_ID}-01"
UNSAMPLED = f"traceparent: 00-{TRACE_ID}-{SPAN_ID}-00"


async def collecting(lab: Lab, *answers: bytes) -> tuple[Collector, str]:
    """A collector, and the URL of it."""
    collector = Collector(*answers)
    return collector, (await lab.provider(collector)).url


async def simulated(lab: Lab, **settings: object) -> tuple[Collector, RunningRelay, Wire]:
    """A relay before a simulator that exports its spans, and a client of it."""
    collector, url = await collecting(lab)
    simulator = await lab.simulator()
    relay = await lab.relay(simulator.url, otlp_endpoint=url, **settings)
    return collector, relay, await lab.client(relay.port)


# --- one span ---


@pytest.mark.parametrize("fast_path", ["on", "off"])
async def test_a_stream_has_a_span(lab: Lab, fast_path: str) -> None:
    collector, relay, client = await simulated(lab, fast_path=fast_path)
    await client.send(chat(("User-Agent: test/1", "X-Request-Id: mine"), events=20, rate=200))
    await client.response()
    span = await collector.one()
    assert span.name == "chat simulated"
    assert span.kind == span.SPAN_KIND_SERVER
    assert (len(span.trace_id), len(span.span_id), span.parent_span_id, span.flags) == (16, 8, b"", 0x101)
    assert span.status.code == span.status.STATUS_CODE_UNSET
    [line] = await relay.access()
    assert line["trace_id"] == span.trace_id.hex()
    assert (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6 == pytest.approx(line["duration_ms"], abs=0.01)
    found = values(span.attributes)
    first = found.pop("gen_ai.response.time_to_first_chunk")
    assert first * 1000 == pytest.approx(line["first_token_ms"], abs=0.01)
    assert found == {
        "http.request.method": "POST",
        "url.path": "/v1/chat/completions",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "user_agent.original": "test/1",
        "client.address": "127.0.0.1",
        "http.response.status_code": 200,
        "http.request.body.size": line["bytes_up"],
        "http.response.body.size": line["bytes_down"],
        "flow.request_id": "mine",
        "flow.end": "complete",
        "flow.upstream": "127.0.0.1",
        "flow.attempts": 1,
        "flow.slow": "provider",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "simulated",
        "gen_ai.request.stream": True,
        "gen_ai.response.model": "simulated",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": line["input_tokens"],
        "gen_ai.usage.output_tokens": line["output_tokens"],
    }
    [(name, attempt), (first_token, _)] = events(span)
    assert (name, first_token) == ("flow.attempt", "flow.first_token")
    assert 0 < attempt.pop("flow.attempt.seconds") <= first
    assert attempt == {
        "flow.attempt.number": 1,
        "flow.upstream": "127.0.0.1",
        "server.address": "127.0.0.1",
        "server.port": attempt["server.port"],
        "flow.attempt.outcome": "answered",
        "http.response.status_code": 200,
    }
    times = [event.time_unix_nano for event in span.events]
    assert [span.start_time_unix_nano, *times, span.end_time_unix_nano] == sorted(
        [span.start_time_unix_nano, *times, span.end_time_unix_nano]
    )


async def test_the_resource_says_whose_spans_they_are(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "edge")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test%20bed,service.name=other")
    collector, url = await collecting(lab)
    simulator = await lab.simulator()
    inherited = {name: os.environ[name] for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES")}
    process = await lab.process(simulator.url, otlp_endpoint=url, **inherited)
    client = await lab.client(process.port)
    await client.send(chat(events=1))
    await client.response()
    await collector.one()
    [export] = collector.taken
    [resource] = export.resource_spans
    found = values(resource.resource.attributes)
    assert found["service.name"] == "edge"
    assert found["deployment.environment.name"] == "test bed"
    assert found["service.instance.id"].endswith(f"-{process.pid}")
    [scope] = resource.scope_spans
    assert scope.scope.name == "flowserver"


async def test_a_tenant_and_its_session_are_in_it(lab: Lab, tmp_path: Path) -> None:
    collector, url = await collecting(lab)
    simulator = await lab.simulator()
    tables = tenant("flow-key", 'class = "batch"')
    relay = await lab.relay(None, otlp_endpoint=url, config=toml(tmp_path, {"one": simulator.url}, tables))
    client = await lab.client(relay.port)
    headers = ("Authorization: Bearer flow-key", "X-Flow-User: ann", "X-Flow-Session: s1")
    await client.send(chat(headers, events=3))
    await client.response()
    found = values((await collector.one()).attributes)
    assert found["flow.tenant"] == "acme"
    assert found["flow.class"] == "batch"
    assert found["user.id"] == "ann"
    assert found["gen_ai.conversation.id"] == "s1"
    assert "flow-key" not in str(found)


async def test_a_request_to_an_unknown_api_is_named_by_its_method(lab: Lab) -> None:
    collector, url = await collecting(lab)
    provider = await lab.provider(ok)
    relay = await lab.relay(provider.url, otlp_endpoint=url)
    client = await lab.client(relay.port)
    for method in ("GET", "BREW"):
        await client.send(request(method, "/v1/test?key=secret"))
        await client.response()
    spans = await collector.some(2)
    assert [span.name for span in spans] == ["GET", "HTTP"]
    found = [values(span.attributes) for span in spans]
    assert [each["http.request.method"] for each in found] == ["GET", "_OTHER"]
    assert found[0]["url.path"] == "/v1/test"
    assert not any(name.startswith("gen_ai.") for name in found[0])
    assert [name for name, _ in events(spans[0])] == ["flow.attempt", "flow.first_byte"]


async def test_over_http_2_on_both_sides(lab: Lab, tmp_path: Path) -> None:
    collector, url = await collecting(lab)
    site = H2Site(h2_ok)
    provider = await lab.provider(site.script)
    table = {"one": {"url": provider.url, "protocol": "h2"}}
    relay = await lab.relay(None, otlp_endpoint=url, config=toml(tmp_path, table, '[[routes]]\nupstreams = ["one"]'))
    client = await h2_client(lab, relay.port)
    await client.get(traceparent=SAMPLED.partition(": ")[2], tracestate="a=1")
    span = await collector.one()
    assert span.trace_id.hex() == TRACE_ID
    assert span.trace_state == "a=1"
    assert values(span.attributes)["network.protocol.version"] == "2"
    [got] = [dict(fields) for server in site.servers for fields in server.requests.values()]
    assert got["traceparent"] == f"00-{TRACE_ID}-{span.span_id.hex()}-01"
    assert got["tracestate"] == "a=1"


# --- whose trace it is ---


async def _asked(lab: Lab, *headers: str, **settings: object) -> tuple[Message, Collector]:
    """What the provider got of a request with these header lines."""
    collector, url = await collecting(lab)
    provider = await lab.provider(ok)
    relay = await lab.relay(provider.url, otlp_endpoint=url, **settings)
    client = await lab.client(relay.port)
    await client.send(request("GET", "/v1/test", headers))
    await client.response()
    await eventually(lambda: relay.lines("access"))
    [message] = provider.requests
    return message, collector


async def test_a_clients_trace_goes_on(lab: Lab) -> None:
    """Whatever the ratio: who began the trace decided."""
    got, collector = await _asked(lab, SAMPLED, "tracestate: a=1", "tracestate: b=2", trace_sample=0)
    span = await collector.one()
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE_ID, SPAN_ID)
    assert span.span_id.hex() != SPAN_ID
    assert span.trace_state == "a=1,b=2"
    assert span.flags == 0x301
    assert got.get("traceparent") == f"00-{TRACE_ID}-{span.span_id.hex()}-01"
    assert got.all("tracestate") == ["a=1", "b=2"]


async def test_what_the_client_does_not_sample_is_not(lab: Lab) -> None:
    """The provider hears that too, and a span that nobody keeps is its parent."""
    got, collector = await _asked(lab, UNSAMPLED, "tracestate: a=1")
    version, trace_id, span_id, flags = (got.get("traceparent") or "").split("-")
    assert (version, trace_id, flags) == ("00", TRACE_ID, "00")
    assert span_id != SPAN_ID
    assert got.get("tracestate") == "a=1"
    assert collector.requests == []


@pytest.mark.parametrize("ratio", [0, 1])
async def test_a_trace_begins_here_where_the_client_has_none(lab: Lab, ratio: int) -> None:
    got, collector = await _asked(lab, trace_sample=ratio)
    version, trace_id, span_id, flags = (got.get("traceparent") or "").split("-")
    assert (version, flags) == ("00", f"0{ratio}")
    if ratio:
        span = await collector.one()
        assert (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id) == (trace_id, span_id, b"")


@pytest.mark.parametrize(
    "lines",
    [
        ("traceparent: nonsense", "tracestate: a=1"),
        (SAMPLED.replace("00-", "ff-", 1), "tracestate: a=1"),
        (f"{SAMPLED}-more", "tracestate: a=1"),
        (SAMPLED, SAMPLED, "tracestate: a=1"),
        ("tracestate: a=1",),
    ],
)
async def test_a_malformed_trace_is_no_parent(lab: Lab, lines: tuple[str, ...]) -> None:
    got, collector = await _asked(lab, *lines)
    span = await collector.one()
    assert span.parent_span_id == b""
    assert span.trace_state == ""
    assert got.get("traceparent") == f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01"
    assert got.all("tracestate") == []


async def test_without_a_collector_a_trace_passes_as_it_came(lab: Lab) -> None:
    provider, relay, client = await lab.between(ok)
    await client.send(request("GET", "/v1/test", (SAMPLED, "tracestate: a=1")))
    await client.response()
    [message] = provider.requests
    assert message.get("traceparent") == SAMPLED.partition(": ")[2]
    assert message.get("tracestate") == "a=1"
    assert not any("span" in name for name in await relay.metrics())
    assert "trace_id" not in (await relay.access())[0]


async def test_a_signature_of_the_clients_own_is_not_broken(lab: Lab, tmp_path: Path) -> None:
    """A traceparent that the client sent may be among the fields that it signed."""
    collector, url = await collecting(lab)
    provider = await lab.provider(ok)
    relay = await lab.relay(provider.url, otlp_endpoint=url)
    client = await lab.client(relay.port)
    host = f"127.0.0.1:{provider.port}"
    signature = (
        "Authorization: AWS4-HMAC-SHA256 Credential=A/20260101/us-east-1/bedrock/aws4_request, "
        "SignedHeaders=host;traceparent, Signature=00"
    )
    signed = request("POST", "/model/m/converse", (signature, SAMPLED), body=b"{}")
    await client.send(signed.replace(b"relay.test", host.encode()))
    await client.response()
    [message] = provider.requests
    assert message.get("traceparent") == SAMPLED.partition(": ")[2]
    assert (await collector.one()).parent_span_id.hex() == SPAN_ID


# --- what happens on the way ---


async def test_each_attempt_is_an_event(lab: Lab, tmp_path: Path) -> None:
    collector, url = await collecting(lab)

    async def hangs_up(caller: Caller) -> None:
        await caller.request()
        caller.close()

    tables = {
        "refuses": (await lab.provider(answering(response(b"no", status="503 Busy")))).url,
        "hangs-up": (await lab.provider(hangs_up)).url,
        "away": f"http://127.0.0.1:{free_port()}",
        "good": (await lab.provider(ok)).url,
    }
    routes = '[[routes]]\nupstreams = ["refuses", "hangs-up", "away", "good"]'
    relay = await lab.relay(None, otlp_endpoint=url, retry_attempts=9, config=toml(tmp_path, tables, routes))
    client = await lab.client(relay.port)
    await client.send(request())
    assert (await client.response()).status == 200
    span = await collector.one()
    tried = [attempt for name, attempt in events(span) if name == "flow.attempt"]
    assert [(each["flow.attempt.number"], each["flow.upstream"], each["flow.attempt.outcome"]) for each in tried] == [
        (1, "refuses", "refused"),
        (2, "hangs-up", "upstream_failed"),
        (3, "away", "connect_failed"),
        (4, "good", "answered"),
    ]
    assert [each.get("http.response.status_code") for each in tried] == [503, None, None, 200]
    assert values(span.attributes)["flow.attempts"] == 4
    assert "error.type" not in values(span.attributes)


async def test_a_provider_that_fails_is_an_error(lab: Lab) -> None:
    collector, url = await collecting(lab)
    relay = await lab.relay(f"http://127.0.0.1:{free_port()}", otlp_endpoint=url)
    client = await lab.client(relay.port)
    await client.send(chat())
    assert (await client.response()).status == 502
    span = await collector.one()
    found = values(span.attributes)
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert span.status.message
    assert (found["error.type"], found["flow.end"]) == ("connect_failed", "connect_failed")
    assert found["http.response.status_code"] == 502


async def test_a_clients_mistake_is_none_of_the_relays(lab: Lab) -> None:
    collector, url = await collecting(lab)
    relay = await lab.relay((await lab.provider(ok)).url, otlp_endpoint=url, max_body=10)
    client = await lab.client(relay.port)
    await client.send(request("POST", body=b"x" * 11))
    assert (await client.response()).status == 413
    span = await collector.one()
    assert span.status.code == span.status.STATUS_CODE_UNSET
    assert values(span.attributes)["error.type"] == "body_too_large"
    assert events(span) == []


async def test_a_cut_is_an_event_at_its_moment(lab: Lab) -> None:
    collector, _, client = await simulated(lab)
    await client.send(chat(("X-Flow-Max-Tokens: 5",), events=100, rate=500))
    await client.response()
    span = await collector.one()
    name, cut = events(span)[-1]
    assert name == "flow.cut"
    assert cut["flow.cut.reason"] == values(span.attributes)["flow.end"] == "budget"
    assert cut["gen_ai.usage.output_tokens"] == values(span.attributes)["gen_ai.usage.output_tokens"]
    assert values(span.attributes)["gen_ai.request.model"] == "simulated"


async def test_pauses_are_events_with_their_reason(lab: Lab) -> None:
    collector, relay, _ = await simulated(lab)
    client = await lab.client(relay.port, receive_buffer=16384)
    await client.send(chat(events=20_000))
    await eventually(lambda: relay.exchanges and relay.exchanges[0].state() == "paused")
    await asyncio.sleep(0.2)
    await client.response()
    span = await collector.one()
    pauses = [(name, each) for name, each in events(span) if name in ("flow.paused", "flow.resumed")]
    assert len(pauses) >= 2
    assert {each["flow.pause.reason"] for _, each in pauses} == {"downstream"}
    assert max(each["flow.pause.seconds"] for name, each in pauses if name == "flow.resumed") > 0.1
    found = values(span.attributes)
    assert found["flow.pauses"] == len(pauses) // 2 + span.dropped_events_count // 2
    assert found["flow.paused_seconds"] > 0.1


async def test_a_hedge_is_an_event_of_its_own(lab: Lab, tmp_path: Path) -> None:
    """Of both attempts the relay's span is the parent."""
    collector, url = await collecting(lab)
    event = chunk(b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n')

    async def quick(caller: Caller) -> None:
        while True:
            await caller.request()
            await caller.send(CHUNKED_HEAD + event + LAST_CHUNK)

    async def sometimes_late(caller: Caller) -> None:
        while b'"late"' not in (await caller.request()).body:
            await caller.send(CHUNKED_HEAD + event + LAST_CHUNK)
        await caller.receive()

    one, two = await lab.provider(sometimes_late), await lab.provider(quick)
    routes = '[[routes]]\nupstreams = ["one", "two"]\nhedge_share = 1.0\n'
    config = toml(tmp_path, {"one": one.url, "two": two.url}, routes)
    relay = await lab.relay(None, otlp_endpoint=url, config=config)
    client = await lab.client(relay.port)
    for user in [*[b"usual"] * ENOUGH, b"late"]:
        body = b'{"model": "m", "stream": true, "messages": [], "user": "%b"}' % user
        await client.send(request("POST", "/v1/chat/completions", body=body))
        assert (await client.response()).status == 200
    span = (await collector.some(ENOUGH + 1))[-1]
    tried = [(name, each["flow.upstream"], each["flow.attempt.outcome"]) for name, each in events(span)[:2]]
    assert tried == [("flow.attempt", "one", "cancelled"), ("flow.hedge", "two", "answered")]
    parent = f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01"
    assert [each.requests[-1].get("traceparent") for each in (one, two)] == [parent, parent]
    assert values(span.attributes)["flow.upstream"] == "two"


# --- the collector ---


async def _ask(client: Wire, times: int = 1) -> None:
    for _ in range(times):
        await client.send(request())
        await client.response()


async def _before(lab: Lab, url: str, **settings: object) -> tuple[RunningRelay, Wire]:
    relay = await lab.relay((await lab.provider(ok)).url, otlp_endpoint=url, **settings)
    return relay, await lab.client(relay.port)


async def test_spans_go_together_and_over_one_connection(lab: Lab) -> None:
    collector = Collector()
    site = await lab.provider(collector)
    relay, client = await _before(lab, f"{site.url}/otel", otlp_headers="x-scope=a%20b,Authorization=Bearer%20k")
    await _ask(client, 30)
    await collector.some(30)
    await _ask(client)
    await collector.some(31)
    assert len(site.callers) == 1
    assert len(collector.requests) <= 4
    got = collector.requests[0]
    assert got.start == "POST /otel/v1/traces HTTP/1.1"
    assert got.get("content-type") == "application/x-protobuf"
    assert (got.get("x-scope"), got.get("authorization")) == ("a b", "Bearer k")
    assert (await relay.metrics())["flow_spans_exported_total"] == 31


@pytest.mark.parametrize(
    "first",
    [
        response(b"", ["Retry-After: 1"], status="429 Too Many Requests"),
        response(b"", status="503 Service Unavailable"),
        b"",
        b"nonsense\r\n\r\n",
    ],
    ids=["429", "503", "hang-up", "nonsense"],
)
async def test_what_may_pass_is_sent_again(lab: Lab, first: bytes) -> None:
    collector, url = await collecting(lab, first)
    relay, client = await _before(lab, url)
    await _ask(client)
    await collector.one()
    assert len(collector.requests) == 2
    assert collector.requests[0].body == collector.requests[1].body
    await eventually(lambda: relay.lines("traces_recovered"))
    assert len(relay.lines("traces_failing")) == 1
    metrics = await relay.metrics()
    assert metrics["flow_spans_exported_total"] == 1
    assert sum(value for name, value in metrics.items() if name.startswith("flow_spans_dropped")) == 0


async def test_what_is_refused_is_not(lab: Lab) -> None:
    collector, url = await collecting(lab, response(b"", status="401 Unauthorized"))
    relay, client = await _before(lab, url)
    await _ask(client, 3)
    await eventually(lambda: relay.lines("traces_failing"))
    assert relay.lines("traces_failing")[0]["reason"] == "status 401"
    assert collector.spans == []
    await _ask(client)
    await collector.one()
    assert (await relay.metrics())['flow_spans_dropped_total{reason="refused"}'] == 3


async def test_a_part_that_is_refused_is_counted(lab: Lab) -> None:
    partial = response(b"\x0a\x06\x08\x02\x12\x02no", ["Content-Type: application/x-protobuf"])
    collector, url = await collecting(lab, partial)
    relay, client = await _before(lab, url)
    await _ask(client, 3)
    await collector.some(3)
    exported = refused = 0.0
    async with asyncio.timeout(PATIENCE):
        while exported + refused < 3:  # the last answer of the collector may still be on its way
            metrics = await relay.metrics()
            exported = metrics["flow_spans_exported_total"]
            refused = metrics['flow_spans_dropped_total{reason="refused"}']
    assert 1 <= refused <= 2  # of the first request, which has one span at least
    assert exported == 3 - refused


async def test_a_collector_that_closed_its_connection_is_asked_over_another(lab: Lab) -> None:
    collector = Collector()

    async def once(caller: Caller) -> None:
        await collector.take(caller)
        caller.close()

    site = await lab.provider(once)
    relay, client = await _before(lab, site.url)
    for asked in (1, 2, 3):
        await _ask(client)
        await collector.some(asked)
    assert len(site.callers) == 3
    assert relay.lines("traces_failing") == []


async def test_a_collector_that_is_away_costs_nothing_but_its_spans(lab: Lab) -> None:
    relay, client = await _before(lab, f"http://127.0.0.1:{free_port()}")
    await _ask(client, 20)
    await eventually(lambda: relay.lines("traces_failing"))
    assert len(relay.lines("traces_failing")) == 1
    assert "refused" in relay.lines("traces_failing")[0]["reason"].lower()
    assert len(await relay.access(20)) == 20


async def test_a_collector_that_hangs_stops_nobody(lab: Lab) -> None:
    """What comes meanwhile waits, as far as there is room; the end does not wait for it for long."""
    site = await lab.provider(silent)
    relay, client = await _before(lab, site.url)
    await _ask(client)
    await eventually(lambda: site.requests)
    loop = asyncio.get_running_loop()
    for _ in range(4):  # so many requests would take long
        await _ask(client, 25)
    assert len(await relay.access(101)) == 101
    before = loop.time()
    client.close()
    await relay.close()
    assert loop.time() - before < 10


async def test_over_tls_with_an_authority(lab: Lab, authority: trustme.CA) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        got.append(await reader.readexactly(size))
        writer.write(TAKEN)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    lab.on_exit(server.close)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with authority.cert_pem.tempfile() as ca:
        relay, client = await _before(lab, url, otlp_ca=ca)
        stranger, other = await _before(lab, url)
    await _ask(client)
    await eventually(lambda: got)
    await _ask(other)
    await eventually(lambda: stranger.lines("traces_failing"))
    assert "certificate" in stranger.lines("traces_failing")[0]["reason"]
    assert relay.lines("traces_failing") == []
    assert len(got) == 1


async def test_an_authority_that_can_not_be_read(lab: Lab) -> None:
    with pytest.raises(ConfigError) as caught:
        await lab.relay("http://127.0.0.1:1", otlp_endpoint="https://127.0.0.1:1", otlp_ca="/none.pem")
    [problem] = caught.value.problems
    assert problem.startswith("FLOW_OTLP_CA: '/none.pem' can't be used: ")
    lab.relays.clear()


async def test_by_a_unix_socket(lab: Lab, tmp_path: Path) -> None:
    collector = Collector()
    site = await lab.provider_at(tmp_path / "otel.sock", collector)
    _, client = await _before(lab, site.url)
    await _ask(client)
    await collector.one()


async def test_what_waits_is_sent_at_the_end(lab: Lab) -> None:
    collector, url = await collecting(lab)
    provider = await lab.provider(ok)
    process = await lab.process(provider.url, otlp_endpoint=url)
    client = await lab.client(process.port)
    await _ask(client, 7)
    client.close()
    process.signal(signal.SIGTERM)
    assert await process.exit_status() == 0
    assert len(collector.spans) == 7


async def test_each_worker_sends_its_own(lab: Lab) -> None:
    collector, url = await collecting(lab)
    provider = await lab.provider(ok)
    process = await lab.process(provider.url, otlp_endpoint=url, workers=2)
    for _ in range(12):
        client = await lab.client(process.port)
        await _ask(client)
    await collector.some(12)
    resources = [resource for export in collector.taken for resource in export.resource_spans]
    assert len({values(each.resource.attributes)["service.instance.id"] for each in resources}) == 2
    assert len({span.span_id for span in collector.spans}) == 12
    page = await Wire.connect(process.admin_port)
    try:
        await page.send(request("GET", "/metrics"))
        assert samples((await page.response()).body.decode())["flow_spans_exported_total"] == 12
    finally:
        page.close()
    process.signal(signal.SIGTERM)
    assert await process.exit_status() == 0


async def test_a_reload_takes_new_fields(lab: Lab, tmp_path: Path) -> None:
    secret = tmp_path / "headers"
    secret.write_text("authorization=Bearer%20old")
    collector, url = await collecting(lab)
    config = toml(tmp_path, {"one": (await lab.provider(ok)).url}, '[[routes]]\nupstreams = ["one"]')
    relay = await lab.relay(None, config=config, otlp_endpoint=url, otlp_headers=f"file:{secret}")
    client = await lab.client(relay.port)
    await _ask(client)
    await collector.some(1)
    secret.write_text("authorization=Bearer%20new")
    assert relay.relay.reload()
    await _ask(client)
    await collector.some(2)
    assert [message.get("authorization") for message in collector.requests] == ["Bearer old", "Bearer new"]
