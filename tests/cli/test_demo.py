"""The demo: its figures agree with each other, whenever they are taken."""

from __future__ import annotations

import asyncio
import io
import re
from typing import Any

import pytest

from flowserver.cli import demo
from flowserver.cli.demo import Client, Scene
from flowserver.cli.demo_table import GREEN, YELLOW, Display, Row
from flowserver.http.h1_chunked import encode_chunk

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
EVENTS = [b'data: {"text": "tok%06d "}\n\n' % number for number in range(20)]
ANSWER = HEAD + b"".join(map(encode_chunk, EVENTS)) + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 7, 50, 10_000])
def test_a_client_counts_the_body_alone(size: int) -> None:
    client = Client("fast", "", "")
    for start in range(0, len(ANSWER), size):
        client.data_received(ANSWER[start : start + size])
    assert client.finished
    assert client.bytes_read == len(b"".join(EVENTS))
    assert client.events == list(range(20))
    assert client.in_order


async def test_a_stream_that_ends_between_two_looks_has_its_last_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client has read all; /streams no longer has it, and the log's line comes later."""
    ended: dict[str, dict[str, Any]] = {}
    client = Client("fast", "", "")
    scene = Scene([client], 0, 1, 2, 0, ended)
    pages: list[list[dict[str, Any]]] = [[{"request_id": "fast", "bytes_down": 100}], [], []]

    async def get(port: int, path: str) -> Any:
        if port == 2:
            return []
        if len(pages) == 1:
            ended["fast"] = {"request_id": "fast", "bytes_down": 500}
        return pages.pop(0) if pages else []

    monkeypatch.setattr(demo, "_get", get)
    client.bytes_read = 90
    await scene.look()
    assert (scene.read["fast"], scene.streams["fast"]["bytes_down"]) == (90, 100)
    client.bytes_read = 500
    async with asyncio.timeout(5):
        await scene.look()
    assert (scene.read["fast"], scene.streams["fast"]["bytes_down"]) == (500, 500)


def test_as_much_was_pulled_as_was_read_in_all_that_it_shows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "SECONDS", 4.0)
    monkeypatch.setattr(demo, "STALL", (0.5, 1.5))
    monkeypatch.setattr(demo, "LEAVE", 1.0)
    demo.main([])  # too short for what it promises
    out = capsys.readouterr().out
    rows = re.findall(r"^ (fast|slow|stalled|leaving) .*?(\d+\.\d) +(\d+\.\d) +\d+\.\d +\d+ ", out, re.MULTILINE)
    assert len(rows) >= 8
    assert [row for row in rows if float(row[2]) < float(row[1])] == []
    assert {name for name, read, _ in rows if float(read) > 0} == {"fast", "slow", "stalled", "leaving"}


ROWS = [
    Row("fast", "reads at once", 500, 500, 0, 0.0, "streaming"),
    Row("stalled", "stops for 6.5 s", 20_000, 70_000, 2, 12.3, "paused"),
    Row("slow", "reads 40 KB/s", 123_456_789, 123_499_999, 999, 999.9, "cancelled"),
]
MARKS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(out: io.StringIO, environment: dict[str, str]) -> str:
    display = Display(out, environment)
    display.show(1.0, 48_000_000, ROWS)
    display.show(1.5, 48_000_000, ROWS)
    display.show(3.5, 48_000_000, ROWS)
    return out.getvalue()


@pytest.mark.parametrize("environment", [{}, {"TERM": "xterm"}, {"TERM": "xterm", "NO_COLOR": "1"}])
@pytest.mark.parametrize("out", [io.StringIO, Terminal])
def test_the_table_has_room_in_80_columns(out: type[io.StringIO], environment: dict[str, str]) -> None:
    lines = MARKS.sub("", shown(out(), environment)).splitlines()
    assert max(map(len, lines)) <= 80
    row = next(line for line in lines if line.startswith(" stalled"))
    assert " ".join(row.split()) == "stalled stops for 6.5 s 19.5 68.4 48.8 2 12.3 s paused"


def test_a_terminal_has_colours_and_one_table() -> None:
    text = shown(Terminal(), {"TERM": "xterm"})
    assert text.count("\x1b[5A") == 2
    assert f"\x1b[{YELLOW}mpaused\x1b[0m" in text
    assert f"\x1b[{GREEN}mstreaming\x1b[0m" in text


def test_colours_can_be_switched_off() -> None:
    text = shown(Terminal(), {"TERM": "xterm", "NO_COLOR": "1"})
    assert set(MARKS.findall(text)) == {"\x1b[5A", "\x1b[2K"}


@pytest.mark.parametrize("out", [io.StringIO(), Terminal()])
def test_elsewhere_plain_lines_come_every_two_seconds(out: io.StringIO) -> None:
    text = shown(out, {"TERM": "dumb"} if out.isatty() else {"TERM": "xterm"})
    assert "\x1b" not in text
    assert text.count("flowserver demo") == 2
