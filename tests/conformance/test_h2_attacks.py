"""Floods and slow reads over HTTP/2: each is ended early and by name, and an honest client beside it loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from flowserver.simulator import Simulator
from tests.support import h2_frames as frames
from tests.support.h2_lab import ask, h2_client
from tests.support.h2_peer import Goaway, H2Peer
from tests.support.h2_wire import H2Wire
from tests.support.lab import Lab, RunningRelay, eventually, numbers
from tests.support.wire import PATIENCE, Wire

GREETING = frames.PREFACE + frames.settings()
EVENTS = 75
MANY = 20_000


class Attacker:
    """Sends what it is told to and listens for a GOAWAY beside it."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.goaways: list[Goaway] = []
        self.frames: list[frames.Raw] = []
        self._unread = bytearray()
        self._listening = asyncio.ensure_future(self._listen())

    async def send(self, pieces: Iterator[bytes]) -> int:
        """Until the relay ends the connection. Returns how many pieces it could send."""
        sent = 0
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for piece in pieces:
                await self.wire.send(piece)
                sent += 1
                await asyncio.sleep(0)
                if self._listening.done():
                    break
        return sent

    async def ended(self) -> Goaway:
        """The GOAWAY that came before the end."""
        async with asyncio.timeout(PATIENCE):
            await self._listening
        assert self.goaways, "no GOAWAY came"
        return self.goaways[-1]

    async def _listen(self) -> None:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while data := await self.wire.receive():
                self._unread += data
                for raw in frames.split(self._unread):
                    self.frames.append(raw)
                    if raw.kind == frames.GOAWAY:
                        code = int.from_bytes(raw.payload[4:8], "big")
                        self.goaways.append(Goaway(0, code, raw.payload[8:].decode()))

    async def close(self) -> None:
        self._listening.cancel()
        await asyncio.wait([self._listening])
        self.wire.close()


@contextlib.asynccontextmanager
async def _honest(lab: Lab, relay: RunningRelay) -> AsyncIterator[H2Wire]:
    """A client whose streams run all along, and are whole at the end."""
    client = await h2_client(lab, relay.port)
    ids = [ask(client, events=EVENTS, rate=200, id=f"honest{number}") for number in range(5)]
    reading = asyncio.ensure_future(client.until(lambda: all(client.peer.answers[n].whole for n in ids), within=30))
    await eventually(lambda: all(client.peer.answers[number].body for number in ids))
    yield client
    await reading
    assert all(numbers(client.peer.answers[number].body) == list(range(EVENTS)) for number in ids)
    assert client.peer.goaways == []


async def _attacker(lab: Lab, relay: RunningRelay, *, receive_buffer: int | None = None) -> Attacker:
    return Attacker(await lab.client(relay.port, receive_buffer=receive_buffer))


async def _nothing_left(simulator: Simulator, relay: RunningRelay) -> None:
    """No exchange and no provider's request of the attack; only the honest client's."""

    def held() -> bool:
        exchanges = relay.exchanges
        return len(exchanges) <= 5 and simulator.records.totals()["open"] <= 5

    await eventually(held)


def _in_pieces(raw: bytes, size: int = 64 * 1024) -> Iterator[bytes]:
    yield GREETING
    for start in range(0, len(raw), size):
        yield raw[start : start + size]


# --- floods of one kind of frame ---

POST = frames.headers(1, frames.request_fields("POST", "/v1/sink"), end=False)
GET = frames.headers(1, frames.request_fields(path="/v1/models"))
BOMB = b"\x40\x06x-bomb" + b"\x7f" + bytes((0x81, 0x1E)) + b"b" * 4000
"""A field of 4000 bytes into the table; every \xbe names it again."""

FLOODS: dict[str, tuple[str, bytes]] = {
    "ping": ("ping_flood", frames.ping() * MANY),
    "ping-answers": ("ping_flood", frames.ping(ack=True) * MANY),
    "settings": ("settings_flood", frames.settings((frames.INITIAL_WINDOW, 100)) * MANY),
    "empty-settings": ("settings_flood", frames.settings() * MANY),
    "settings-answers": ("settings_flood", frames.settings(ack=True) * MANY),
    "empty-data": ("empty_frame_flood", POST + frames.data(1) * MANY),
    "padded-empty-data": ("empty_frame_flood", POST + frames.data(1, pad=0) * MANY),
    "data-of-a-byte": ("empty_frame_flood", POST + frames.data(1, b"x") * MANY),
    "window-updates": ("window_update_flood", POST + frames.window_update(1, 1) * MANY),
    "connection-window-updates": ("window_update_flood", frames.window_update(0, 1) * MANY),
    "priority": ("priority_flood", frames.priority(1) * MANY),
    "unknown-frames": ("stray_frame_flood", frames.frame(0x42, 0, 1) * MANY),
    "priority-updates": ("stray_frame_flood", frames.frame(0x10, 0, 0, b"\0\0\0\1u=1") * MANY),
    "goaways": ("stray_frame_flood", frames.goaway() * MANY),
    "late-resets": ("stray_frame_flood", frames.headers(1) + frames.rst_stream(1) * MANY),
    "data-on-a-dead-stream": (
        "stray_frame_flood",
        POST + frames.rst_stream(1) + frames.data(1, b"x" * 64) * MANY,
    ),
    "heads-on-a-dead-stream": ("stray_frame_flood", POST + frames.rst_stream(1) + GET * MANY),
    "continuations": (
        "continuation_flood",
        frames.headers(1, flags=0) + frames.frame(frames.CONTINUATION, 0, 1, b"\0\1x\1y") * MANY,
    ),
    "empty-continuations": (
        "continuation_flood",
        frames.headers(1, flags=0) + frames.frame(frames.CONTINUATION, 0, 1) * MANY,
    ),
    "huge-head": (
        "continuation_flood",
        frames.headers(1, flags=0) + frames.frame(frames.CONTINUATION, 0, 1, b"\0\1x\1y" * 3200) * 100,
    ),
    "header-bomb": (
        "enhance_your_calm",
        frames.frame(frames.HEADERS, 5, 1, frames.literals(frames.request_fields()) + BOMB + b"\xbe" * 10_000),
    ),
}


@pytest.mark.parametrize(("reason", "raw"), FLOODS.values(), ids=FLOODS.keys())
async def test_a_flood_is_ended_by_name(lab: Lab, reason: str, raw: bytes) -> None:
    simulator, relay, _ = await lab.simulated()
    async with _honest(lab, relay):
        attacker = await _attacker(lab, relay)
        await attacker.send(_in_pieces(raw))
        goaway = await attacker.ended()
        assert goaway.code == frames.ENHANCE_YOUR_CALM
        assert goaway.reason in (reason, "")  # h2 says nothing to its own
        metrics = await relay.metrics()
        assert metrics[f'flow_h2_goaways_total{{reason="{reason}"}}'] == 1
        await _nothing_left(simulator, relay)
        await attacker.close()


async def test_a_frame_that_is_too_long_is_refused_when_it_is_announced(lab: Lab) -> None:
    _, relay, _ = await lab.simulated()
    attacker = await _attacker(lab, relay)
    await attacker.send(iter([GREETING + frames.frame(frames.DATA, 0, 1, length=(1 << 24) - 1)]))
    assert (await attacker.ended()).code == frames.FRAME_SIZE_ERROR
    await attacker.close()


# --- resets ---


async def test_rapid_resets_start_nothing(lab: Lab) -> None:
    simulator, relay, _ = await lab.simulated()
    async with _honest(lab, relay):
        before = len(simulator.requests)
        attacker = await _attacker(lab, relay)
        pairs = (frames.headers(number) + frames.rst_stream(number) for number in range(1, 2 * MANY, 2))
        await attacker.send(_in_pieces(b"".join(pairs)))
        assert (await attacker.ended()) == Goaway(0, frames.ENHANCE_YOUR_CALM, "reset_flood")
        await _nothing_left(simulator, relay)
        # Where a read ends between a head and its reset the request starts, and is cancelled.
        assert len(simulator.requests) - before <= 10
        await attacker.close()


async def test_resets_in_reads_of_their_own_leave_nothing_behind(lab: Lab) -> None:
    simulator, relay, _ = await lab.simulated()
    async with _honest(lab, relay):
        before = len(simulator.requests)
        attacker = await _attacker(lab, relay)

        def pieces() -> Iterator[bytes]:
            yield GREETING
            for number in range(1, 2 * MANY, 2):
                yield frames.headers(number, frames.request_fields(path="/v1/models"))
                yield frames.rst_stream(number)

        await attacker.send(pieces())
        assert (await attacker.ended()).reason == "reset_flood"
        await _nothing_left(simulator, relay)
        assert len(simulator.requests) - before <= 250
        await attacker.close()


def _made(number: int, provocation: Callable[[int], bytes]) -> bytes:
    fields = frames.request_fields("POST", "/v1/sink", [("content-length", "5")])
    return frames.headers(number, fields, end=False) + provocation(number)


PROVOCATIONS: dict[str, Callable[[int], bytes]] = {
    "window-update-of-nothing": lambda number: frames.window_update(number, 0),
    "window-over-its-maximum": lambda number: frames.window_update(number, 2**31 - 1),
    "data-over-its-length": lambda number: frames.data(number, b"x" * 6),
    "data-under-its-length": lambda number: frames.data(number, b"x", end=True),
    "trailers-without-end": lambda number: frames.headers(number, [("x-sum", "1")], end=False),
    "malformed-trailers": lambda number: frames.headers(number, [("X-Sum", "1")]),
    "head-behind-the-end": lambda number: frames.data(number, b"hello", end=True) + frames.headers(number),
    "data-behind-the-end": lambda number: frames.data(number, b"hello", end=True) + frames.data(number, b"x" * 64),
    "malformed-head": lambda number: frames.headers(number + 2, [("X", "y")]),
}


@pytest.mark.parametrize("provocation", PROVOCATIONS.values(), ids=PROVOCATIONS.keys())
async def test_resets_that_the_relay_is_made_to_send_count_too(lab: Lab, provocation: Callable[[int], bytes]) -> None:
    """MadeYouReset, CVE-2025-8671."""
    simulator, relay, _ = await lab.simulated()
    async with _honest(lab, relay):
        attacker = await _attacker(lab, relay)
        await attacker.send(_in_pieces(b"".join(_made(number, provocation) for number in range(1, 4 * 2000, 4))))
        assert (await attacker.ended()) == Goaway(0, frames.ENHANCE_YOUR_CALM, "reset_flood")
        await _nothing_left(simulator, relay)
        await attacker.close()


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (frames.priority(1, depends_on=1), frames.PROTOCOL_ERROR),
        (frames.frame(frames.PRIORITY, 0, 1, b"1234"), frames.FRAME_SIZE_ERROR),
        (frames.frame(frames.RST_STREAM, 0, 1, b"123"), frames.FRAME_SIZE_ERROR),
        (frames.frame(frames.WINDOW_UPDATE, 0, 1, b"123"), frames.FRAME_SIZE_ERROR),
        (frames.frame(frames.DATA, frames.PADDED, 1, b"\xff1"), frames.PROTOCOL_ERROR),
    ],
    ids=["self-dependency", "short-priority", "short-reset", "short-window-update", "too-much-padding"],
)
async def test_frames_that_are_malformed_by_themselves_end_the_connection(lab: Lab, raw: bytes, code: int) -> None:
    simulator, relay, _ = await lab.simulated()
    attacker = await _attacker(lab, relay)
    await attacker.send(iter([GREETING + POST + raw]))
    assert (await attacker.ended()).code == code
    await eventually(lambda: simulator.records.totals()["open"] == 0)
    await attacker.close()


# --- slow ones ---


@pytest.mark.parametrize("window", [0, 1])
async def test_a_window_that_stays_shut_is_reset_in_time(lab: Lab, window: int) -> None:
    simulator, relay, _ = await lab.simulated(stall_timeout="400ms")
    async with _honest(lab, relay):
        client = await h2_client(lab, relay.port, peer=H2Peer(window=window))
        ids = [ask(client, events=0) for _ in range(50)]
        client.peer.stalled.update(ids)
        await client.until(lambda: all(client.peer.answers[number].reset == frames.CANCEL for number in ids))
        await _nothing_left(simulator, relay)


async def test_a_window_that_opens_by_a_byte_at_a_time_is_a_flood(lab: Lab) -> None:
    simulator, relay, _ = await lab.simulated()
    async with _honest(lab, relay):
        client = await h2_client(lab, relay.port, peer=H2Peer(window=0))
        stream_id = ask(client, events=0)
        client.peer.stalled.add(stream_id)
        await client.until(lambda: client.peer.answers[stream_id].status)
        with contextlib.suppress(EOFError, ConnectionResetError, BrokenPipeError):
            for number in range(MANY):
                client.peer.credit(stream_id, 1)
                await client.until(lambda n=number: len(client.peer.answers[stream_id].body) > n)  # type: ignore[misc]
        assert client.peer.goaways[-1].reason == "window_update_flood"
        await _nothing_left(simulator, relay)


async def test_a_client_that_reads_nothing_while_it_makes_the_relay_answer_is_ended(lab: Lab) -> None:
    """It is not read once much waits for it, so it stalls. How much that is, is tested without sockets."""
    limits = dict.fromkeys(("h2_max_pings", "h2_max_settings"), 10**9)
    _, relay, _ = await lab.simulated(stall_timeout="1s", **limits)
    totals = relay.relay.metrics.h2
    wire = await lab.client(relay.port, receive_buffer=4096)
    await wire.send(GREETING)
    await eventually(lambda: totals.connections == 1)

    async def flood() -> None:
        while True:
            await wire.send(frames.ping() * 500)

    flooding = asyncio.ensure_future(flood())
    await eventually(lambda: totals.connections == 0, "the stall timeout ends it")
    flooding.cancel()
    await asyncio.wait([flooding])
    assert totals.goaways == {}


async def test_many_half_open_uploads_are_bounded_together(lab: Lab) -> None:
    _, relay, _ = await lab.simulated(h2_connection_window="256k")
    async with _honest(lab, relay):
        client = await h2_client(lab, relay.port)
        headers = [("content-length", "10000000"), ("x-simulate", "read_after=60")]
        ids = [client.peer.request("POST", "/v1/sink", headers, end=False) for _ in range(100)]
        await client.flush()
        await eventually(lambda: len(relay.relay.metrics.open) == 105)
        sent = 0
        reading = asyncio.ensure_future(client.until(lambda: False))
        for _ in range(5):
            for number in ids:
                while room := client.peer.room(number):
                    client.peer.upload(number, b"x" * room)
                    sent += room
            await client.flush()
            await asyncio.sleep(0.05)
        reading.cancel()
        await asyncio.wait([reading])
        taken = sum(exchange.bytes_up for exchange in relay.exchanges)
        assert sent - taken <= 256 * 1024
        client.close()
        await eventually(lambda: len(relay.relay.metrics.open) <= 5)


async def test_a_head_that_never_ends_is_ended(lab: Lab) -> None:
    _, relay, _ = await lab.simulated(head_timeout="200ms")
    for raw in (frames.PREFACE[:10], GREETING[:-4], GREETING + frames.headers(1, flags=0)):
        wire = await lab.client(relay.port)
        await wire.send(raw)
        await wire.rest()
