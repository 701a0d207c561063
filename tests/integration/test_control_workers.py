"""Control of several workers: their parent passes commands on, and answers when all have done it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import orjson

from tests.support.admin import TOKEN, table, told
from tests.support.lab import Lab, RelayProcess, chat, eventually, numbers, page, samples
from tests.support.topology import toml
from tests.support.wire import LAST_CHUNK, Wire

BEGUN = b"tok000003"


def events(process: RelayProcess, event: str) -> list[dict[str, Any]]:
    return [line for line in process.lines if line["event"] == event]


async def streaming(lab: Lab, port: int, request_id: str) -> Wire:
    client = await lab.client(port)
    await client.send(chat((f"x-request-id: {request_id}",), events=0, rate=100))
    await client.until(BEGUN)
    return client


async def answered(lab: Lab, port: int, count: int = 4) -> set[int]:
    """The statuses of so many new clients, who are spread over the workers."""
    statuses = set()
    for _ in range(count):
        client = await lab.client(port)
        await client.send(chat(("Connection: close",), events=3))
        statuses.add((await client.response()).status)
    return statuses


async def replaced(process: RelayProcess, pid: int) -> None:
    before = len(events(process, "worker_ready"))
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: len(events(process, "worker_ready")) > before, "it is replaced")


async def test_a_stream_is_ended_whichever_worker_has_it(lab: Lab) -> None:
    simulator = await lab.simulator()
    process = await lab.process(simulator.url, workers=2, admin_token=TOKEN)
    clients = {name: await streaming(lab, process.port, name) for name in ("one", "two", "three", "four")}
    for name in ("one", "two", "three"):
        assert await table(process.admin_port, "POST", f"/streams/{name}/end", token=TOKEN) == {"ended": 1}
        body, _ = await clients[name].rest()
        assert b"The operator of this relay ended this request." in body
        assert not body.endswith(LAST_CHUNK)
    assert (await told(process.admin_port, "POST", "/streams/one/end", token=TOKEN)).status == 404
    assert (await told(process.admin_port, "POST", "/streams/four/end")).status == 401
    await clients["four"].until(b"tok000030")
    await eventually(lambda: len(events(process, "access")) == 3)
    assert {line["end"] for line in events(process, "access")} == {"ended_by_operator"}
    assert {line["worker"] for line in events(process, "access")} == {0, 1}
    found = samples((await page(process.admin_port, "/metrics")).body.decode())
    assert found['flow_exchanges_total{end="ended_by_operator"}'] == 3


async def test_a_provider_that_is_out_stays_so_with_a_new_worker_and_after_a_reload(lab: Lab, tmp_path: Path) -> None:
    simulator = await lab.simulator()
    config = toml(tmp_path, {"one": simulator.url})
    control = tmp_path / "c"
    process = await lab.process(None, config=config, workers=2, control_socket=f"unix:{control}", ready="all_upstreams")
    goes_on = await streaming(lab, process.port, "goes-on")
    assert await table(control, "POST", "/upstreams/one/out") == {"upstream": "one", "out": True}
    assert await answered(lab, process.port) == {503}
    ready = await page(process.admin_port, "/readyz")
    assert (ready.status, b"one was taken out by the operator" in ready.body) == (503, True)
    await goes_on.until(b"tok000030")
    [listening] = events(process, "listening")
    for pid in listening["workers"]:
        await replaced(process, pid)
    assert await answered(lab, process.port) == {503}
    toml(tmp_path, {"one": {"url": simulator.url, "weight": 3}})
    assert (await table(control, "POST", "/reload"))["changes"] == ["upstreams.one.weight: 1 -> 3"]
    assert await answered(lab, process.port) == {503}
    shown = await table(control, "GET", "/config")
    assert (shown["out"], shown["upstreams"][0]["weight"]["value"]) == (["one"], 3)
    found = samples((await page(process.admin_port, "/metrics")).body.decode())
    assert found['flow_upstream_out{upstream="one"}'] == 1
    await table(control, "POST", "/upstreams/one/in")
    assert await answered(lab, process.port) == {200}
    assert (await page(process.admin_port, "/readyz")).status == 200


async def test_a_worker_that_dies_in_between_is_not_waited_for(lab: Lab, tmp_path: Path) -> None:
    """It is stopped when it is asked, and killed before it answers. Its successor knows what holds."""
    simulator = await lab.simulator()
    control = tmp_path / "c"
    process = await lab.process(simulator.url, workers=2, control_socket=f"unix:{control}")
    [listening] = events(process, "listening")
    pid = listening["workers"][0]
    os.kill(pid, signal.SIGSTOP)
    wire = await lab.client_at(control)
    body = b"debug"
    await wire.send(b"PUT /log-level HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    assert await wire.is_quiet(0.2)
    os.kill(pid, signal.SIGKILL)
    answer = await wire.response()
    assert (answer.status, orjson.loads(answer.body)) == (200, {"log_level": "debug"})
    await eventually(lambda: events(process, "worker_ready"), "it is replaced")
    for _ in range(4):
        client = await lab.client(process.port)
        await client.send(chat(("Connection: close",), events=3))
        assert numbers((await client.response()).body) == [0, 1, 2]
    await eventually(lambda: {line["worker"] for line in events(process, "state")} == {0, 1}, "both tell of states")


async def test_a_worker_that_does_not_answer_is_named(lab: Lab, tmp_path: Path) -> None:
    control = tmp_path / "c"
    process = await lab.process("http://127.0.0.1:9", workers=2, control_socket=f"unix:{control}")
    [listening] = events(process, "listening")
    pid = listening["workers"][1]
    os.kill(pid, signal.SIGSTOP)
    try:
        answer = await told(control, "PUT", "/log-level", body=b"debug")
        assert answer.status == 504
        assert b"did not answer in time" in answer.body
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_reload_that_fails_changes_nothing_and_says_why(lab: Lab, tmp_path: Path) -> None:
    simulator = await lab.simulator()
    config = toml(tmp_path, {"one": simulator.url})
    process = await lab.process(None, config=config, workers=2, admin_token=TOKEN)
    toml(tmp_path, {"one": "no URL"})
    answer = await told(process.admin_port, "POST", "/reload", token=TOKEN)
    assert answer.status == 422
    shown = await table(process.admin_port, "GET", "/reload", token=TOKEN)
    assert shown["result"] == "failed"
    assert orjson.loads(answer.body) == shown
    assert await answered(lab, process.port) == {200}


async def test_all_drain(lab: Lab, tmp_path: Path) -> None:
    simulator = await lab.simulator()
    control = tmp_path / "c"
    process = await lab.process(simulator.url, workers=2, control_socket=f"unix:{control}")
    clients = [await lab.client(process.port) for _ in range(2)]
    for client in clients:
        await client.send(chat(events=60, rate=100))
        await client.until(BEGUN)
    assert await table(control, "POST", "/drain") == {"draining": True, "streams": 2}
    await eventually(lambda: "draining" in process.events(), "it drains")
    assert len(orjson.loads((await told(control, "GET", "/streams")).body)) == 2
    process.signal(signal.SIGTERM)
    for client in clients:
        body, _ = await client.rest()
        assert numbers(body)[-1] == 59
        assert body.endswith(LAST_CHUNK)
    assert await process.exit_status() == 0
    assert "ending_at_once" not in process.events()
    assert not control.exists()
