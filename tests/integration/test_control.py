"""Control of a running relay: at the admin listener with the token, and at the control socket; one process."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from pathlib import Path

import orjson
import pytest

from tests.support.admin import TOKEN, table, told
from tests.support.h2_lab import ask, h2_client
from tests.support.lab import Lab, chat, eventually, numbers, page, simulate
from tests.support.topology import toml
from tests.support.wire import LAST_CHUNK, End, Wire, request

BEGUN = b"tok000003"


async def streaming(lab: Lab, port: int, request_id: str, **options: object) -> Wire:
    """A client in the middle of an endless answer."""
    client = await lab.client(port)
    await client.send(chat((f"x-request-id: {request_id}",), events=0, rate=100, **options))
    await client.until(BEGUN)
    return client


# --- who may ---


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/drain"),
        ("POST", "/streams/some/end"),
        ("POST", "/upstreams/some/out"),
        ("PUT", "/log-level"),
        ("POST", "/reload"),
        ("GET", "/config"),
        ("GET", "/reload"),
    ],
)
async def test_without_a_token_the_admin_listener_is_read_only(lab: Lab, method: str, path: str) -> None:
    _, relay, _ = await lab.simulated()
    for token in (None, "", TOKEN):
        answer = await told(relay.admin_port, method, path, token=token)
        assert answer.status == 403
        assert b"FLOW_ADMIN_TOKEN is not set" in answer.body
    assert (await relay.page("/streams")).status == 200


async def test_only_the_token_opens_it(lab: Lab) -> None:
    _, relay, _ = await lab.simulated(admin_token=TOKEN)
    for token in (None, "", "another-token-of-that-size", TOKEN[:-1], TOKEN + "x"):
        answer = await told(relay.admin_port, "PUT", "/log-level", token=token, body=b"error")
        assert answer.status == 401
        assert answer.get("www-authenticate") == 'Bearer realm="flowserver"'
    assert relay.log.level == "info"
    assert await table(relay.admin_port, "PUT", "/log-level", token=TOKEN, body=b"error") == {"log_level": "error"}
    assert relay.log.level == "error"


async def test_a_token_is_no_way_around_the_host_names(lab: Lab) -> None:
    """A page that leads its own name here does not know the token, and would not get that far either."""
    _, relay, _ = await lab.simulated(admin_token=TOKEN, admin_hosts="another.test")
    assert (await told(relay.admin_port, "POST", "/drain", token=TOKEN)).status == 421


async def test_other_sites_pages_are_not_allowed_to_send_the_token(lab: Lab) -> None:
    _, relay, _ = await lab.simulated(admin_token=TOKEN)
    answer = await told(
        relay.admin_port,
        "OPTIONS",
        "/drain",
        headers=("Origin: https://attacker.test", "Access-Control-Request-Headers: authorization"),
    )
    assert answer.status == 405
    assert not [name for name in answer.names if name.startswith("access-control")]


async def test_the_control_socket_is_the_owner_s(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    _, relay, _ = await lab.simulated(control_socket=f"unix:{path}", admin_token=TOKEN)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert await table(path, "PUT", "/log-level", body=b"warning") == {"log_level": "warning"}
    assert (await told(path, "GET", "/streams")).status == 200
    await relay.relay.close()
    assert not path.exists()


async def test_the_token_may_change_at_a_reload(lab: Lab, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    _, relay, _ = await lab.simulated(admin_token=f"file:{token}")
    token.write_text("another-token-of-that-kind\n")
    assert (await table(relay.admin_port, "POST", "/reload", token=TOKEN))["result"] == "reloaded"
    assert (await told(relay.admin_port, "GET", "/reload", token=TOKEN)).status == 401
    assert (await told(relay.admin_port, "GET", "/reload", token="another-token-of-that-kind")).status == 200


async def test_what_is_asked_for_in_the_wrong_way(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    await lab.simulated(control_socket=f"unix:{path}")
    answer = await told(path, "GET", "/drain")
    assert (answer.status, answer.get("allow")) == (405, "POST")
    assert (await told(path, "DELETE", "/reload")).get("allow") == "GET, POST"
    assert (await told(path, "POST", "/streams")).status == 405
    assert (await told(path, "POST", "/upstreams/some/sideways")).status == 405
    assert (await told(path, "GET", "/upstreams/some/sideways")).status == 404
    assert (await told(path, "PUT", "/log-level", body=b"loud")).status == 400
    assert (await told(path, "PUT", "/log-level", body=b"x" * 1025)).status == 413
    assert b"expected one of 127.0.0.1" in (await told(path, "POST", "/upstreams/nobody/out")).body


# --- streams ---


async def test_a_stream_is_ended_and_no_other(lab: Lab) -> None:
    simulator, relay, _ = await lab.simulated(admin_token=TOKEN)
    ended, goes_on = [await streaming(lab, relay.port, name) for name in ("first", "second")]
    assert await table(relay.admin_port, "POST", "/streams/first/end", token=TOKEN) == {"ended": 1}
    body, end = await ended.rest()
    assert b"The operator of this relay ended this request." in body
    assert not body.endswith(LAST_CHUNK)
    assert end in (End.CLOSED, End.RESET)
    [line] = await relay.access()
    assert (line["request_id"], line["end"], line["level"]) == ("first", "ended_by_operator", "warning")
    await eventually(lambda: sorted(stream["state"] for stream in simulator.streams) == ["cancelled", "streaming"])
    await goes_on.until(b"tok000020")
    metrics = await relay.metrics()
    assert metrics['flow_exchanges_total{end="ended_by_operator"}'] == 1
    [told_of] = relay.lines("control")
    assert (told_of["action"], told_of["by"]) == ("/streams/first/end", "127.0.0.1")
    goes_on.close()


async def test_http2_and_another_dialect(lab: Lab) -> None:
    _, relay, _ = await lab.simulated(admin_token=TOKEN)
    h2 = await h2_client(lab, relay.port)
    stream = ask(h2, events=0, rate=100)
    await h2.until(lambda: BEGUN in h2.peer.answers[stream].body)
    anthropic = await lab.client(relay.port)
    body = orjson.dumps({"model": "m", "stream": True, "max_tokens": 9000, "messages": []})
    await anthropic.send(request("POST", "/v1/messages", [simulate(events=0, rate=100)], body=body))
    await anthropic.until(BEGUN)
    for each in orjson.loads((await relay.page("/streams")).body):
        assert (await table(relay.admin_port, "POST", f"/streams/{each['request_id']}/end", token=TOKEN))["ended"] == 1
    rest, _ = await anthropic.rest()
    assert b"event: error\n" in rest
    assert not rest.endswith(LAST_CHUNK)
    await h2.until(lambda: h2.peer.answers[stream].reset is not None)
    assert {line["end"] for line in await relay.access(2)} == {"ended_by_operator"}


async def test_a_request_without_an_answer_is_refused_so_that_no_library_sends_it_again(lab: Lab) -> None:
    _, relay, client = await lab.simulated(admin_token=TOKEN)
    await client.send(chat(("x-request-id: waits",), delay=60))
    await eventually(lambda: relay.exchanges)
    assert await table(relay.admin_port, "POST", "/streams/waits/end", token=TOKEN) == {"ended": 1}
    answer = await client.response()
    assert (answer.status, orjson.loads(answer.body)["error"]["code"]) == (403, "ended_by_operator")
    await client.send(chat(events=3))
    assert numbers((await client.response()).body) == [0, 1, 2], "the connection goes on"


async def test_an_id_that_is_unknown_used_twice_or_strange(lab: Lab) -> None:
    _, relay, _ = await lab.simulated(admin_token=TOKEN)
    assert (await told(relay.admin_port, "POST", "/streams/nobody/end", token=TOKEN)).status == 404
    clients = [await streaming(lab, relay.port, "a/b+c=:.d") for _ in range(2)]
    assert await table(relay.admin_port, "POST", "/streams/a/b+c=:.d/end", token=TOKEN) == {"ended": 2}
    for client in clients:
        await client.rest()


async def test_no_stream_has_an_id_that_ends_another_one_or_can_t_be_ended(lab: Lab) -> None:
    """Browsers and curl resolve dot segments of a path that they put an id into."""
    _, relay, _ = await lab.simulated(admin_token=TOKEN)
    clients = [await streaming(lab, relay.port, name) for name in ("a//b/", "x/../../streams/victim", "victim")]
    shown = await table(relay.admin_port, "GET", "/streams")
    assert {row["request_id"] for row in shown} >= {"a//b/", "victim"}
    assert not any(".." in row["request_id"] for row in shown)
    for row in shown:
        ended = await table(relay.admin_port, "POST", "/streams/end", token=TOKEN, body=row["request_id"].encode())
        assert ended == {"ended": 1}
    for client in clients:
        await client.rest()
    assert (await told(relay.admin_port, "POST", "/streams/end", token=TOKEN)).status == 404
    assert (await told(relay.admin_port, "POST", "/streams/end", body=b"victim")).status == 401


# --- providers ---


async def test_a_provider_is_taken_out_and_put_in_again(lab: Lab, tmp_path: Path) -> None:
    first, second = await lab.simulator(), await lab.simulator()
    config = toml(tmp_path, {"first": first.url, "second": second.url})
    relay = await lab.relay(None, config=config, admin_token=TOKEN, ready="all_upstreams")
    goes_on = await streaming(lab, relay.port, "goes-on")
    client = await lab.client(relay.port)

    async def asked() -> str:
        asked_before = len(relay.lines("access"))
        await client.send(chat(events=3))
        assert (await client.response()).status == 200
        return str((await relay.access(asked_before + 1))[-1]["upstream"])

    assert await asked() == "first"
    told_of = await table(relay.admin_port, "POST", "/upstreams/first/out", token=TOKEN)
    assert told_of == {"upstream": "first", "out": True}
    assert await asked() == "second"
    await goes_on.until(b"tok000020")
    metrics = await relay.metrics()
    assert metrics['flow_upstream_out{upstream="first"}'] == 1
    assert metrics['flow_upstream_out{upstream="second"}'] == 0
    assert b"first was taken out by the operator" in (await relay.page("/readyz")).body
    assert (await table(relay.admin_port, "POST", "/reload", token=TOKEN))["result"] == "reloaded"
    assert await asked() == "second"
    assert (await table(relay.admin_port, "GET", "/config", token=TOKEN))["out"] == ["first"]
    await table(relay.admin_port, "POST", "/upstreams/second/out", token=TOKEN)
    await client.send(chat(events=3))
    answer = await client.response()
    assert answer.status == 503
    assert b"first was taken out by the operator; second was taken out by the operator" in answer.body
    await table(relay.admin_port, "POST", "/upstreams/first/in", token=TOKEN)
    await client.send(chat(events=3))
    assert (await client.response()).status == 200
    goes_on.close()


async def test_who_waits_for_a_place_there_goes_elsewhere(lab: Lab, tmp_path: Path) -> None:
    first, second = await lab.simulator(), await lab.simulator()
    config = toml(tmp_path, {"first": {"url": first.url, "max_concurrent": 1, "queue": 5}, "second": second.url})
    relay = await lab.relay(None, config=config, admin_token=TOKEN)
    goes_on = await streaming(lab, relay.port, "goes-on")
    waits = await lab.client(relay.port)
    await waits.send(chat(events=3))
    [host] = [host for host in relay.relay.metrics.upstreams if host.name == "first"]
    await eventually(lambda: host.waiting == 1 or relay.lines("access"))
    await table(relay.admin_port, "POST", "/upstreams/first/out", token=TOKEN)
    assert numbers((await waits.response()).body) == [0, 1, 2]
    goes_on.close()


# --- the rest ---


async def test_the_level_of_the_log(lab: Lab) -> None:
    _, relay, client = await lab.simulated(admin_token=TOKEN)
    await table(relay.admin_port, "PUT", "/log-level", token=TOKEN, body=b"debug\n")
    await client.send(chat(events=3))
    assert (await client.response()).status == 200
    await eventually(lambda: [line["now"] for line in relay.lines("state")][-1:] == ["ended"])
    await table(relay.admin_port, "PUT", "/log-level", token=TOKEN, body=b"info")
    before = len(relay.lines("state"))
    await client.send(chat(events=3))
    await client.response()
    await relay.access(2)
    assert len(relay.lines("state")) == before


async def test_what_a_reload_has_changed(lab: Lab, tmp_path: Path) -> None:
    simulator = await lab.simulator()
    config = toml(tmp_path, {"one": {"url": simulator.url, "weight": 1}})
    relay = await lab.relay(None, config=config, admin_token=TOKEN)
    shown = await table(relay.admin_port, "GET", "/reload", token=TOKEN)
    assert shown == {"time": None, "result": "none", "changes": [], "problems": []}
    toml(tmp_path, {"one": {"url": simulator.url, "weight": 2}})
    asked = await table(relay.admin_port, "POST", "/reload", token=TOKEN)
    assert asked["changes"] == ["upstreams.one.weight: 1 -> 2"]
    assert await table(relay.admin_port, "GET", "/reload", token=TOKEN) == asked
    toml(tmp_path, {"one": {"url": simulator.url, "weight": "heavy"}})
    answer = await told(relay.admin_port, "POST", "/reload", token=TOKEN)
    assert answer.status == 422
    assert "upstreams[0].weight" in orjson.loads(answer.body)["problems"][0]
    shown = await table(relay.admin_port, "GET", "/config", token=TOKEN)
    assert shown["upstreams"][0]["weight"] == {"value": 2, "origin": f"{config}: upstreams[0].weight"}


async def test_a_relay_that_is_no_process_of_its_own_does_not_drain(lab: Lab) -> None:
    _, relay, _ = await lab.simulated(admin_token=TOKEN)
    assert (await told(relay.admin_port, "POST", "/drain", token=TOKEN)).status == 501


async def test_a_process_drains_and_a_signal_that_comes_then_is_the_first_one(lab: Lab, tmp_path: Path) -> None:
    """As in a container whose preStop hook drains it."""
    simulator = await lab.simulator()
    process = await lab.process(simulator.url, admin_token=TOKEN, control_socket=f"unix:{tmp_path}/c")
    client = await lab.client(process.port)
    await client.send(chat(events=60, rate=100))
    await client.until(BEGUN)
    assert await table(tmp_path / "c", "POST", "/drain") == {"draining": True, "streams": 1}
    await eventually(lambda: "draining" in process.events(), "it drains")
    assert await table(tmp_path / "c", "POST", "/drain") == {"draining": True, "streams": 1}
    assert (await page(process.admin_port, "/readyz")).status == 503
    process.signal(signal.SIGTERM)
    body, _ = await client.rest()
    assert numbers(body)[-1] == 59
    assert body.endswith(LAST_CHUNK)
    assert await process.exit_status() == 0
    assert "ending_at_once" not in process.events()
    assert not (tmp_path / "c").exists()


async def test_a_successor_takes_the_control_socket_over(lab: Lab, tmp_path: Path) -> None:
    simulator = await lab.simulator()
    process = await lab.process(simulator.url, control_socket=f"unix:{tmp_path}/c")
    await table(tmp_path / "c", "PUT", "/log-level", body=b"warning")
    await table(tmp_path / "c", "PUT", "/log-level", body=b"info")
    before = await table(tmp_path / "c", "GET", "/config")
    process.signal(signal.SIGUSR2)
    await eventually(lambda: "handed_over" in process.events(), "it hands over")
    [handed_over] = [line for line in process.lines if line["event"] == "handed_over"]
    lab.on_exit(lambda: kill_if_alive(handed_over["successor"]))
    await process.ended()
    assert (tmp_path / "c").exists()
    assert await table(tmp_path / "c", "GET", "/config") == before
    await table(tmp_path / "c", "POST", "/drain")
    await eventually(lambda: not (tmp_path / "c").exists(), "the successor ends")


def kill_if_alive(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
