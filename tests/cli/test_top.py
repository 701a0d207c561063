"""`flowserver top`: what it draws, what keys do, and that it gives the terminal back."""

from __future__ import annotations

import asyncio
import io
import signal
import subprocess
import sys
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from flowserver.cli.top import main
from flowserver.cli.top_state import BACKSPACE, DOWN, ESCAPE, PAGE_DOWN, TopState, keys_of
from flowserver.cli.top_view import middle, number, once, screen, size, span
from flowserver.telemetry.live_views import SORTS, view_of
from tests.support.lab import Lab, RunningRelay, chat, eventually
from tests.support.provider import ok
from tests.support.terminal import LEAVES, SHOWS_CURSOR, Terminal


def stream(number: int, **figures: object) -> dict[str, Any]:
    row: dict[str, Any] = {
        "request_id": f"8778b4079c850910{number:016}",
        "state": "streaming",
        "slow": "provider",
        "age_seconds": 12.5,
        "tokens_per_second": 41.7,
        "tokens": 1234,
        "held_bytes": 0,
        "pauses": 0,
        "paused_seconds": 0.0,
        "bytes_down": 88_000,
        "upstream": "openai",
        "tenant": None,
        "client": "192.0.2.17",
        "model": "gpt-4o-mini-2024-07-18",
    }
    return {**row, **figures}


def live(*rows: dict[str, Any], **parts: object) -> dict[str, Any]:
    upstream = {
        "name": "openai",
        "health": "closed",
        "out": False,
        "open": 12,
        "waiting": 1,
        "places": 50,
        "answers": 990,
        "failed": 10,
        "head_seconds": 400.0,
        "tokens_per_second": 512.0,
    }
    whole: dict[str, Any] = {
        "tenants": [],
        "time": 1000.0,
        "process": {"version": "1.2.3", "workers": 2, "connections": 40, "started_at": 700.0, "draining": False},
        "upstreams": [upstream, {**upstream, "name": "a provider with a very long name", "out": True, "answers": 0}],
        "memory": {"resident_bytes": 90 << 20, "budget_bytes": 512 << 20, "level": "normal"},
        "loop": [{"worker": "0", "lag_ms": 0.4}, {"worker": "1", "lag_ms": 140.0}],
        "ends_by_reason": {"complete": 1200, "client_gone": 3},
        "totals": {
            "streams": len(rows),
            "paused": 1,
            "held_bytes": 8192,
            "tokens_per_second": 512.3,
            "slow": {"client": 1, "provider": 3},
        },
        "view": {"matching": len(rows)},
        "streams": list(rows),
    }
    return {**whole, **parts}


def drawn(renderable: Any, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


# --- what it draws ---


@pytest.mark.parametrize("width", [80, 100, 132, 200])
def test_nothing_is_wider_or_higher_than_the_terminal(width: int) -> None:
    rows = [stream(each, tokens=10**each, held_bytes=10**each, age_seconds=10.0**each) for each in range(9)]
    lines = drawn(screen(live(*rows * 20), TopState(), width=width, height=30), width)
    assert len(lines) == 30
    assert max(map(len, lines)) <= width
    assert "gpt-4o-mini" in "\n".join(lines)


def test_the_header_and_the_rows() -> None:
    rows = [stream(1, state="paused", slow="client", held_bytes=8192, pauses=3), stream(2, slow=None, model=None)]
    lines = drawn(once(live(*rows), TopState(), 80), 80)
    text = "\n".join(lines)
    assert lines[0].startswith("flowserver 1.2.3  up 5m00s  2 workers  40 connections")
    assert "streams 2  paused 1  tokens/s 512  held 8.0K  slow client 1 provider 3" in lines[1]
    assert "memory 90.0M of 512M" in lines[2]
    assert "loop lag 0 140 ms" in lines[2]
    assert " ".join(lines[3].split()) == "● openai open 12/50 wait 1 head 404ms fail 1.0% tok/s 512"
    assert lines[4].startswith("✕ a provider with")
    assert "complete 1,200  client_gone 3" in text
    assert " ".join(lines[-2].split()) == "877…000001 paused client 12.5s 41.7 1,234 8.0K 3 gpt-4o-mini-…"
    assert lines[-1].split()[2] == "-"


def test_more_providers_than_there_is_room_for() -> None:
    [one, _] = live()["upstreams"]
    text = "\n".join(drawn(once(live(upstreams=[{**one, "name": f"p{n}"} for n in range(9)]), TopState(), 80), 80))
    assert "and 3 more providers" in text


def tenant(name: str, **used: float) -> dict[str, Any]:
    limits = [{"name": limit, "models": None, "limit": 20, "used": each, "reserved": 0} for limit, each in used.items()]
    return {"name": name, "streams": 15, "limits": limits}


def test_tenants_are_told_with_the_limits_of_which_least_is_left() -> None:
    acme = tenant("acme", concurrent=3, tokens_per_day=9, usd_per_day=12.5)
    others = [
        tenant("unlimited"),
        tenant("idle", concurrent=0),
        tenant("over", concurrent=19),
        tenant("half", usd_per_month=10),
    ]
    shown = live(tenants=[acme, *others])
    lines = [line.strip() for line in drawn(once(shown, TopState(), 80), 80)]
    names = [line.split()[0] for line in lines[5:8]]
    assert names == ["over", "acme", "half"]
    first = "acme open 15 usd/day $12.50 of $20.00 tokens/day 9 of 20"
    assert " ".join(lines[6].split()) == first
    lines = drawn(once(shown, TopState(), 120), 120)
    assert " ".join(lines[6].split()) == f"{first} concurrent 3 of 20"


def test_the_limit_of_a_model_says_of_which() -> None:
    row = tenant("acme", usd_per_day=0.00002)
    row["limits"][0]["models"] = "gpt-*"
    text = "\n".join(drawn(once(live(tenants=[row]), TopState(), 80), 80))
    assert "usd/day (gpt-*) <$0.0001 of $20.00" in text


@pytest.mark.parametrize(
    ("amount", "shown"),
    [(0, "$0.00"), (1e-9, "<$0.0001"), (0.0312, "$0.0312"), (0.25, "$0.25"), (1234.5, "$1,234.50")],
)
def test_what_a_stream_costs_is_shown_where_there_is_room(amount: float, shown: str) -> None:
    rows = [stream(1, cost_usd=amount), stream(2, cost_usd=None)]
    lines = drawn(once(live(*rows), TopState(), 165), 165)
    assert shown in lines[-2]
    assert "cost" not in "\n".join(drawn(once(live(*rows), TopState(), 150), 150))


def test_it_says_what_keeps_it_from_showing_more() -> None:
    text = "\n".join(drawn(screen(None, TopState(), width=80, height=24, trouble="no relay"), 80))
    assert "no relay; trying again" in text
    text = "\n".join(drawn(screen(None, TopState(), width=80, height=24), 80))
    assert "waiting for the relay" in text


def test_scrolling_ends_with_the_last_row() -> None:
    state = TopState()
    for key in (DOWN, PAGE_DOWN, "j"):
        state.on_key(key)
    assert state.first == 12
    lines = drawn(screen(live(*map(stream, range(40))), state, width=80, height=24), 80)
    assert "000012" in "\n".join(lines)
    assert "000011" not in "\n".join(lines)
    state.first = 1000
    lines = drawn(screen(live(*map(stream, range(40))), state, width=80, height=24), 80)
    assert "000039" in lines[-2]


@given(st.floats(0, 1e13), st.integers(0, 10**8))
def test_figures_are_short(large: float, seconds: int) -> None:
    assert len(size(large)) <= 6
    assert len(span(float(seconds))) <= 6
    assert len(span(seconds / 1e8)) <= 5
    assert len(number(large / 1e4)) <= 7


@given(st.text(min_size=0, max_size=40), st.integers(4, 20))
def test_a_shortened_id_has_both_ends(text: str, width: int) -> None:
    short = middle(text, width)
    assert len(short) <= width
    assert short[0:1] == text[0:1]
    assert short[-1:] == text[-1:]


# --- keys ---


def test_every_order_is_one_that_the_feed_knows() -> None:
    for key in "osntnhpwabcumer":
        state = TopState()
        state.on_key(key)
        assert state.sort.column in SORTS
        assert view_of(f"/live?{state.query(100)}".encode()).sort == state.sort.column


def test_the_same_key_again_turns_the_order() -> None:
    state = TopState()
    for key, wanted in (("t", "-tokens_per_second"), ("t", "tokens_per_second"), ("c", "client"), ("r", "-client")):
        state.on_key(key)
        assert view_of(f"/live?{state.query(9)}".encode())[1:3] == (wanted.lstrip("-"), wanted.startswith("-"))


def test_a_filter_is_typed_and_removed() -> None:
    state = TopState()
    for key in ("/", *"tenant:acmex", BACKSPACE[0], DOWN, "q"):
        state.on_key(key)
    assert (state.typed, state.filter, state.is_over) == ("tenant:acmeq", "", False)
    for key in (BACKSPACE[0], "\r"):
        state.on_key(key)
    assert (state.typed, state.filter) == (None, "tenant:acme")
    assert view_of(f"/live?{state.query(9)}".encode()).words == ("tenant:acme",)
    for key in ("/", "x", ESCAPE):
        state.on_key(key)
    assert (state.typed, state.filter) == (None, "tenant:acme")
    state.on_key(ESCAPE)
    assert state.filter == ""


def test_keys_are_told_apart() -> None:
    assert keys_of("a\x1b[Bq\x1bOA\x1b[5~é") == ["a", DOWN, "q", "\x1b[A", "\x1b[5~", "é"]
    assert keys_of("\x1b") == [ESCAPE]
    assert keys_of("\x1b[") == ["\x1b["]


@given(st.text(alphabet=st.sampled_from("\x1b[O5~Aqt/ \r\x7f"), max_size=30))
def test_whatever_is_typed_is_taken(data: str) -> None:
    state = TopState()
    for key in keys_of(data):
        state.on_key(key)
    view_of(f"/live?{state.query(100)}".encode())


# --- once ---


async def busy(lab: Lab) -> RunningRelay:
    """A relay with two streams."""
    _, relay, client = await lab.simulated(admin_hosts="*")
    await client.send(chat(("x-request-id: first",), events=0, rate=50))
    await client.until(b"tok000003")
    other = await lab.client(relay.port)
    await other.send(chat(("x-request-id: second",), events=0, rate=100))
    await other.until(b"tok000003")
    return relay


async def output(*arguments: str, **environ: str) -> tuple[int, str, str]:
    """Status, standard output and error of a command whose output is no terminal."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "flowserver", "top", *arguments,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"PATH": "/usr/bin", **environ},
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_one_table_and_one_object(lab: Lab) -> None:
    relay = await busy(lab)
    url = f"http://127.0.0.1:{relay.admin_port}"
    status, out, _ = await output("--once", FLOW_ADMIN_LISTEN=f":{relay.admin_port}", COLUMNS="80")
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out
    assert {line.split()[0] for line in out.splitlines()[-2:]} == {"first", "second"}
    status, out, _ = await output("--once", "--json", "--url", url, "--filter", "id:second")
    assert [row["request_id"] for row in orjson.loads(out)["streams"]] == ["second"]
    status, _, err = await output("--url", url)
    assert (status, "--once" in err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--once", "--url", "http://127.0.0.1:9"], "is the relay running?"),
        (["--once", "--socket", "/nowhere/c"], "unix:/nowhere/c can't be reached"),
        (["--once", "--filter", "x " * 9, "--url", "{url}"], "filter: expected at most 8 words"),
        (["--once", "--url", "{other}"], "does not answer as a relay does"),
    ],
)
async def test_a_relay_that_can_t_be_asked(
    lab: Lab, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, relay, _ = await lab.simulated(admin_hosts="*")
    other = await lab.provider(ok)
    given = [each.format(url=f"http://127.0.0.1:{relay.admin_port}", other=other.url) for each in arguments]
    assert await asyncio.to_thread(main, given, {}) == 1
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--json"], ["--interval", "0"], ["--sort", "beauty"], ["--interval", "x"]])
def test_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments, {})
    assert caught.value.code == 2


async def test_without_rich_it_says_what_to_install(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    relay = await busy(lab)
    url = f"http://127.0.0.1:{relay.admin_port}"
    monkeypatch.setattr("flowserver.cli.top.find_spec", lambda name: None)
    assert await asyncio.to_thread(main, ["--once", "--url", url], {}) == 1
    assert "pip install rich" in capsys.readouterr().err


# --- in a terminal ---


async def in_a_terminal(lab: Lab, url: str, *arguments: str, columns: int = 80) -> Terminal:
    terminal = Terminal("top", "--url", url, *arguments, columns=columns)
    lab.on_exit(terminal.close)
    return terminal


async def ended(terminal: Terminal) -> int:
    """The exit status; the terminal must be as it was."""
    await eventually(lambda: terminal.process.poll() is not None, "it ends")
    await eventually(lambda: LEAVES in terminal.output, "it leaves its screen")
    assert terminal.output.rindex(SHOWS_CURSOR) > 0
    assert terminal.settings() == terminal.before
    status = terminal.process.returncode
    assert isinstance(status, int)
    return status


async def test_it_renders_sorts_filters_pauses_and_quits(lab: Lab) -> None:
    relay = await busy(lab)
    terminal = await in_a_terminal(lab, f"http://127.0.0.1:{relay.admin_port}")
    await eventually(lambda: "first" in terminal.text and "second" in terminal.text, "both are shown")
    assert terminal.settings() != terminal.before
    await eventually(lambda: "by trouble 2 streams" in terminal.text)
    terminal.type("t")
    await eventually(lambda: "by tokens/s" in terminal.text and "tok/s▼" in terminal.text, "it sorts")
    terminal.forget()
    terminal.type("/id:second\r")
    await eventually(lambda: "1 streams with 'id:second'" in terminal.text, "it filters")
    terminal.forget()
    terminal.type("\x1b")
    await eventually(lambda: "first" in terminal.text, "it shows all again")
    terminal.type("?")
    await eventually(lambda: "sort by who is slow" in terminal.text, "it helps")
    terminal.type("x ")
    await eventually(lambda: "PAUSED" in terminal.text, "it pauses")
    terminal.forget()
    terminal.resize(30, 140)
    terminal.process.send_signal(signal.SIGWINCH)
    await eventually(lambda: "provider" in terminal.text, "it fills the larger terminal")
    terminal.type("q")
    assert await ended(terminal) == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
async def test_signals_end_it_in_order(lab: Lab, how: signal.Signals) -> None:
    relay = await busy(lab)
    terminal = await in_a_terminal(lab, f"http://127.0.0.1:{relay.admin_port}")
    await eventually(lambda: "second" in terminal.text)
    terminal.process.send_signal(how)
    assert await ended(terminal) == 0


async def test_it_survives_a_restart_of_the_relay(lab: Lab) -> None:
    simulator = await lab.simulator()
    first = await lab.process(simulator.url, admin_hosts="*")
    terminal = await in_a_terminal(lab, f"http://127.0.0.1:{first.admin_port}", "--interval", "1")
    await eventually(lambda: "by trouble 0 streams" in terminal.text)
    first.signal(signal.SIGTERM)
    assert await first.exit_status() == 0
    await eventually(lambda: "trying again" in terminal.text, "it says so")
    second = await lab.process(simulator.url, admin_hosts="*", admin_listen=f"127.0.0.1:{first.admin_port}")
    client = await lab.client(second.port)
    await client.send(chat(("x-request-id: after",), events=0, rate=50))
    await client.until(b"tok000003")
    await eventually(lambda: "after" in terminal.text, "it shows the new one")
    terminal.type("q")
    assert await ended(terminal) == 0
    client.close()
