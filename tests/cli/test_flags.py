"""Flags stand in place of variables, in help, at a restart and at a reload; a misspelt one is told with a guess."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

from flowserver.cli.commands import run
from flowserver.cli.flags import shape_of, words_of
from flowserver.config.kinds import ACCESS_LOG, BUFFER_OR_AUTO_OR_OFF, FILE, LOG_LEVEL, SWITCH
from flowserver.config.settings import SETTINGS
from tests.support.lab import Lab, RelayProcess, eventually
from tests.support.provider import ok
from tests.support.wire import request

UPSTREAM = ("--upstream", "http://127.0.0.1:1")


def fails(*arguments: str) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        run(list(arguments))


@pytest.mark.parametrize("command", ["serve", "check"])
def test_help_has_every_setting_and_fits_80_columns(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match=r"^0$"):
        run([command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    told = {match[1] for line in lines if (match := re.match(r"  (--[a-z0-9-]+)", line))}
    assert {entry.flag for entry in SETTINGS} - told == set()
    titles = list(dict.fromkeys(f"{entry.group.title}:" for entry in SETTINGS))
    assert [line for line in lines if line in titles] == titles


def test_a_flag_is_shown_as_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FLOW_LOG_LEVEL", "debug")
    assert run(["check", *UPSTREAM, "--log-level=warn", "--high-water", "64k", "--reuse-port"]) == 0
    lines = {line.split()[0]: line.split()[1:3] for line in capsys.readouterr().out.splitlines() if line[:5] == "FLOW_"}
    assert lines["FLOW_LOG_LEVEL"] == ["warn", "flag"]
    assert lines["FLOW_HIGH_WATER"] == ["64k", "flag"]
    assert lines["FLOW_REUSE_PORT"] == ["on", "flag"]
    assert lines["FLOW_LOW_WATER"] == ["auto", "default"]


@pytest.mark.parametrize("secret", ["sk-1", "redis://:pw@127.0.0.1", "redis://127.0.0.1?password=pw"])
@pytest.mark.parametrize("flag", ["--upstream-api-key", "--redis-url"])
def test_a_secret_is_refused_and_not_repeated(flag: str, secret: str, capsys: pytest.CaptureFixture[str]) -> None:
    fails("check", *UPSTREAM, flag, secret)
    told = capsys.readouterr().err
    assert f"set FLOW_{flag[2:].upper().replace('-', '_')}, or give a reference" in told
    assert secret not in told


def test_a_reference_and_a_url_without_credentials_are_no_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KEY_OF_TEST", "sk-1")
    assert run(["check", *UPSTREAM, "--upstream-api-key=env:KEY_OF_TEST", "--redis-url=redis://127.0.0.1:1"]) == 0
    printed = capsys.readouterr().out
    assert "env:KEY_OF_TEST" in printed
    assert "sk-1" not in printed


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("serve", "--high_water", "1"), "did you mean --high-water?"),
        (("serve", "--FLOW_HIGH_WATER", "1"), "did you mean --high-water?"),
        (("check", "--jsno"), "did you mean --json?"),
        (("serve", "--high", "1"), "unrecognized arguments: --high"),
        (("serve", "FLOW_LISTEN=:1"), "a variable goes before the command"),
        (("tenants", "lsit"), "did you mean list?"),
        (("tenants", "add", "acme", "--limti", "x"), "did you mean --limit?"),
        (("config", "scheme"), "did you mean schema?"),
        (("--listen", ":1", "serve"), "--listen goes after the command"),
        (("serv",), "did you mean serve?"),
        ((), "COMMAND"),
    ],
)
def test_wrong_usage_is_told(arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    fails(*arguments)
    assert told in capsys.readouterr().err


def test_what_help_calls_values() -> None:
    assert [shape_of(kind) for kind in (BUFFER_OR_AUTO_OR_OFF, FILE, SWITCH)] == [
        *("SIZE|auto|off", "PATH|credential:NAME", "on|off")
    ]
    assert words_of(LOG_LEVEL) == ["debug", "info", "warning", "error"]
    assert words_of(ACCESS_LOG) == ["on", "errors", "off"]


async def test_flags_survive_a_restart_and_a_reload(lab: Lab) -> None:
    provider = await lab.provider(ok)
    environ = {"FLOW_UPSTREAM": "http://127.0.0.1:1", "FLOW_WORKERS": "3"}
    process = await lab.process_with(("--upstream", provider.url, "--workers", "2"), environ)
    process.signal(signal.SIGHUP)
    await eventually(lambda: "reloaded" in process.events(), "it reloads")
    assert await _answer(lab, process) == b"ok"
    process.signal(signal.SIGUSR2)
    await eventually(lambda: "handed_over" in process.events(), "it is replaced")
    [over] = [line for line in process.lines if line["event"] == "handed_over"]
    lab.on_exit(lambda: os.kill(int(str(over["successor"])), signal.SIGKILL))
    assert await _answer(lab, process) == b"ok"
    assert [len(line["workers"]) for line in process.lines if line["event"] == "listening"] == [2, 2]


async def _answer(lab: Lab, process: RelayProcess) -> bytes:
    client = await lab.client(process.port)
    await client.send(request())
    return (await client.response()).body


def test_a_reader_that_leaves_is_no_error() -> None:
    """As in `flowserver config schema | head`."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "flowserver", "config", "schema"], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")
