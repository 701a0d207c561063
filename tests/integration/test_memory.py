"""A relay with a bound of its memory, under clients that fill it: real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import orjson
import pytest

from flowserver.http import messages
from tests.support.h2_lab import Certificates, ask, h2_client
from tests.support.h2_wire import H2Wire
from tests.support.lab import LISTENING, Lab, RelayProcess, chat, eventually, page, samples
from tests.support.provider import Caller
from tests.support.wire import Message, Wire, request

MB = 1 << 20
IS_PURE = messages.__file__.endswith(".py")
BUDGET = 80 if IS_PURE else 120  # of which the compiled package takes more at the start
WORKERS_BUDGET = 260 if IS_PURE else 320
"""MB. A process takes 48 of them, or 60 where coverage is measured."""
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"so much " * 500 + b'"},"finish_reason":null}]}\n\n'


def peak(process: RelayProcess) -> float:
    """The most MB that were ever resident."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def levels(process: RelayProcess) -> list[str]:
    return [str(line["now"]) for line in process.lines if line["event"] == "memory_level"]


def ends(process: RelayProcess) -> list[str]:
    return [str(line["end"]) for line in process.lines if line["event"] == "access"]


async def figures(process: RelayProcess) -> dict[str, float]:
    return samples((await page(process.admin_port, "/metrics")).body.decode())


async def status_of(lab: Lab, process: RelayProcess, *headers: str) -> tuple[int, str | None]:
    """Of a short request on a connection of its own, with `retry-after`; 0 where it was closed without a word."""
    wire = await lab.client(process.port)
    try:
        await wire.send(chat(headers, events=1))
        answer = await wire.response()
    except (EOFError, OSError):
        return 0, None
    finally:
        wire.close()
    return answer.status, answer.get("retry-after")


async def flood(caller: Caller) -> None:
    """As much as is taken, of what is never to end."""
    await caller.request()
    await caller.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        await caller.send(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))


async def has_ended(client: H2Wire) -> bool:
    with contextlib.suppress(OSError, EOFError, TimeoutError):
        await client.ended()
        return True
    return False


async def stalled(lab: Lab, process: RelayProcess, count: int) -> list[Wire]:
    """Clients that ask and never read."""
    wires = [await lab.client(process.port, receive_buffer=4096) for _ in range(count)]
    for wire in wires:
        await wire.send(chat())
    return wires


async def test_stalled_clients_are_refused_and_cut_and_memory_is_kept(lab: Lab) -> None:
    provider = await lab.provider(flood)
    process = await lab.process(provider.url, memory=f"{BUDGET}m", stall_timeout="off")
    wires: list[Wire] = []
    while "full" not in levels(process) and len(wires) < 2000:
        wires += await stalled(lab, process, 50)
        await asyncio.sleep(0.05)
    assert "full" in levels(process)
    assert peak(process) <= BUDGET * 1.05
    for wire in wires:
        wire.close()
    await eventually(lambda: levels(process)[-1] in ("normal", "tight"), "memory is returned")
    told = await figures(process)
    assert told["flow_memory_budget_bytes"] == BUDGET * MB
    assert told["flow_memory_level"] <= 1
    assert told['flow_memory_used_bytes{holder="process"}'] > 20 * MB
    assert told["flow_memory_counted_bytes"] < BUDGET * MB
    assert ends(process).count("memory") == told["flow_memory_cuts_total"]


async def test_bodies_wait_for_one_another_and_requests_without_them_go_on(lab: Lab) -> None:
    simulator = await lab.simulator()
    process = await lab.process(simulator.url, memory="128m")
    body = orjson.dumps({"model": "x", "messages": [{"role": "user", "content": "x" * (24 * MB)}]})

    async def upload() -> int:
        wire = await lab.client(process.port)
        await wire.send(request("POST", "/v1/chat/completions", ["Content-Type: application/json"], body=body))
        answer = await wire.response()
        wire.close()
        return answer.status

    uploads = [asyncio.create_task(upload()) for _ in range(8)]
    found = [await status_of(lab, process) for _ in range(10)]
    assert found == [(200, None)] * 10
    statuses = await asyncio.gather(*uploads)
    assert statuses.count(200) >= 4, statuses
    assert {*statuses} <= {200, 503}
    assert peak(process) <= 128 * 1.05


@pytest.mark.parametrize(
    ("framing", "begin"),
    [(f"Content-Length: {32 * MB}", b""), ("Transfer-Encoding: chunked", b"%x\r\n" % (32 * MB))],
    ids=["announced", "chunked"],
)
async def test_large_uploads_that_stop_give_way_to_requests_without_them(lab: Lab, framing: str, begin: bytes) -> None:
    simulator = await lab.simulator()
    process = await lab.process(simulator.url, memory="160m")
    head = [framing, "Content-Type: application/json"]
    wires: list[Wire] = []
    while "no_batch" not in levels(process) and len(wires) < 2000:
        for _ in range(10):
            wires.append(await lab.client(process.port))
            await wires[-1].send(request("POST", "/v1/chat/completions", head))
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(wires[-1].send(begin + b'{"messages": "' + b"x" * MB), 0.02)
    await eventually(lambda: "memory" in ends(process), "some are ended")
    served: list[tuple[int, str | None]] = []
    async with asyncio.timeout(20):
        while served != [(200, None)] * 5:
            served = [await status_of(lab, process) for _ in range(5)]
    assert peak(process) <= 160 * 1.05
    for wire in wires:
        wire.close()


async def test_a_body_that_can_never_fit_is_refused(lab: Lab) -> None:
    simulator = await lab.simulator()
    process = await lab.process(simulator.url, memory=f"{BUDGET}m")
    wire = await lab.client(process.port)
    head = [f"Content-Length: {60 * MB}", "Content-Type: application/json"]
    await wire.send(request("POST", "/v1/chat/completions", head))

    async def send() -> None:
        piece = b'{"messages": "' + b"x" * MB
        while True:
            await wire.send(piece)

    sending = asyncio.create_task(send())
    answer = await wire.response()
    sending.cancel()
    assert (answer.status, orjson.loads(answer.body)["error"]["code"]) == (503, "overloaded")
    assert b"FLOW_MEMORY" in answer.body
    await eventually(lambda: ends(process) == ["memory"])
    assert peak(process) <= BUDGET * 1.05
    await eventually(lambda: levels(process)[-1] == "normal", "memory is returned")
    assert (await status_of(lab, process))[0] == 200


@pytest.mark.parametrize("tls", [False, True])
async def test_connections_that_are_idle_for_longest_make_room_for_requests(
    lab: Lab, tmp_path: Path, tls: bool
) -> None:
    simulator = await lab.simulator()
    certificates = Certificates(tmp_path)
    process = await lab.process(simulator.url, memory=f"{BUDGET}m", **(certificates.settings if tls else {}))
    context = certificates.client("h2") if tls else None
    clients: list[H2Wire] = []
    closed = 0.0
    while not closed and len(clients) < 6000:
        for _ in range(50):
            clients.append(await h2_client(lab, process.port, tls=context))
        closed = (await figures(process))["flow_memory_idle_closed_total"]
        await asyncio.sleep(0.1)  # those that are younger than a second stay
    assert closed, "so many are no load"
    assert "full" not in levels(process)
    assert peak(process) <= BUDGET * 1.05
    client = await h2_client(lab, process.port, tls=context)
    stream = ask(client, events=1)
    await client.flush()
    assert (await client.answer(stream)).status == 200
    told = await figures(process)
    assert told["flow_memory_idle_closed_total"] < len(clients) / 2, "as many as it takes"
    for _ in range(50):  # more may be closed while the page is made, which takes several iterations
        if told['flow_h2_goaways_total{reason="memory"}'] == told["flow_memory_idle_closed_total"]:
            return
        await asyncio.sleep(0.1)
        told = await figures(process)
    pytest.fail(f"each is told that it is closed: {told}")


async def unready(lab: Lab, process: RelayProcess) -> Message:
    """What /readyz says when it is not ready. More clients come until then: a level may end again where more was
    expected of streams than they hold, and the compiled package has another size at the start."""
    for _ in range(60):
        answer = await page(process.admin_port, "/readyz")
        if answer.status == 503:
            return answer
        await stalled(lab, process, 20)
        await asyncio.sleep(0.1)  # what they get has to come
    raise AssertionError("it stays ready")


async def test_readiness_tells_of_memory(lab: Lab) -> None:
    provider = await lab.provider(flood)
    process = await lab.process(provider.url, memory=f"{BUDGET}m", stall_timeout="off", ready_memory="tight")
    assert (await page(process.admin_port, "/readyz")).status == 200
    await stalled(lab, process, 200)
    assert (await unready(lab, process)).body == b"short of memory\n"
    assert (await page(process.admin_port, "/healthz")).status == 200


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_budget_that_is_too_small_is_refused(workers: int) -> None:
    environ = {**os.environ, **LISTENING, "FLOW_UPSTREAM": "http://127.0.0.1:9", "FLOW_MEMORY": "32m"}
    environ["FLOW_WORKERS"] = str(workers)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "flowserver",
        "serve",
        env=environ,
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    _, complaints = await process.communicate()
    assert process.returncode == os.EX_CONFIG
    assert b"FLOW_MEMORY: too small" in complaints
    assert b"expected at least" in complaints


async def test_workers_share_it(lab: Lab) -> None:
    provider = await lab.provider(flood)
    process = await lab.process(
        provider.url, memory=f"{WORKERS_BUDGET}m", workers=2, stall_timeout="off", ready_memory="tight"
    )
    told = await figures(process)
    assert told["flow_memory_budget_bytes"] == (WORKERS_BUDGET - 64) // 2 * 2 * MB
    assert (await page(process.admin_port, "/readyz")).status == 200
    await stalled(lab, process, 400)
    assert (await unready(lab, process)).body == b"no worker is ready\n"
    await eventually(lambda: {line["worker"] for line in process.lines if line["event"] == "memory_level"} == {0, 1})
