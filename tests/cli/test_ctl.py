"""`flowserver ctl`, against a relay on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import orjson
import pytest

from flowserver.cli.ctl import main
from tests.support.admin import TOKEN
from tests.support.lab import Lab, chat, eventually, free_port
from tests.support.provider import ok
from tests.support.topology import toml

Run = Callable[..., Awaitable[str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command beside the relay. Returns what it printed; with another status than 0, what it complained of."""

    async def run(*arguments: str, status: int = 0, **environ: str) -> str:
        assert await asyncio.to_thread(main, arguments, environ) == status
        printed = capsys.readouterr()
        return printed.err if status else printed.out

    return run


async def test_all_that_it_can_do(lab: Lab, tmp_path: Path, run: Run) -> None:
    simulator = await lab.simulator()
    config = toml(tmp_path, {"one": {"url": simulator.url, "headers": {"x-secret": "hidden"}}})
    socket = f"{tmp_path}/c"
    relay = await lab.relay(None, config=config, control_socket=f"unix:{socket}")
    client = await lab.client(relay.port)
    await client.send(chat(("x-request-id: some",), events=0, rate=100))
    await client.until(b"tok000003")

    async def ctl(*arguments: str, status: int = 0) -> str:
        return await run("--socket", socket, *arguments, status=status)

    listed = (await ctl("streams")).splitlines()
    assert len(listed) == 2
    assert listed[1].split()[:2] == ["some", "streaming"]
    [stream] = orjson.loads(await ctl("streams", "--json"))
    assert stream["upstream"] == "one"
    assert await ctl("end", "some") == "ended 1 stream\n"
    await client.rest()
    assert await ctl("end", "some", status=1) == "flowserver: there is no open stream 'some'; /streams lists them\n"
    assert await ctl("out", "one") == "one gets no new requests\n"
    assert "\nout: one\n" in await ctl("config")
    assert await ctl("in", "one") == "one gets requests\n"
    assert "expected one of one" in await ctl("out", "two", status=1)
    assert await ctl("log-level", "error") == "the log level is error\n"
    shown = await ctl("config")
    assert "hidden" not in shown
    assert ["FLOW_LOG_LEVEL", "error", "changed", "at", "run", "time"] in [line.split() for line in shown.splitlines()]
    assert "headers             ***" in shown
    assert orjson.loads(await ctl("config", "--json"))["file"] == config
    assert await ctl("reload", "--show") == "no reload since it started\n"
    toml(tmp_path, {"one": {"url": simulator.url, "weight": 2}})
    told = await ctl("reload")
    assert told.startswith("reloaded at 20")
    assert "\n  upstreams.one.weight: 1 -> 2\n" in told
    assert await ctl("reload", "--show") == told
    toml(tmp_path, {"one": {"url": simulator.url, "weight": 0}})
    assert "the reload failed:\n  " in await ctl("reload", status=1)
    assert (await ctl("reload", "--show")).startswith("failed at 20")


async def test_where_the_relay_is_asked_and_with_what(lab: Lab, tmp_path: Path, run: Run) -> None:
    _, relay, _ = await lab.simulated(admin_token=TOKEN, admin_hosts="*", control_socket=f"unix:{tmp_path}/c")
    url = f"http://127.0.0.1:{relay.admin_port}"
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    for where, environ in (
        (("--url", url, "--token-file", str(token)), {}),
        (("--url", url + "/"), {"FLOW_ADMIN_TOKEN": TOKEN}),
        (("--url", url), {"FLOW_ADMIN_TOKEN": f"file:{token}"}),
        (("--socket", f"unix:{tmp_path}/c"), {}),
        ((), {"FLOW_CONTROL_SOCKET": f"unix:{tmp_path}/c"}),
    ):
        assert await run(*where, "log-level", "info", **environ) == "the log level is info\n"
    assert "FLOW_ADMIN_TOKEN" in await run("--url", url, "reload", status=1)
    token.write_text("another-token-that-is-wrong")
    assert "not the token" in await run("--url", url, "--token-file", str(token), "reload", status=1)


@pytest.mark.parametrize(
    ("arguments", "environ", "complaint"),
    [
        ((), {}, "which relay? Give --socket PATH or --url URL, or set FLOW_CONTROL_SOCKET"),
        ((), {"FLOW_CONTROL_SOCKET": "off"}, "which relay?"),
        (
            ("--socket", "/nowhere/c"),
            {},
            "unix:/nowhere/c can't be reached: No such file or directory; is the relay running",
        ),
        (("--url", f"http://127.0.0.1:{free_port()}"), {}, "Connection refused; is the relay running?"),
        (("--url", "127.0.0.1:9090"), {}, "expected a URL such as http://127.0.0.1:9090"),
        (("--url", "http://127.0.0.1:x"), {}, "expected a URL such as http://127.0.0.1:9090"),
        (("--url", "http://127.0.0.1:1", "--token-file", "/nowhere/t"), {}, "/nowhere/t can't be read: No such file"),
        (("--url", "http://127.0.0.1:1"), {"FLOW_ADMIN_TOKEN": "env:NOTHING"}, "the variable NOTHING is not set"),
    ],
)
async def test_a_relay_that_is_not_there(
    arguments: tuple[str, ...], environ: dict[str, str], complaint: str, run: Run
) -> None:
    assert complaint in await run(*arguments, "streams", status=1, **environ)


async def test_something_else_that_answers(lab: Lab, run: Run) -> None:
    provider = await lab.provider(ok)
    told = await run("--url", provider.url, "streams", status=1)
    assert f"{provider.url} does not answer as a relay does" in told


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["log-level", "loud"], ["end"], [], ["--socket", "a", "--url", "b"]]
)
def test_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments, {})
    assert caught.value.code == 2


async def test_a_drain(lab: Lab, tmp_path: Path, run: Run) -> None:
    simulator = await lab.simulator()
    process = await lab.process(simulator.url, control_socket=f"unix:{tmp_path}/c")
    assert await run("--socket", f"{tmp_path}/c", "drain") == "draining, 0 streams open\n"
    await eventually(lambda: process.returncode == 0, "it ends")
