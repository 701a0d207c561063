"""What can be seen of the relay from outside: health, metrics, live streams, the access log."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import orjson

from tests.support.lab import Lab, chat, eventually, numbers, samples
from tests.support.provider import answering, ok
from tests.support.wire import request, response


async def test_health_and_readiness(lab: Lab) -> None:
    relay = await lab.relay("http://127.0.0.1:9")
    for path in ("/healthz", "/readyz"):
        answer = await relay.page(path)
        assert (answer.status, answer.get("cache-control")) == (200, "no-store")
    assert (await relay.page("/nothing")).status == 404


async def test_the_admin_pages_are_not_on_the_clients_address(lab: Lab) -> None:
    provider, _, client = await lab.between(ok)
    await client.send(request(target="/metrics"))
    assert (await client.response()).body == b"ok"
    assert provider.requests[0].start == "GET /metrics HTTP/1.1"


async def test_the_admin_address_can_be_off(lab: Lab) -> None:
    relay = await lab.relay("http://127.0.0.1:9", admin_listen="off")
    assert relay.relay.admin_address is None


async def test_admin_connections_are_kept(lab: Lab) -> None:
    """Scrapers ask again and again over one connection."""
    relay = await lab.relay("http://127.0.0.1:9")
    client = await lab.client(relay.admin_port)
    for _ in range(3):
        await client.send(request(target="/metrics"))
        assert (await client.response()).status == 200
    await client.send(request("HEAD", "/healthz") + request(target="/healthz") + request("POST", "/healthz", body=b"x"))
    assert (await client.response("HEAD")).get("content-length") == "3"
    assert (await client.response()).body == b"ok\n"
    assert (await client.response()).status == 405


async def test_metrics_tell_of_what_passed(lab: Lab) -> None:
    simulator, relay, client = await lab.simulated()
    for _ in range(3):
        await client.send(chat(events=10, rate=500))
        await client.response()
    await client.send(request("POST", "/v1/echo", body=b"x" * 1000))
    await client.response()
    await client.send(request(target="/missing"))
    await client.response()
    other = await lab.client(relay.port)
    await other.send(b"nonsense\r\n\r\n")
    await other.rest()
    answer = await relay.page("/metrics")
    assert str(answer.get("content-type")).startswith("text/plain; version=0.0.4")
    metrics = samples(answer.body.decode())
    lines = await relay.access(5)
    assert metrics["flow_streams_open"] == 0
    assert metrics['flow_exchanges_total{end="complete"}'] == 5
    assert metrics['flow_responses_total{status="200"}'] == 4
    assert metrics['flow_responses_total{status="404"}'] == 1
    assert metrics['flow_refused_total{code="bad_request"}'] == 1
    assert metrics['flow_body_bytes_total{direction="down"}'] == sum(line["bytes_down"] for line in lines)
    assert metrics['flow_body_bytes_total{direction="up"}'] == sum(line["bytes_up"] for line in lines)
    assert metrics["flow_first_byte_seconds_count"] == 5
    assert metrics["flow_held_bytes"] == 0
    assert metrics['flow_upstream_connections{state="idle",upstream="127.0.0.1"}'] == 1
    assert metrics['flow_upstream_connections{state="busy",upstream="127.0.0.1"}'] == 0
    assert {name for name in metrics if name.startswith("flow_event_loop_lag_seconds")}
    assert metrics["process_open_fds"] > 0
    assert len(simulator.requests) == 5


async def test_pauses_are_counted_while_they_last(lab: Lab) -> None:
    _, relay, _ = await lab.simulated()
    client = await lab.client(relay.port, receive_buffer=8192)
    await client.send(chat(events=20_000))
    await eventually(lambda: [e for e in relay.exchanges if e.state() == "paused"])
    await asyncio.sleep(0.05)
    metrics = await relay.metrics()
    assert metrics["flow_streams_open"] == metrics["flow_streams_paused"] == 1
    assert metrics['flow_pauses_total{reason="downstream"}'] >= 1
    assert metrics["flow_held_bytes"] > 0
    assert numbers((await client.response()).body) == list(range(20_000))
    metrics = await relay.metrics()
    assert metrics['flow_paused_seconds_total{reason="downstream"}'] >= 0.05
    assert metrics["flow_streams_paused"] == 0


async def test_live_streams_are_listed_while_they_live(lab: Lab) -> None:
    _, relay, client = await lab.simulated()
    await client.send(chat(("X-Request-Id: mine",), events=0, rate=100))
    await client.until(b"tok000003")
    [stream] = orjson.loads((await relay.page("/streams")).body)
    assert (
        stream.items()
        >= {
            "request_id": "mine",
            "method": "POST",
            "path": "/v1/chat/completions",
            "protocol": "h1",
            "upstream": "127.0.0.1",
            "state": "streaming",
            "status": 200,
            "pauses": 0,
        }.items()
    )
    assert stream["bytes_up"] > 0
    assert stream["bytes_down"] > 0
    client.close()
    await eventually(lambda: not relay.relay.metrics.open)
    assert orjson.loads((await relay.page("/streams")).body) == []


async def test_an_exchange_has_one_line_with_its_figures(lab: Lab) -> None:
    _, relay, client = await lab.simulated(ask_usage="off")
    await client.send(chat(("X-Request-Id: mine",), events=10, rate=200))
    answer = await client.response()
    [line] = await relay.access()
    assert (
        line.items()
        >= {
            "level": "info",
            "event": "access",
            "request_id": "mine",
            "method": "POST",
            "path": "/v1/chat/completions",
            "protocol": "h1",
            "status": 200,
            "end": "complete",
            "upstream": "127.0.0.1",
            "reused": False,
            "bytes_down": len(answer.body),
            "pauses": 0,
            "paused_ms": 0,
            "full_writes": 0,
        }.items()
    )
    assert line["bytes_up"] > 0
    assert 0 < line["first_byte_ms"] < line["duration_ms"]
    assert datetime.fromisoformat(line["time"]).tzinfo is UTC
    assert "error" not in line


async def test_a_failed_exchange_says_why(lab: Lab) -> None:
    relay = await lab.relay("http://nobody.invalid")
    client = await lab.client(relay.port)
    await client.send(request(headers=["X-Request-Id: mine"]))
    answer = await client.response()
    [line] = await relay.access()
    assert (line["status"], line["end"], line["first_byte_ms"]) == (502, "connect_failed", None)
    assert line["error"] == orjson.loads(answer.body)["error"]["message"]


async def test_a_client_that_left_before_the_answer_has_no_status(lab: Lab) -> None:
    _, relay, client = await lab.simulated()
    await client.send(chat(delay=60))
    await eventually(lambda: relay.relay.metrics.open)
    client.reset()
    [line] = await relay.access()
    assert (line["status"], line["end"], line["bytes_down"]) == (0, "client_gone", 0)


SECRET = "s3cret-token"


async def test_secrets_never_get_into_the_log(lab: Lab) -> None:
    headers = (
        f"Authorization: Bearer {SECRET}",
        f"X-Api-Key: {SECRET}",
        f"X-Goog-Api-Key: {SECRET}",
        f"Cookie: session={SECRET}",
        f"X-Request-Id: {SECRET} with blanks",
    )
    target = f"/v1/test?key={SECRET}&prompt={SECRET}"
    wrong = [
        request(target=target).replace(b"HTTP/1.1", b"HTTP/1.9"),
        request(target=target, headers=[*headers, "Bad Name: x"]),
        request(target=target, headers=[*headers, f"Content-Length: {SECRET}"]),
        request(target=target, headers=[*headers, f"Transfer-Encoding: {SECRET}"]),
        request(target=target, headers=[*headers, f"Expect: {SECRET}"]),
        request(target=target, headers=[*headers, f"Host: {SECRET}"]),
        request("POST", target, [*headers, "Transfer-Encoding: chunked"]) + SECRET.encode() + b"\r\n",
        request(SECRET, "no-slash/" + SECRET, headers),
    ]
    provider = await lab.provider(answering(response(b"ok", [f"Set-Cookie: {SECRET}"])))
    relay = await lab.relay(provider.url, log_level="debug")
    client = await lab.client(relay.port)
    await client.send(request("POST", target, headers, body=SECRET.encode()))
    answer = await client.response()
    assert answer.status == 200
    assert provider.requests[0].get("authorization") == f"Bearer {SECRET}"
    for raw in wrong:
        other = await lab.client(relay.port)
        await other.send(raw)
        assert (await other.response()).status >= 400
    absolute = await lab.client(relay.port)
    await absolute.send(request(target=f"http://{SECRET}@relay.test/"))
    assert (await absolute.response()).status == 400
    broken = await lab.relay(f"http://nobody.invalid/{SECRET[:0]}", upstream_api_key=SECRET)
    failing = await lab.client(broken.port)
    await failing.send(request("POST", target, headers))
    assert (await failing.response()).status == 502
    await relay.access(2)
    await broken.access()
    assert SECRET.encode() not in relay.output
    assert SECRET.encode() not in broken.output
    streams = await relay.page("/streams")
    metrics = await relay.page("/metrics")
    assert SECRET.encode() not in streams.body + metrics.body
