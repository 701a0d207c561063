"""The units, checked by systemd's own tools and run by a real systemd where there can be one."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.support.lab import Lab, chat, eventually, free_port, numbers, page
from tests.support.peers import program, run
from tests.support.systemd import UNITS, Systemd, install_units, systemd_version
from tests.support.wire import LAST_CHUNK

SOCKETS = ("flowserver.socket", "flowserver-admin.socket")


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that the service's user may enter."""
    with tempfile.TemporaryDirectory() as name:
        made = Path(name)
        made.chmod(0o755)
        yield made


@pytest.fixture
async def systemd(folder: Path) -> AsyncIterator[Systemd]:
    made = Systemd(folder)
    yield made
    await made.close()


# --- its tools ---


async def test_systemd_finds_no_mistake_in_the_units(tmp_path: Path) -> None:
    install_units(tmp_path, "credentials.conf", own="[Service]\nExecStart=\nExecStart=/bin/true serve\n")
    (tmp_path / "flowserver.service").write_text(
        (UNITS / "flowserver.service").read_text().replace("/opt/flowserver/bin/flowserver", "/bin/true")
    )
    for unit in ("flowserver.service", *SOCKETS):
        status, _, said = await run(program("systemd-analyze"), "verify", str(tmp_path / unit))
        complaints = said.decode().splitlines()
        if systemd_version() < 253:
            complaints = [line for line in complaints if not line.endswith("service type, ignoring: notify-reload")]
        assert (status, complaints) == (0, [])


async def test_systemd_finds_little_exposed(tmp_path: Path) -> None:
    options = ("security", "--offline=yes", "--no-pager")
    status, out, err = await run(program("systemd-analyze"), *options, str(UNITS / "flowserver.service"))
    if status and b"unrecognized option" in err:
        pytest.skip("this systemd can't look at a unit that is not loaded")
    [level] = re.findall(r"Overall exposure level for flowserver.service: ([0-9.]+)", out.decode())
    assert float(level) <= 1.5


# --- systemd itself ---


def _own(url: str, listen: int, admin: int, *lines: str) -> str:
    settings = {"LISTEN": f"127.0.0.1:{listen}", "ADMIN_LISTEN": f"127.0.0.1:{admin}", "UPSTREAM": url}
    return "\n".join([*(f"Environment=FLOW_{name}={value}" for name, value in settings.items()), *lines, ""])


async def test_it_starts_reloads_and_is_given_the_time_that_it_needs(lab: Lab, systemd: Systemd) -> None:
    simulator = await lab.simulator()
    port, admin = free_port(), free_port()
    await systemd.start(own=_own(simulator.url, port, admin, "TimeoutStopSec=1"))
    assert await systemd.systemctl("start", "flowserver") == (0, "")
    # It has told that it is ready, so it is.
    assert (await page(admin, "/readyz")).status == 200
    shown = await systemd.show("flowserver", "StatusText", "ActiveState", "NotifyAccess", "Type")
    kind = "notify-reload" if systemd_version() >= 253 else "notify"
    assert shown == {
        "StatusText": "serving; 0 streams open",
        "ActiveState": "active",
        "NotifyAccess": "main",
        "Type": kind,
    }
    assert await systemd.systemctl("reload", "flowserver") == (0, "")
    await eventually(lambda: '"reloaded"' in systemd.log())
    assert (await systemd.show("flowserver", "ActiveState"))["ActiveState"] == "active"

    client = await lab.client(port)
    await client.send(chat(events=300, rate=100))
    await client.until(b"tok000003")
    stopping = asyncio.create_task(systemd.systemctl("stop", "flowserver"))
    body, _ = await client.rest()
    assert numbers(body)[-1] == 299
    assert body.endswith(LAST_CHUNK)
    assert await stopping == (0, "")
    shown = await systemd.show("flowserver", "Result", "ActiveState")
    assert shown == {"Result": "success", "ActiveState": "inactive"}


async def test_the_control_socket_of_the_guide_is_roots_way_in(lab: Lab, systemd: Systemd) -> None:
    guide = (UNITS.parent / "docs/guides/systemd.md").read_text(encoding="utf-8")
    [lines] = re.findall(r"```ini\n\[Service\]\n(.*?)```", guide, re.DOTALL)
    [path] = re.findall(r"=unix:(\S+)", lines)
    simulator = await lab.simulator()
    await systemd.start(own=_own(simulator.url, free_port(), free_port(), lines))
    assert await systemd.systemctl("start", "flowserver") == (0, "")
    control = (sys.executable, "-m", "flowserver", "ctl", "--socket", path)
    assert await systemd.run(*control, "log-level", "warning") == (0, "the log level is warning\n")
    assert (await systemd.run("stat", "--format=%a", path))[1].strip() == "600"


async def _serving(systemd: Systemd) -> str:
    """The id of the service's main process, once that serves."""

    async def serves() -> bool:
        shown = await systemd.show("flowserver", "ActiveState", "StatusText")
        return shown["ActiveState"] == "active" and shown["StatusText"].startswith("serving")

    await _comes(serves)
    return (await systemd.show("flowserver", "MainPID"))["MainPID"]


async def test_a_restart_on_systemd_s_sockets_breaks_no_stream_and_waits_for_none(lab: Lab, systemd: Systemd) -> None:
    simulator = await lab.simulator()
    port, admin = free_port(), free_port()
    own = _own(simulator.url, port, admin, "Environment=FLOW_WORKERS=2")
    await systemd.start("restart.conf", own=own, ports=dict(zip(SOCKETS, (port, admin), strict=True)))
    assert await systemd.systemctl("start", *SOCKETS, "flowserver") == (0, "")
    before = await _serving(systemd)
    client = await lab.client(port)
    await client.send(chat(events=800, rate=100))
    await client.until(b"tok000003")
    assert await systemd.systemctl("restart", "flowserver") == (0, "")
    assert await _serving(systemd) != before
    for _ in range(4):
        other = await lab.client(port)
        await other.send(chat(events=3))
        assert numbers((await other.response()).body) == [0, 1, 2]
    assert systemd.log().count('"stopped"') == 0  # the stream is still under way
    body, _ = await client.rest()
    assert numbers(body)[-1] == 799
    assert body.endswith(LAST_CHUNK)
    await eventually(lambda: systemd.log().count('"stopped"') == 1)
    assert "Traceback" not in systemd.log()


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_new_version_becomes_the_main_process(lab: Lab, systemd: Systemd, workers: int) -> None:
    simulator = await lab.simulator()
    port, admin = free_port(), free_port()
    await systemd.start(own=_own(simulator.url, port, admin, f"Environment=FLOW_WORKERS={workers}", "WatchdogSec=2"))
    assert await systemd.systemctl("start", "flowserver") == (0, "")
    before = await _serving(systemd)
    client = await lab.client(port)
    await client.send(chat(events=500, rate=100))
    await client.until(b"tok000003")
    await systemd.systemctl("kill", "--kill-who=main", "--signal=USR2", "flowserver")

    async def is_another() -> bool:
        return (await systemd.show("flowserver", "MainPID"))["MainPID"] not in (before, "0")

    await _comes(is_another)
    other = await lab.client(port)
    await other.send(chat(events=3))
    assert numbers((await other.response()).body) == [0, 1, 2]
    body, _ = await client.rest()
    assert numbers(body)[-1] == 499
    assert body.endswith(LAST_CHUNK)
    await eventually(lambda: systemd.log().count('"stopped"') == 1)
    await asyncio.sleep(3)  # longer than the watchdog waits for the new one
    shown = await systemd.show("flowserver", "ActiveState", "NRestarts")
    assert shown == {"ActiveState": "active", "NRestarts": "0"}


async def test_one_that_stands_still_is_replaced(systemd: Systemd) -> None:
    port, admin = free_port(), free_port()
    await systemd.start(own=_own("http://127.0.0.1:9", port, admin, "WatchdogSec=1", "TimeoutAbortSec=1"))
    assert await systemd.systemctl("start", "flowserver") == (0, "")
    await asyncio.sleep(2.5)
    assert (await systemd.show("flowserver", "NRestarts"))["NRestarts"] == "0"
    await systemd.systemctl("kill", "--kill-who=main", "--signal=STOP", "flowserver")

    async def is_replaced() -> bool:
        shown = await systemd.show("flowserver", "NRestarts", "ActiveState")
        return shown == {"NRestarts": "1", "ActiveState": "active"}

    await _comes(is_replaced)
    assert (await page(admin, "/readyz")).status == 200


async def test_a_mistake_is_not_tried_again_and_an_address_in_use_is(systemd: Systemd) -> None:
    admin = free_port()
    taken = socket.create_server(("127.0.0.1", 0))
    port = int(taken.getsockname()[1])
    with taken:
        await systemd.start(own=_own("http://127.0.0.1:9", port, admin, "EnvironmentFile=-/run/mistake"))
        await _tries_in_vain(systemd)

    async def serves() -> bool:
        return (await systemd.show("flowserver", "ActiveState"))["ActiveState"] == "active"

    await _comes(serves)
    systemd.write("/run/mistake", "FLOW_IDLE_TIMEOUT=soon\n")
    await systemd.systemctl("restart", "flowserver")
    await asyncio.sleep(2)
    shown = await systemd.show("flowserver", "ActiveState", "ExecMainStatus", "NRestarts")
    assert shown == {"ActiveState": "failed", "ExecMainStatus": str(os.EX_CONFIG), "NRestarts": "0"}
    assert "FLOW_IDLE_TIMEOUT: invalid value 'soon'" in systemd.log()


async def _tries_in_vain(systemd: Systemd) -> None:
    status, _ = await systemd.systemctl("start", "flowserver")
    assert status

    async def has_tried() -> bool:
        return int((await systemd.show("flowserver", "NRestarts"))["NRestarts"]) >= 2

    await _comes(has_tried)


async def test_the_file_and_keys_may_be_root_s_alone(lab: Lab, systemd: Systemd) -> None:
    simulator = await lab.simulator()
    port, admin = free_port(), free_port()
    secret = systemd.folder / "openai.key"
    secret.write_text("sk-provider\n")
    file = systemd.folder / "flowserver.toml"
    file.write_text(f'[[upstreams]]\nname = "a"\nurl = "{simulator.url}"\napi_key = "credential:openai.key"\n')
    for each in (secret, file):
        each.chmod(0o600)
    loaded = [f"LoadCredential={each.name}:{each}" for each in (file, secret)]
    own = _own("", port, admin, "LoadCredential=", *loaded)
    await systemd.start("credentials.conf", own=own)
    assert await systemd.systemctl("start", "flowserver") == (0, "")
    client = await lab.client(port)
    await client.send(chat(events=3))
    assert numbers((await client.response()).body) == [0, 1, 2]


async def _comes(condition: Callable[[], Awaitable[bool]], within: float = 30) -> None:
    deadline = asyncio.get_running_loop().time() + within
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline, f"never happened: {condition}"
        await asyncio.sleep(0.2)
