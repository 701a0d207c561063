"""The terminal of `flowserver top`: takes it over, and gives it back as it was."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from types import FrameType

from rich.console import Console
from rich.live import Live

from .admin_client import AdminClient
from .top_feed import Feed
from .top_state import TopState, keys_of
from .top_view import screen

READ = 1024
ENDING = (signal.SIGTERM, signal.SIGHUP)


class _Ended(Exception):
    """A signal asks for the end."""


def run(client: AdminClient, state: TopState, *, interval: float, rows: int) -> None:
    """Until `q`. `interval`: seconds between two looks; `rows`: streams to ask for."""
    console = Console()
    reading, writing = os.pipe()
    for descriptor in (reading, writing):
        os.set_blocking(descriptor, False)
    with _signals(writing), _keys(sys.stdin.fileno()), Live(console=console, screen=True, auto_refresh=False) as live:
        feed = Feed(client, writing)
        shown, shown_at = None, 0.0
        with contextlib.suppress(_Ended, KeyboardInterrupt):
            while not state.is_over:
                feed.show(state.query(rows))
                now = time.monotonic()
                is_due = shown is None or now - shown_at >= interval - 0.5
                if is_due and not state.is_paused and feed.latest is not shown:
                    shown, shown_at = feed.latest, now
                width, height = console.size
                live.update(screen(shown, state, width=width, height=height, trouble=feed.trouble), refresh=True)
                _wait(reading, state)


def _wait(reading: int, state: TopState) -> None:
    """Until a key is pressed, or there is something new."""
    ready, _, _ = select.select([sys.stdin, reading], [], [])
    if reading in ready:
        os.read(reading, READ)
    if sys.stdin in ready:
        data = os.read(sys.stdin.fileno(), READ)
        if not data:  # the terminal is gone
            state.is_over = True
        for key in keys_of(data.decode("utf-8", "ignore")):
            state.on_key(key)


@contextlib.contextmanager
def _keys(terminal: int) -> Iterator[None]:
    """Keys come one by one, and are not shown. A suspended program would leave the screen behind, so there is none."""
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    changed = termios.tcgetattr(terminal)
    changed[6][termios.VSUSP] = b"\x00"
    termios.tcsetattr(terminal, termios.TCSANOW, changed)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)


@contextlib.contextmanager
def _signals(wake: int) -> Iterator[None]:
    """Signals end it in order; a terminal of another size wakes it."""

    def end(number: int, frame: FrameType | None) -> None:
        raise _Ended

    def resized(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(wake, b"s")

    before = {number: signal.signal(number, end) for number in ENDING}
    before[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, resized)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
