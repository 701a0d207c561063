"""`flowserver check --connect` and `--json`, with real sockets at the other end."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from flowserver.cli.commands import run
from flowserver.cli.connect import Finding, findings
from flowserver.config.environment import load
from flowserver.config.file import load_topology
from tests.support.h2_lab import Certificates
from tests.support.lab import Lab, free_port
from tests.support.provider import ok
from tests.support.redis import RedisServer
from tests.support.topology import toml
from tests.support.wire import request

NOWHERE = {"FLOW_LISTEN": "127.0.0.1:0", "FLOW_ADMIN_LISTEN": "off"}


def _serving(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    context.set_alpn_protocols(["http/1.1"])
    return context


async def found(**settings: object) -> dict[str, Finding]:
    """By what was tried; the last one where there are several."""
    environ = {f"FLOW_{name.upper()}": str(value) for name, value in settings.items()}
    config = load(NOWHERE | {"FLOW_UPSTREAM": "http+unix://%2Fnone.sock"} | environ)
    return {finding.what: finding for finding in await findings(config, load_topology(config, {"KEY": "sk-1"}))}


async def test_what_is_there_is_ok(lab: Lab, tmp_path: Path) -> None:
    provider = await lab.provider(ok)
    certificates = Certificates(tmp_path)
    secure = await lab.simulator(tls=_serving(certificates))
    key = "[[upstreams]]\nname = 'keyed'\nurl = 'http://127.0.0.1:1'\napi_key = 'env:KEY'"
    file = toml(tmp_path, {"plain": provider.url, "secure": secure.url.replace("127.0.0.1", "localhost")}, key)
    told = await found(upstream="", config=file, upstream_ca=certificates.authority)
    assert {what: finding.ok for what, finding in told.items()} == {
        "FLOW_CONFIG": True,
        "FLOW_UPSTREAM_CA": True,
        "FLOW_LISTEN": True,
        "upstream plain": True,
        "upstream secure": True,
        "upstream keyed": False,
    }
    assert "without TLS" in told["upstream plain"].text
    assert "TLSv1.3, http/1.1, certificate until " in told["upstream secure"].text
    assert "is 1 its port" in told["upstream keyed"].remedy
    assert provider.requests == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_certificate_of_an_unknown_authority(lab: Lab, tmp_path: Path, host: str) -> None:
    secure = await lab.simulator(tls=_serving(Certificates(tmp_path)))
    [finding] = [each for each in (await found(upstream=secure.url.replace("127.0.0.1", host))).values() if not each.ok]
    assert "certificate that is not trusted" in finding.text
    assert "FLOW_UPSTREAM_CA" in finding.remedy


async def test_a_plain_port_for_tls(lab: Lab) -> None:
    simulator = await lab.simulator()
    told = await found(upstream=simulator.url.replace("http:", "https:"))
    assert "does it speak TLS on this port?" in told["upstream 127.0.0.1"].remedy


async def test_a_provider_that_never_answers_takes_a_few_seconds_and_delays_no_other(lab: Lab, tmp_path: Path) -> None:
    """Its handshake is not answered: somebody listens, and never accepts."""
    provider = await lab.provider(ok)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        file = toml(tmp_path, {"a": f"https://127.0.0.1:{silent.getsockname()[1]}", "b": provider.url})
        began = time.monotonic()
        told = await found(upstream="", config=file, connect_timeout="500ms")
    assert time.monotonic() - began < 60
    assert not told["upstream a"].ok
    assert "did not answer within 0.5 s" in told["upstream a"].text
    assert told["upstream b"].ok


async def test_a_name_that_dns_does_not_know() -> None:
    [finding] = [
        each for each in (await found(upstream="http://nobody.invalid")).values() if each.what[:8] == "upstream"
    ]
    assert not finding.ok
    assert "nobody.invalid" in finding.text


async def test_a_running_relay_is_known_and_not_disturbed(lab: Lab, tmp_path: Path) -> None:
    provider = await lab.provider(ok)
    process = await lab.process(provider.url, listen=f"127.0.0.1:0,unix:{tmp_path}/a.sock", reuse_port="off")
    told = await found(upstream=provider.url, listen=f"unix:{tmp_path}/a.sock", admin_listen=f":{process.port}")
    for what in ("FLOW_LISTEN", "FLOW_ADMIN_LISTEN"):
        assert told[what].ok
        assert f"is in use by a relay, process {process.pid} (" in told[what].text
    client = await lab.client(process.port)
    await client.send(request())
    assert (await client.response()).body == b"ok"


async def test_addresses_that_can_t_be_listened_on(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        taken = (await found(listen=f"127.0.0.1:{port}"))["FLOW_LISTEN"]
    assert (taken.ok, taken.text) == (False, f"127.0.0.1:{port} is in use")
    assert f"end process {os.getpid()} (" in taken.remedy
    for listen, remedy in (
        ("192.0.2.1:80", "choose one of its own"),
        (f"unix:{tmp_path}/none/a.sock", f"create the folder {tmp_path}/none"),
        (f"unix:{tmp_path}/file", "remove the file"),
        ("a..b:80", "choose another address"),
    ):
        told = (await found(listen=listen))["FLOW_LISTEN"]
        assert not told.ok
        assert remedy in told.remedy


async def test_a_port_of_a_group_is_free_for_another_member() -> None:
    with socket.socket() as member:
        member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        member.bind(("127.0.0.1", 0))
        member.listen()
        listen = f"127.0.0.1:{member.getsockname()[1]}"
        assert (await found(listen=listen, reuse_port="on"))["FLOW_LISTEN"].ok
        assert not (await found(listen=listen))["FLOW_LISTEN"].ok


async def test_redis_answers_and_runs_scripts_or_says_why_not(tmp_path: Path) -> None:
    server = RedisServer(free_port(), str(tmp_path))
    server.start()
    try:
        assert (await found(redis_url=server.url))["FLOW_REDIS_URL"].ok
        with redis.Redis(port=server.port) as client:
            client.execute_command("ACL", "SETUSER", "poor", "on", ">pw", "~flow:*", "+ping", "+auth", "+hello")
        told = (await found(redis_url=f"redis://poor:pw@127.0.0.1:{server.port}"))["FLOW_REDIS_URL"]
        assert not told.ok
        assert "EVAL" in told.remedy
        wrong = (await found(redis_url=f"redis://poor:wrong@127.0.0.1:{server.port}"))["FLOW_REDIS_URL"]
        assert "give user and password" in wrong.remedy
        assert "wrong@" not in str(wrong)
    finally:
        server.stop()
    assert "is Redis running there" in (await found(redis_url=server.url))["FLOW_REDIS_URL"].remedy


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str, status: int) -> dict[str, Any]:
    assert run(["check", "--json", *arguments]) == status
    page: dict[str, Any] = orjson.loads(capsys.readouterr().out)
    return page


def test_everything_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KEY_OF_TEST", "sk-secret")
    monkeypatch.setenv("FLOW_LOG_LEVEL", "debug")
    rest = "api_key = 'env:KEY_OF_TEST'\n[[routes]]\nmodels = ['m-*']\nupstreams = ['a']\n"
    rest += f"[[tenants]]\nname = 'acme'\nkey_sha256 = '{'ab' * 32}'\ntokens_per_day = 5\nusd_per_day = 2.5\n"
    rest += "[[prices]]\nmodels = ['m-*']\ninput = 1\noutput = 1\n"
    file = toml(tmp_path, {"a": "http://127.0.0.1:1"}, rest)
    page = as_json(capsys, "--config", file, "--connect", "--listen=127.0.0.1:0", "--admin-listen=off", status=1)
    assert (page["ok"], page["problems"]) == (False, [])
    settings = {each["name"]: each for each in page["settings"]}
    assert [settings[f"FLOW_{name}"]["origin"] for name in ("CONFIG", "LOG_LEVEL", "WORKERS")] == [
        *("flag", "environment", "default")
    ]
    assert page["upstreams"][0]["key"] == "the relay's key"
    assert page["routes"] == [
        {"path": "*", "models": ["m-*"], "upstreams": [["a"]], "class": "interactive", "affinity": "none"}
    ]
    assert (page["tenants"][0]["keys"], page["tenants"][0]["limits"]) == (
        1,
        {"tokens_per_day": 5, "usd_per_day": "2.5"},
    )
    assert page["prices"] == 1
    assert {each["what"]: each["ok"] for each in page["connections"]} == {
        "FLOW_CONFIG": True,
        "FLOW_LISTEN": True,
        "upstream a": False,
    }
    text = str(page)
    assert "sk-secret" not in text
    assert "abab" not in text


def test_problems_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FLOW_UPSTREAM_API_KEY", "sk-secret")
    page = as_json(capsys, "--high-water=lots", "--upstream=a.test", status=78)
    assert [problem.partition(":")[0] for problem in page["problems"]] == ["--upstream", "--high-water"]
    assert [each["value"] for each in page["settings"] if each["name"] == "FLOW_UPSTREAM_API_KEY"] == ["(set)"]
    assert "sk-secret" not in str(page)


def test_the_event_loop_is_not_needed_before(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["check", "--connect", "--upstream=http://127.0.0.1:1", "--listen=127.0.0.1:0", "--admin-listen=off"]
    assert run(arguments) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("failed  upstream 127.0.0.1: ")
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
