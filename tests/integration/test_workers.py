"""Several workers under a parent: real processes, killed, stuck, reloaded, drained."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import resource
import signal
import ssl
from pathlib import Path
from typing import Any

import orjson
import pytest
import trustme

from tests.support.lab import Lab, RelayProcess, chat, eventually, finishes, numbers, page, samples
from tests.support.provider import ok
from tests.support.wire import LAST_CHUNK, End, Wire, request


def workers(process: RelayProcess) -> list[int]:
    """Pids of the workers that are alive, in order of their age."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        return [int(pid) for pid in text.split()]
    return []


def is_alive(pid: int) -> bool:
    """A zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def events(process: RelayProcess, event: str) -> list[dict[str, Any]]:
    return [line for line in process.lines if line["event"] == event]


async def begun(process: RelayProcess, client: Wire, **options: object) -> None:
    """Begin a stream, and wait for its first events."""
    await client.send(chat(("Connection: close",), **options))
    await client.until(b"tok000003")


async def whole(client: Wire, count: int) -> None:
    body, _ = await client.rest()
    assert numbers(body)[-1] == count - 1
    assert body.endswith(LAST_CHUNK)


async def test_workers_serve_and_end_in_order(lab: Lab) -> None:
    simulator = await lab.simulator()
    process = await lab.process(simulator.url, workers=2)
    [listening] = events(process, "listening")
    assert sorted(listening["workers"]) == sorted(workers(process))
    assert len(listening["workers"]) == 2
    assert (await page(process.admin_port, "/readyz")).status == 200
    clients = [await lab.client(process.port) for _ in range(4)]
    for client in clients:
        await begun(process, client, events=60, rate=100)
    process.signal(signal.SIGTERM)
    await eventually(lambda: "draining" in process.events(), "it drains")
    assert (await page(process.admin_port, "/readyz")).status == 503
    with pytest.raises(ConnectionRefusedError):
        await Wire.connect(process.port)
    for client in clients:
        await whole(client, 60)
    assert await process.exit_status() == 0
    access = events(process, "access")
    assert [line["worker"] for line in access].count(0) == 2, "they are spread"
    assert process.events()[-1] == "stopped"
    assert process.events().index("draining") < process.events().index("worker_ended")
    assert events(process, "draining")[0]["streams"] == 4


async def test_idle_workers_end_at_once(lab: Lab) -> None:
    process = await lab.process("http://127.0.0.1:9", workers=3)
    pids = workers(process)
    process.signal(signal.SIGTERM)
    assert await process.exit_status() == 0
    assert not any(map(is_alive, pids))


async def test_a_second_signal_ends_everything_at_once(lab: Lab) -> None:
    simulator = await lab.simulator()
    process = await lab.process(simulator.url, workers=2)
    clients = [await lab.client(process.port) for _ in range(2)]
    for client in clients:
        await begun(process, client, events=0, rate=100)
    process.signal(signal.SIGTERM)
    await eventually(lambda: "draining" in process.events(), "it drains")
    process.signal(signal.SIGTERM)
    assert await process.exit_status() == 0
    for client in clients:
        body, _ = await client.rest()
        assert not body.endswith(LAST_CHUNK)
    await eventually(lambda: {stream["state"] for stream in simulator.streams} == {"cancelled"})


async def test_a_worker_that_is_killed_loses_its_own_streams_only(lab: Lab) -> None:
    simulator = await lab.simulator()
    process = await lab.process(simulator.url, workers=2)
    before, pids = descriptors(process.pid), workers(process)
    clients = [await lab.client(process.port) for _ in range(6)]
    for client in clients:
        await begun(process, client, events=100, rate=100)
    os.kill(pids[0], signal.SIGKILL)
    ends = []
    for client in clients:
        body, _ = await client.rest()
        ends.append(body.endswith(LAST_CHUNK))
        assert not ends[-1] or numbers(body)[-1] == 99
    assert sorted(ends) == [False] * 3 + [True] * 3
    await eventually(lambda: events(process, "worker_ready"), "it is replaced")
    [death] = events(process, "worker_died")
    assert (death["pid"], death["cause"], death["streams_lost"]) == (pids[0], "SIGKILL", 3)
    assert len(workers(process)) == 2
    assert descriptors(process.pid) == before
    late = [await lab.client(process.port) for _ in range(4)]
    for client in late:
        await client.send(chat(events=3))
        assert (await client.response()).status == 200
    await eventually(lambda: len(events(process, "access")) >= 7)
    assert death["worker"] in {line["worker"] for line in events(process, "access")[-4:]}, "the new one serves"


async def test_nothing_is_left_of_a_parent_that_is_killed(lab: Lab) -> None:
    """Its workers let their streams finish, and end."""
    simulator = await lab.simulator()
    process = await lab.process(simulator.url, workers=2)
    pids = workers(process)
    client = await lab.client(process.port)
    await begun(process, client, events=60, rate=100)
    process.signal(signal.SIGKILL)
    await whole(client, 60)
    await eventually(lambda: not any(map(is_alive, pids)), "the workers end")
    with pytest.raises(ConnectionRefusedError):
        await Wire.connect(process.port)


async def test_a_stuck_worker_is_replaced(lab: Lab) -> None:
    """One that is stopped neither answers nor handles a signal."""
    provider = await lab.provider(ok)
    process = await lab.process(provider.url, workers=2, worker_timeout="3s")
    stopped = workers(process)[0]
    os.kill(stopped, signal.SIGSTOP)
    await eventually(lambda: events(process, "worker_ready"), "it is replaced")
    assert events(process, "worker_stuck")[0]["pid"] == stopped
    assert not is_alive(stopped)
    for _ in range(4):
        client = await lab.client(process.port)
        await client.send(request())
        assert (await client.response()).body == b"ok"


async def test_a_worker_told_to_end_drains_and_is_replaced(lab: Lab) -> None:
    simulator = await lab.simulator()
    process = await lab.process(simulator.url, workers=2)
    client = await lab.client(process.port)
    await begun(process, client, events=80, rate=100)
    for pid in workers(process):
        os.kill(pid, signal.SIGTERM)
    await whole(client, 80)
    await eventually(lambda: len(events(process, "worker_ready")) == 2, "both are replaced")
    assert not events(process, "worker_died")


async def test_a_worker_without_a_free_descriptor_says_so_and_goes_on(lab: Lab) -> None:
    provider = await lab.provider(ok)
    process = await lab.process(provider.url, workers=2)
    [first, second] = workers(process)
    for pid in (first, second):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(pid) + 2, 1024))
    clients = [await lab.client(process.port) for _ in range(12)]
    await eventually(lambda: events(process, "connections_lost"), "the kernel had none for them")
    for client in clients:
        client.close()
    for pid in (first, second):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (1024, 1024))
    await eventually(lambda: descriptors(first) + descriptors(second) < 40)
    client = await lab.client(process.port)
    await client.send(request())
    assert (await client.response()).body == b"ok"
    assert workers(process) == [first, second]


async def test_a_parent_without_a_free_descriptor_waits_and_says_so_once(lab: Lab) -> None:
    provider = await lab.provider(ok)
    process = await lab.process(provider.url, workers=2)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (1, 1024))
    client = await lab.client(process.port)
    await client.send(request())
    await eventually(lambda: events(process, "accept_failed"), "it says so")
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (1024, 1024))
    assert (await client.response()).body == b"ok"
    assert len(events(process, "accept_failed")) == 1


async def test_clients_connect_over_tls(lab: Lab, authority: trustme.CA, tmp_path: Path) -> None:
    issued = authority.issue_cert("127.0.0.1")
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    issued.private_key_pem.write_to_path(key)
    issued.cert_chain_pems[0].write_to_path(chain)
    simulator = await lab.simulator()
    process = await lab.process(simulator.url, workers=2, tls_cert=chain, tls_key=key)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    for _ in range(4):
        reader, writer = await asyncio.open_connection("127.0.0.1", process.port, ssl=context)
        writer.write(chat(("Connection: close",), events=5))
        body = await finishes(reader.read())
        assert numbers(body) == list(range(5))
        writer.close()
    await eventually(lambda: len(events(process, "access")) == 4)
    assert sorted(line["worker"] for line in events(process, "access")) == [0, 0, 1, 1]


def tenant_file(url: str, name: str = "provider") -> str:
    return f'[[upstreams]]\nname = "{name}"\nurl = "{url}"\n'


async def test_reload_goes_from_worker_to_worker(lab: Lab, tmp_path: Path) -> None:
    provider = await lab.provider(ok)
    file = tmp_path / "flowserver.toml"
    file.write_text(tenant_file(provider.url))
    process = await lab.process(None, config=file, workers=2)
    file.write_text("nonsense")
    process.signal(signal.SIGHUP)
    await eventually(lambda: events(process, "reload_failed"), "the parent refuses it")
    assert len(events(process, "reload_failed")) == 1
    for _ in range(2):
        client = await lab.client(process.port)
        await client.send(request())
        assert (await client.response()).body == b"ok"

    # A worker that starts anew has what holds, not what the file says.
    os.kill(workers(process)[0], signal.SIGKILL)
    await eventually(lambda: events(process, "worker_ready"), "it is replaced")

    file.write_text(tenant_file(provider.url, "other"))
    process.signal(signal.SIGHUP)
    await eventually(lambda: events(process, "reloaded"), "all have it")
    [reloaded] = events(process, "reloaded")
    assert (reloaded["upstreams"], reloaded["workers"]) == (["other"], 2)
    for _ in range(4):
        client = await lab.client(process.port)
        await client.send(request())
        assert (await client.response()).body == b"ok"
    await eventually(lambda: len(events(process, "access")) == 6)
    assert {(line["worker"], line["upstream"]) for line in events(process, "access")[-4:]} == {
        (0, "other"),
        (1, "other"),
    }


async def test_a_configuration_that_is_wrong_ends_the_start(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "flowserver.toml"
    file.write_text("nonsense")
    process = RelayProcess({"FLOW_CONFIG": str(file), "FLOW_WORKERS": "2", "FLOW_LISTEN": "127.0.0.1:0"})
    with pytest.raises(AssertionError):
        async with asyncio.timeout(10):
            await asyncio.gather(process.start(), _fails_when_over(process))
    assert await process.exit_status() == os.EX_CONFIG
    assert b"flowserver.toml" in process.complaints
    await process.close()


async def _fails_when_over(process: RelayProcess) -> None:
    await asyncio.sleep(0.1)
    await process.ended()
    raise AssertionError("it has ended")


async def test_the_admin_pages_are_those_of_all(lab: Lab) -> None:
    simulator = await lab.simulator()
    process = await lab.process(simulator.url, workers=2)
    clients = [await lab.client(process.port) for _ in range(4)]
    for client in clients:
        await begun(process, client, events=0, rate=50)
    rows = orjson.loads((await page(process.admin_port, "/streams")).body)
    assert sorted(row["worker"] for row in rows) == ["0", "0", "1", "1"]
    figures = samples((await page(process.admin_port, "/metrics")).body.decode())
    assert figures["flow_streams_open"] == 4
    assert figures["flow_workers"] == 2
    assert figures['flow_worker_up{worker="1"}'] == 1
    assert figures['flow_worker_load{worker="0"}'] == 2
    os.kill(workers(process)[0], signal.SIGKILL)
    await eventually(lambda: events(process, "worker_ready"), "it is replaced")
    figures = samples((await page(process.admin_port, "/metrics")).body.decode())
    assert figures["flow_streams_open"] == 2
    assert figures['flow_worker_restarts_total{reason="signal"}'] == 1


async def test_probes_are_answered_while_all_workers_are_stuck(lab: Lab) -> None:
    process = await lab.process("http://127.0.0.1:9", workers=2)
    for pid in workers(process):
        os.kill(pid, signal.SIGSTOP)
    try:
        assert (await page(process.admin_port, "/healthz")).status == 200
        figures = samples((await page(process.admin_port, "/metrics")).body.decode())
        assert figures['flow_worker_up{worker="0"}'] == 0
    finally:
        for pid in workers(process):
            os.kill(pid, signal.SIGCONT)


KEY = "fs-key"


def limited(url: str, limits: str) -> str:
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    return tenant_file(url) + f'[[tenants]]\nname = "acme"\nkey_sha256 = "{digest}"\n{limits}\n'


async def test_limits_hold_over_all_workers(lab: Lab, tmp_path: Path) -> None:
    simulator = await lab.simulator()
    file = tmp_path / "flowserver.toml"
    file.write_text(limited(simulator.url, "requests_per_minute = 10"))
    process = await lab.process(None, config=file, workers=3)

    async def status() -> int:
        client = await lab.client(process.port)
        await client.send(chat((f"Authorization: Bearer {KEY}",), events=3))
        return (await client.response()).status

    found = await asyncio.gather(*(status() for _ in range(40)))
    assert sorted(found) == [200] * 10 + [429] * 30


async def test_what_a_killed_worker_held_comes_back(lab: Lab, tmp_path: Path) -> None:
    simulator = await lab.simulator()
    file = tmp_path / "flowserver.toml"
    file.write_text(limited(simulator.url, "concurrent = 4"))
    process = await lab.process(None, config=file, workers=2)
    key = f"Authorization: Bearer {KEY}"

    async def begin() -> bool:
        client = await lab.client(process.port)
        await client.send(chat((key,), events=0, rate=100))
        return (await client.head()).status == 200

    assert [await begin() for _ in range(6)] == [True] * 4 + [False] * 2
    os.kill(workers(process)[0], signal.SIGKILL)
    await eventually(lambda: events(process, "worker_ready"), "it is replaced")
    assert sorted([await begin() for _ in range(4)]) == [False] * 2 + [True] * 2


async def test_the_limit_of_connections_holds_over_all_workers(lab: Lab) -> None:
    provider = await lab.provider(ok)
    process = await lab.process(provider.url, workers=2, max_connections=4)
    for _ in range(4):
        client = await lab.client(process.port)
        await client.send(request())
        assert (await client.response()).status == 200
    client = await lab.client(process.port)
    assert (await client.response()).status == 503
    assert await client.rest() == (b"", End.CLOSED)


async def test_a_ctrl_c_of_a_terminal_drains_and_breaks_nothing(lab: Lab) -> None:
    """It reaches the whole group: here, each process for itself."""
    simulator = await lab.simulator()
    process = await lab.process(simulator.url, workers=2)
    client = await lab.client(process.port)
    await begun(process, client, events=50, rate=100)
    for pid in (*workers(process), process.pid):
        os.kill(pid, signal.SIGINT)
    await whole(client, 50)
    assert await process.exit_status() == 0
    assert not events(process, "worker_died")
