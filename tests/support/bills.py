"""Answers that a provider plays to the relay, and what the relay makes of them: what its tenant is charged, what the
access log says, and what the client gets."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from ..dialects.frames import split_frames
from .h2_lab import h2_client
from .lab import Lab, Line, RunningRelay, eventually
from .provider import Caller
from .topology import tenant, toml
from .wire import LAST_CHUNK, Wire, chunk, request, response

KEY = "flow-" + "k" * 43
QUOTA = 70_000_000_000
"""Tokens a day: more than anything here can use up, nonsense of providers included."""
PLAY = "x-play"
"""The request's field that names the answer to play."""
SSE = "text/event-stream"
JSON = "application/json"
LINES = "application/x-ndjson"
FRAMES = "application/vnd.amazon.eventstream"
_PROBE = "probe"


@dataclass(frozen=True)
class Answer:
    """What the provider sends, in these pieces."""

    pieces: tuple[bytes, ...]
    kind: str | None = SSE
    """Its content-type; None: it has none."""
    status: str = "200 OK"
    fields: tuple[str, ...] = ()
    framing: str = "chunked"
    """Or "length", or "close": it ends with its connection."""
    ends: bool = True
    """False: the provider hangs up behind the pieces, and the answer is not whole."""
    holds: bool = False
    """The provider waits behind the pieces until the relay hangs up."""

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def cut(self, size: int) -> Answer:
        """The same in pieces of so many bytes."""
        body = self.body
        return replace(self, pieces=tuple(body[at : at + size] for at in range(0, len(body), size)))

    @property
    def head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status}", *self.fields]
        if self.kind is not None:
            lines.append(f"Content-Type: {self.kind}")
        if self.framing == "length":
            lines.append(f"Content-Length: {len(self.body) + (not self.ends)}")
        else:
            lines.append("Connection: close" if self.framing == "close" else "Transfer-Encoding: chunked")
        return "\r\n".join([*lines, "", ""]).encode()


def answer(*pieces: bytes, **more: Any) -> Answer:
    return Answer(pieces, **more)


@dataclass(frozen=True)
class Bill:
    """What came of one request."""

    charge: int
    """Tokens that its tenant's quota lost."""
    line: Line
    """Of the access log."""
    status: int
    fields: dict[str, str]
    body: bytes
    whole: bool
    """Whether the client got a clean end."""
    sent: bytes
    """The request's body as the provider got it."""

    @property
    def input(self) -> int:
        return int(self.line["input_tokens"])

    @property
    def output(self) -> int:
        return int(self.line["output_tokens"])

    @property
    def sums_up(self) -> bool:
        """Whether the charge is what the log says."""
        return self.charge == self.input + self.output


class Till:
    """A relay with one tenant before one provider."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._answers: dict[str, Answer] = {}
        self._sent: dict[str, bytes] = {}
        self._lines: dict[str, Line] = {}
        self._read = 0
        self._left: int | None = None
        self._probes = 0
        self.relay: RunningRelay

    @classmethod
    async def of(
        cls, lab: Lab, folder: Path, *, upstream: dict[str, object] | None = None, more: str = "", **settings: object
    ) -> Till:
        """`upstream`: more of the provider's table in the configuration; `more`: further tables."""
        till = cls(lab)
        provider = await lab.provider(till._serve)
        table = {"url": provider.url} | (upstream or {})
        config = toml(folder, {"only": table}, tenant(KEY, f"tokens_per_day = {QUOTA}") + more)
        till.relay = await lab.relay(None, config=config, **settings)
        return till

    async def play(
        self,
        target: str,
        body: object,
        given: Answer,
        *fields: str,
        method: str = "POST",
        budget: int | None = None,
        leaves: int | None = None,
        http2: bool = False,
    ) -> Bill:
        """Ask for `target`, and get `given`. `leaves`: the client hangs up when it has so many bytes of the body."""
        asked = await self.prepare(given, budget=budget)
        name = asked[PLAY]
        lines = [f"Authorization: Bearer {KEY}", *(f"{field}: {value}" for field, value in asked.items()), *fields]
        data = body if isinstance(body, bytes) else orjson.dumps(body) if body is not None else None
        if data is not None and not any(line.lower().startswith("content-type:") for line in lines):
            lines.append(f"Content-Type: {JSON}")
        ask = self._ask_h2 if http2 else self._ask_h1
        status, heads, got, whole = await ask(method, target, lines, data, leaves)
        charge, line = await self.settled(name)
        return Bill(charge, line, status, heads, got, whole, self._sent.get(name, b""))

    async def prepare(self, given: Answer, *, budget: int | None = None) -> dict[str, str]:
        """The header fields of a request that gets `given`, and is over before another is prepared."""
        if self._left is None:
            self._left = await self._remaining()
        name = str(len(self._answers))
        self._answers[name] = given
        fields = {PLAY: name, "x-request-id": name}
        return fields if budget is None else fields | {"x-flow-max-tokens": str(budget)}

    async def settled(self, name: str) -> tuple[int, Line]:
        """What the request called `name` was charged, and its access line, when it is over."""
        await eventually(lambda: self._line(name) is not None, f"the access line of {name}")
        before = self._left
        assert before is not None
        self._left = await self._remaining()
        return before - self._left, self._lines[name]

    async def metric(self, name: str) -> float:
        """The sum of a counter over its labels."""
        return sum(value for key, value in (await self.relay.metrics()).items() if key.partition("{")[0] == name)

    async def _ask_h1(
        self, method: str, target: str, lines: list[str], data: bytes | None, leaves: int | None
    ) -> tuple[int, dict[str, str], bytes, bool]:
        client = await self._lab.client(self.relay.port)
        await client.send(request(method, target, lines, body=data))
        head = await client.head()
        heads = dict(head.headers)
        if leaves is not None:
            body = await _read_some(client, chunked=head.get("transfer-encoding") is not None, size=leaves)
            client.reset()
            return head.status, heads, body, False
        if method == "HEAD" or head.status == 204:
            return head.status, heads, b"", True
        body, whole = await _read_all(client, head.get("content-length"), head.get("transfer-encoding"))
        client.close()
        return head.status, heads, body, whole

    async def _ask_h2(
        self, method: str, target: str, lines: list[str], data: bytes | None, leaves: int | None
    ) -> tuple[int, dict[str, str], bytes, bool]:
        client = await h2_client(self._lab, self.relay.port)
        fields = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in lines)]
        stream = client.peer.request(method, target, fields, body=data)
        got = client.peer.answers[stream]
        if leaves is not None:
            await client.until(lambda: got.status and (got.ended or len(got.body) >= leaves))
            client.peer.reset(stream)
            await client.flush()
        else:
            await client.answer(stream)
        client.close()
        return got.status, got.headers, got.body, got.whole

    async def _remaining(self) -> int:
        """What is left of the quota, as a request is told that costs nothing: the provider refuses it."""
        self._probes += 1
        client = await self._lab.client(self.relay.port)
        lines = [f"Authorization: Bearer {KEY}", f"{PLAY}: {_PROBE}", f"X-Request-Id: probe-{self._probes}"]
        await client.send(request("POST", "/v1/chat/completions", lines, body=b'{"model":"m","messages":[]}'))
        answered = await client.response()
        client.close()
        return int(answered.get("x-ratelimit-remaining-tokens") or "")

    def _line(self, name: str) -> Line | None:
        output = self.relay.output
        end = output.rfind(b"\n") + 1
        for raw in output[self._read : end].splitlines():
            line = orjson.loads(raw)
            if line["event"] == "access":
                self._lines[line["request_id"]] = line
        self._read = end
        return self._lines.get(name)

    async def _serve(self, caller: Caller) -> None:
        caller.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or the kernel joins the pieces
        while True:
            try:
                asked = await caller.request()
            except EOFError:
                return
            name = asked.get(PLAY) or ""
            if name == _PROBE:
                await caller.send(response(b"{}", status="404 Not Found"))
                continue
            self._sent[name] = asked.body
            if not await self._send(caller, self._answers[name], bodiless=asked.start.startswith("HEAD ")):
                return

    async def _send(self, caller: Caller, given: Answer, *, bodiless: bool) -> bool:
        """Whether the connection may be used again."""
        chunked = given.framing == "chunked"
        try:
            await caller.send(given.head)
            for piece in () if bodiless else given.pieces:
                await caller.send(chunk(piece) if chunked else piece)
                await asyncio.sleep(0)  # for the relay, on the same loop, to read this piece by itself
            if given.holds:
                await caller.receive()
            elif chunked and given.ends and not bodiless and not given.status.startswith("204"):
                await caller.send(LAST_CHUNK)
        except (ConnectionResetError, BrokenPipeError):
            pass
        if given.holds or not given.ends or given.framing == "close":
            caller.close()
            return False
        return True


async def _read_some(client: Wire, *, chunked: bool, size: int) -> bytes:
    """At least so many bytes of a body."""
    body = b""
    while len(body) < size:
        piece = await client.chunk() if chunked else await client.receive()
        if not piece:
            break
        body += piece
    return body


async def _read_all(client: Wire, length: str | None, coding: str | None) -> tuple[bytes, bool]:
    """A body as far as it came, and whether it is whole."""
    body = b""
    try:
        if coding is not None:
            while piece := await client.chunk():
                body += piece
            return body, True
        if length is not None:
            while len(body) < int(length):
                if not (piece := await client.receive()):
                    return body, False
                body += piece
            return body, True
    except (EOFError, ConnectionResetError):
        return body, False
    rest, end = await client.rest()
    return rest, end.value == "closed"


def told(body: bytes) -> tuple[int, int] | None:
    """The last usage that is told in `body`, whatever its format is: tokens of the prompt, with those of its cache, and
    of the answer. None: none is told."""
    found = None
    for value in _json_values(body):
        for report in _reports(value):
            found = _sums(report) or found
    return found


def _json_values(body: bytes) -> Iterator[Any]:
    """The JSON values in server-sent events, lines, frames or a whole text."""
    if body.startswith(b"\0"):
        for _, payload, _ in split_frames(body):
            value = orjson.loads(payload)
            yield orjson.loads(base64.b64decode(value["bytes"])) if "bytes" in value else value
        return
    try:
        yield orjson.loads(body)
        return
    except ValueError:
        pass
    for match in re.finditer(rb"^(?:data: ?)?(\{.*\})\r?$", body, re.MULTILINE):
        with contextlib.suppress(ValueError):
            yield orjson.loads(match[1])


def _reports(value: Any) -> Iterator[dict[str, Any]]:
    """The usage reports in a value, in their order."""
    for each in value if isinstance(value, list) else [value]:
        if not isinstance(each, dict):
            continue
        holders = [each, *(each[name] for name in ("response", "message", "delta") if isinstance(each.get(name), dict))]
        for holder in holders:
            for name in ("usage", "usageMetadata", "amazon-bedrock-invocationMetrics"):
                if isinstance(holder.get(name), dict):
                    yield holder[name]
        if "eval_count" in each:
            yield each


def _sums(report: dict[str, Any]) -> tuple[int, int] | None:
    report = report.get("tokens", report)

    def tally(*names: str) -> int | None:
        found = [report[name] for name in names if isinstance(report.get(name), int)]
        return sum(found) if found else None

    prompt = tally(
        *("prompt_tokens", "input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
        *("promptTokenCount", "prompt_eval_count", "inputTokens", "cacheReadInputTokens", "cacheWriteInputTokens"),
        "inputTokenCount",
    )
    output = tally(
        *("completion_tokens", "output_tokens", "candidatesTokenCount", "thoughtsTokenCount", "eval_count"),
        *("outputTokens", "outputTokenCount"),
    )
    return None if output is None else (prompt or 0, output)
