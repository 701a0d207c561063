"""Where log lines go, on real descriptors: closed, full, non-blocking, without a reader."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from subprocess import run

import pytest

from flowserver.telemetry import sink as sink_module
from flowserver.telemetry.sink import ATOMIC, DescriptorSink, NoSink

LINE = b"x" * 699 + b"\n"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "PAUSE", 0.0)


@contextlib.contextmanager
def small_pipe() -> Iterator[tuple[int, int]]:
    """A non-blocking pipe that holds one page."""
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(writer, False)
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def test_each_line_that_a_full_pipe_refuses_is_counted() -> None:
    with small_pipe() as (reader, writer):
        sink = DescriptorSink(writer)
        lost = sum(sink.write([LINE]) for _ in range(40))
        assert os.read(reader, 1 << 20) == LINE * (40 - lost)
        assert 0 < lost < 40
        assert sink.write([LINE]) == 0


def test_lines_go_on_when_the_reader_does() -> None:
    with small_pipe() as (reader, writer):
        sink = DescriptorSink(writer)
        lines = [b"%d\n" % number for number in range(5000)]
        lost = sink.write(lines)
        assert os.read(reader, 1 << 20) == b"".join(lines[: len(lines) - lost])
        assert sink.write(lines[-lost:]) < lost


def test_no_line_begins_in_the_middle_of_another() -> None:
    """One that is longer than a pipe takes at once is written in part; its rest goes first, however late."""
    long = b"y" * 3 * ATOMIC + b"\n"
    with small_pipe() as (reader, writer):
        sink = DescriptorSink(writer)
        lost = sink.write([long, LINE])
        assert lost == 1  # the short one; the long one is under way
        read = b""
        for _ in range(10):
            read += os.read(reader, 1 << 20)
            sink.write([LINE])
        lines = read.split(b"\n")
        assert lines[0] + b"\n" == long
        assert {len(line) for line in lines[1:-1]} == {len(LINE) - 1}


def test_a_socket_that_takes_nothing_more() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        sink = DescriptorSink(ours.fileno())
        lost = sum(sink.write([LINE] * 100) for _ in range(50))
        assert lost > 0
        theirs.close()
        assert sink.write([LINE]) == 1


def test_a_reader_that_is_gone_loses_all() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert DescriptorSink(writer).write([LINE, LINE]) == 2
    os.close(writer)
    assert DescriptorSink(writer).write([LINE]) == 1


def test_a_full_disk_loses_all() -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        assert DescriptorSink(full.fileno()).write([LINE] * 3) == 3


def test_large_batches_reach_a_file_whole(tmp_path: object) -> None:
    path = f"{tmp_path}/log"
    with open(path, "wb") as file:
        assert DescriptorSink(file.fileno()).write([LINE] * 1000) == 0
    with open(path, "rb") as file:
        assert file.read() == LINE * 1000


def test_without_standard_output_all_is_lost() -> None:
    assert NoSink().write([LINE, LINE]) == 2


@pytest.mark.parametrize("closed", ["0", "1", "2", "012"])
def test_nothing_takes_the_place_of_a_closed_standard_stream(closed: str) -> None:
    """A socket there would get what is meant for the stream."""
    program = (
        "import os\n"
        f"for descriptor in {list(map(int, closed))}: os.close(descriptor)\n"
        "from flowserver.telemetry.sink import NoSink, standard_output\n"
        "sink = standard_output()\n"
        f"assert isinstance(sink, NoSink) == {'1' in closed}\n"
        f"assert all(os.readlink(f'/proc/self/fd/{{d}}') == '/dev/null' for d in {list(map(int, closed))})\n"
        "assert os.open('/dev/zero', os.O_RDONLY) > 2\n"
    )
    assert run([sys.executable, "-c", program], check=False, timeout=30).returncode == 0
