"""A new version takes over: in each of the three ways under load, and what becomes of what is there just then."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import orjson
import pytest

from bench.restarts import WAYS, Settings, measure
from tests.support.lab import Lab, RelayProcess, chat, eventually, free_port, numbers, page
from tests.support.provider import ok
from tests.support.wire import LAST_CHUNK, End, Wire, request

SMALL = Settings(restarts=3, failures=1, new_per_second=30, long_streams=20, long_seconds=4, kept=5)


@pytest.mark.serial
@pytest.mark.parametrize("way", WAYS)
def test_no_client_notices_a_restart(way: str) -> None:
    outcome = measure(way, SMALL)
    tally = outcome.tally
    assert (tally.refused, tally.broken, tally.lost) == (0, 0, 0), tally.problems
    assert len(outcome.seconds) == 3
    assert outcome.failed == (1 if way == "SIGUSR2" else 0)
    assert outcome.left == 0
    assert min(tally.whole[kind] for kind in ("short", "long", "kept")) > 0


class Replaced:
    """A relay whose successors end with the test."""

    def __init__(self, process: RelayProcess) -> None:
        self.process = process

    async def replace(self) -> int:
        """Returns the successor's process id once it has taken over."""
        self.process.signal(signal.SIGUSR2)
        await eventually(lambda: self._events("handed_over"), "it is replaced")
        return int(str(self._events("handed_over")[-1]["successor"]))

    def _events(self, name: str) -> list[dict[str, object]]:
        return [line for line in self.process.lines if line["event"] == name]

    def end(self) -> None:
        for line in self._events("handed_over"):
            os.kill(int(str(line["successor"])), signal.SIGKILL)


async def _replaceable(lab: Lab, url: str | None, **settings: object) -> Replaced:
    replaced = Replaced(await lab.process(url, **settings))
    lab.on_exit(replaced.end)
    return replaced


async def test_the_old_one_finishes_its_streams_and_the_new_one_has_the_rest(lab: Lab) -> None:
    simulator = await lab.simulator()
    relay = await _replaceable(lab, simulator.url)
    process = relay.process
    streaming = await lab.client(process.port)
    await streaming.send(chat(events=200, rate=100))
    await streaming.until(b"tok000003")
    successor = await relay.replace()
    assert successor != process.pid
    assert process.returncode is None
    for _ in range(5):
        assert (await page(process.admin_port, "/readyz")).status == 200
    client = await lab.client(process.port)
    await client.send(chat(events=5))
    answer = await client.response()
    assert (numbers(answer.body), answer.get("connection")) == (list(range(5)), None)
    body, end = await streaming.rest()
    assert numbers(body)[-1] == 199
    assert body.endswith(LAST_CHUNK)
    assert end is End.CLOSED
    assert await process.ended() == 0


async def test_connections_that_are_there_get_one_more_answer(lab: Lab) -> None:
    provider = await lab.provider(ok)
    relay = await _replaceable(lab, provider.url)
    new, kept, silent = [await lab.client(relay.process.port) for _ in range(3)]
    for client in (kept, silent):
        await client.send(request())
        assert (await client.response()).get("connection") is None
    await relay.replace()
    for client in (new, kept):
        await client.send(request())
        answer = await client.response()
        assert (answer.body, answer.get("connection")) == (b"ok", "close")
        assert await client.rest() == (b"", End.CLOSED)
    assert await silent.rest() == (b"", End.CLOSED)
    assert await relay.process.ended() == 0


async def test_a_successor_that_fails_changes_nothing_and_the_next_reads_the_file_anew(
    lab: Lab, tmp_path: Path
) -> None:
    first, second = await lab.provider(ok), await lab.provider(ok)
    file = tmp_path / "flow.toml"

    def point_to(url: str) -> None:
        file.write_text(f'[[upstreams]]\nname = "a"\nurl = "{url}"\n')

    point_to(first.url)
    relay = await _replaceable(lab, None, config=file)
    process = relay.process
    point_to("nowhere")
    process.signal(signal.SIGUSR2)
    await eventually(lambda: "handover_failed" in process.events(), "it fails")
    [line] = [line for line in process.lines if line["event"] == "handover_failed"]
    assert str(file) in line["reason"]
    assert "nowhere" in line["reason"]
    client = await lab.client(process.port)
    await client.send(request())
    answer = await client.response()
    assert (answer.body, answer.get("connection")) == (b"ok", None)
    assert (len(first.requests), len(second.requests)) == (1, 0)
    assert (await page(process.admin_port, "/readyz")).status == 200

    point_to(second.url)
    await relay.replace()
    client = await lab.client(process.port)
    await client.send(request())
    assert (await client.response()).body == b"ok"
    assert len(second.requests) == 1


async def test_sigterm_while_a_successor_starts_ends_both(lab: Lab) -> None:
    relay = await lab.process("http://127.0.0.1:9")
    relay.signal(signal.SIGUSR2)
    await eventually(lambda: "handover_started" in relay.events())
    relay.signal(signal.SIGTERM)
    assert await relay.exit_status() == 0  # and nobody else holds its standard output
    assert "handed_over" not in relay.events()
    assert relay.events()[-1] == "stopped"


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="systemd-socket-activate is not there")
@pytest.mark.parametrize("names", ["clients:admin", None])
async def test_systemd_passes_the_sockets(lab: Lab, names: str | None) -> None:
    provider = await lab.provider(ok)
    port, admin = free_port(), free_port()
    environ = {
        "FLOW_UPSTREAM": provider.url,
        "FLOW_LISTEN": "192.0.2.1:1",  # which nobody can bind
        "FLOW_ADMIN_LISTEN": f"127.0.0.1:{admin}",
    }
    passes = [f"--setenv={name}={value}" for name, value in environ.items()]
    listens = [f"--listen=127.0.0.1:{number}" for number in (port, admin)]
    naming = [] if names is None else [f"--fdname={names}"]
    process = await asyncio.create_subprocess_exec(
        "systemd-socket-activate", *listens, *naming, *passes, sys.executable, "-m", "flowserver", "serve",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await eventually(lambda: _accepts(port), "systemd listens")
        client = await lab.client(port)
        await client.send(request())
        assert (await client.response()).body == b"ok"
        assert (await page(admin, "/readyz")).status == 200
        assert process.stdout is not None
        line = orjson.loads(await process.stdout.readline())
        assert line["listen"] == [f"127.0.0.1:{port}"]
        assert (line["admin"], line["passed_by"]) == (f"127.0.0.1:{admin}", "LISTEN_FDS")
        process.send_signal(signal.SIGTERM)
        assert (await client.rest())[1] is End.CLOSED
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _accepts(port: int) -> bool:
    """Whether somebody listens; a connection would start the relay."""
    wanted = f"0100007F:{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return any(line.split()[1] == wanted and line.split()[3] == "0A" for line in lines)


@pytest.mark.parametrize("which", [0, 1], ids=["old", "new"])
async def test_of_two_that_share_their_addresses_either_may_leave(lab: Lab, which: int) -> None:
    provider = await lab.provider(ok)
    addresses = {"listen": f"127.0.0.1:{free_port()}", "admin_listen": f"127.0.0.1:{free_port()}"}
    both = [await lab.process(provider.url, reuse_port="on", **addresses) for _ in range(2)]
    leaving, staying = both[which], both[1 - which]
    leaving.signal(signal.SIGTERM)
    await eventually(lambda: "draining" in leaving.events())
    asked = 0
    while leaving.returncode is None:
        client = await Wire.connect(staying.port)
        await client.send(request())
        assert (await client.response()).body == b"ok"
        client.close()
        asked += 1
        await asyncio.sleep(0.01)
    assert asked > 10
    assert len(provider.requests) == asked
    assert (await page(staying.admin_port, "/readyz")).status == 200
